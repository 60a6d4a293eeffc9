// A session as JSON: writing, reading and cloning it. Pure.
import { SessionTooLargeError } from '../types/errors.js'
import type { Session } from '../types/session-store.js'

/** How large, in bytes of JSON in UTF-8, a session and each of its attributes may be. */
export interface Sizes {
  readonly maxBytes: number
  readonly maxAttributeBytes: number | undefined
}

const unlimited: Sizes = { maxBytes: Number.POSITIVE_INFINITY, maxAttributeBytes: undefined }

/**
 * A session as JSON. Throws a `TypeError` for what isn't an object that JSON can hold, naming the attribute and not its
 * content, and a `SessionTooLargeError`.
 */
export function serialize(session: unknown, { maxBytes, maxAttributeBytes }: Sizes = unlimited): string {
  // Its kind, not itself: what is in a session isn't for error messages.
  const kind = session === null ? 'null' : Array.isArray(session) ? 'an array' : typeof session
  if (kind !== 'object') throw new TypeError(`session must be an object; received ${kind}`)
  // As koa-generic-session's saveSession gives it with `defer`; JSON would make an empty session of it.
  if (typeof Reflect.get(session as object, 'then') === 'function')
    throw new TypeError('session must be an object; received a promise')
  const text = stringify(session as object)
  if (text?.[0] !== '{')
    throw new TypeError(`session must become a JSON object; its toJSON() answers otherwise`)
  // No character of UTF-16 takes more than three bytes of UTF-8: most sessions needn't be measured.
  if (text.length * 3 > maxBytes) {
    const bytes = Buffer.byteLength(text)
    if (bytes > maxBytes) throw new SessionTooLargeError(bytes, maxBytes)
  }
  if (maxAttributeBytes !== undefined && text.length * 3 > maxAttributeBytes)
    for (const [name, value] of Object.entries(JSON.parse(text) as Session)) {
      const bytes = Buffer.byteLength(JSON.stringify(value))
      if (bytes > maxAttributeBytes) throw new SessionTooLargeError(bytes, maxAttributeBytes, name)
    }
  return text
}

function stringify(session: object): string | undefined {
  try {
    return JSON.stringify(session)
  } catch (error) {
    const attribute = Object.keys(session).find((name) => !canStringify(() => Reflect.get(session, name)))
    const what = attribute === undefined ? 'session' : `session attribute ${JSON.stringify(attribute)}`
    throw new TypeError(`${what} can't be stored as JSON: ${(error as Error).message}`)
  }
}

function canStringify(value: () => unknown): boolean {
  try {
    JSON.stringify(value())
    return true
  } catch {
    return false
  }
}

/** The session that `encode` wrote: an object of the caller's own. Other software may have written no object at all. */
export function parse(text: string): Session | undefined {
  const value: unknown = JSON.parse(text)
  return typeof value === 'object' && value !== null ? (value as Session) : undefined
}

/**
 * A deep copy of what `decode` answered. Three times as fast as parsing the text again (bench/experiments/copy.ts); an own
 * `__proto__` stays one.
 */
export function clone<T extends object>(value: T): T {
  if (Array.isArray(value)) {
    const list: unknown[] = value.slice()
    for (let i = 0; i < list.length; i++) {
      const item = list[i]
      if (typeof item === 'object' && item !== null) list[i] = clone(item)
    }
    return list as T
  }
  const object = { ...value } as Record<string, unknown>
  for (const key in object) {
    const item = object[key]
    if (typeof item === 'object' && item !== null) object[key] = clone(item)
  }
  return object as T
}
