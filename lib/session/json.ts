// Serializes, parses and clones sessions. Pure.
import { SessionTooLargeError } from '../types/errors.js'
import type { Session } from '../types/session-store.js'

/** The largest session, and the largest attribute, in bytes of JSON in UTF-8. */
export interface SizeLimits {
  readonly maxBytes: number
  readonly maxAttributeBytes: number | undefined
}

const unlimited: SizeLimits = { maxBytes: Number.POSITIVE_INFINITY, maxAttributeBytes: undefined }

/**
 * Returns a session as JSON. Throws a `SessionTooLargeError`, or a `TypeError` for what can't be stored as a JSON object;
 * its message names the attribute, never its content.
 */
export function serialize(session: unknown, { maxBytes, maxAttributeBytes }: SizeLimits = unlimited): string {
  // Error messages quote nothing of a session: name only its type.
  const kind = session === null ? 'null' : Array.isArray(session) ? 'an array' : typeof session
  if (kind !== 'object') throw new TypeError(`session must be an object; received ${kind}`)
  // koa-generic-session's saveSession passes one with `defer`. JSON.stringify would turn it into an empty session.
  if (typeof Reflect.get(session as object, 'then') === 'function')
    throw new TypeError('session must be an object; received a promise')
  const json = stringify(session as object)
  if (json?.[0] !== '{')
    throw new TypeError(`session must be a JSON object; its toJSON() returns something else`)
  // A UTF-16 code unit takes at most three bytes in UTF-8, so most sessions need not be measured.
  if (json.length * 3 > maxBytes) {
    const bytes = Buffer.byteLength(json)
    if (bytes > maxBytes) throw new SessionTooLargeError(bytes, maxBytes)
  }
  if (maxAttributeBytes !== undefined && json.length * 3 > maxAttributeBytes)
    for (const [name, value] of Object.entries(JSON.parse(json) as Session)) {
      const bytes = Buffer.byteLength(JSON.stringify(value))
      if (bytes > maxAttributeBytes) throw new SessionTooLargeError(bytes, maxAttributeBytes, name)
    }
  return json
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

/** Returns the session in a JSON text, or `undefined` if it isn't an object: other software may have written it. */
export function parse(json: string): Session | undefined {
  const value: unknown = JSON.parse(json)
  return typeof value === 'object' && value !== null ? (value as Session) : undefined
}

/**
 * Returns a deep copy of a parsed session. Three times as fast as parsing the text again (see bench/experiments/copy.ts). The
 * copy is to be given a private field, which V8 adds twenty times slower to the result of a spread. But `Object.assign` can't
 * copy an own property named `__proto__`.
 */
export function clone<T extends object>(session: T): T {
  if (Array.isArray(session) || Object.hasOwn(session, '__proto__')) return copyOf(session)
  return withCopies(Object.assign({}, session))
}

function copyOf<T extends object>(value: T): T {
  if (!Array.isArray(value)) return withCopies({ ...value })
  const list: unknown[] = value.slice()
  for (let i = 0; i < list.length; i++) {
    const item = list[i]
    if (typeof item === 'object' && item !== null) list[i] = copyOf(item)
  }
  return list as T
}

/** Replaces the objects in an object by copies. */
function withCopies<T extends object>(object: T): T {
  const attributes = object as Record<string, unknown>
  for (const key in attributes) {
    const item = attributes[key]
    if (typeof item === 'object' && item !== null) attributes[key] = copyOf(item)
  }
  return object
}
