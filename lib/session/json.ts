// A session and its id on their way into a row and out of it: pure functions, no I/O.
import { randomBytes } from 'node:crypto'
import { describe, SessionTooLargeError } from '../types/errors.js'
import type { Session, Ttl } from '../types/session-store.js'

/** The longest life, in ms. */
export const century = 100 * 365.25 * 24 * 60 * 60 * 1000

// A b-tree entry has at most 2704 bytes.
const longestRawId = 1024

/** What PostgreSQL's text can't hold: NUL, and halves of characters. */
const unstorable = /[\0\ud800-\udfff]/u

/** Stands between ids, or sessions, on their way to PostgreSQL: JSON never has it, and no id that we take. */
export const separator = '\x1e'

/** Whether this is what the table holds for an id. A raw id that looks like it is nobody's. */
export function isDigest(id: string): boolean {
  return id.startsWith('sha256:') && id.length === 50
}

/** A new session id: 192 random bits in 32 characters. */
export function newId(): string {
  return randomBytes(24).toString('base64url')
}

/**
 * A session id as a table of raw ids would hold it, `undefined` if no such table can hold it. One that has the form of
 * a digest is refused too: otherwise what is read in the table could be presented as a cookie.
 */
export function rawId(sid: string): string | undefined {
  return sid.length <= longestRawId && isStorable(sid) && !isDigest(sid) ? sid : undefined
}

/** Whether a statement can take it for an id. */
export function isStorable(id: string): boolean {
  return !unstorable.test(id) && !id.includes(separator)
}

/** Throws a `TypeError` if `sid` can't be a session id. Never quotes it: ids are secrets. */
export function checkId(sid: unknown): asserts sid is string {
  if (typeof sid !== 'string')
    throw new TypeError(`session id must be a string; received ${sid === null ? 'null' : typeof sid}`)
  if (sid === '') throw new TypeError('session id must not be empty')
}

/** How many milliseconds a session is to live from now on; see `Ttl`. Throws a `TypeError` for anything else. */
export function lifetime(ttl: Ttl, fallback: number, maxLifetime = century): number {
  if (ttl === undefined || ttl === null || ttl === 'session' || Number.isNaN(ttl))
    return Math.min(fallback, maxLifetime)
  if (typeof ttl !== 'number')
    throw new TypeError(`ttl must be a number of milliseconds; received ${describe(ttl)}`)
  return Math.max(0, Math.min(Math.ceil(ttl), maxLifetime, century))
}

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
export function encode(session: unknown, { maxBytes, maxAttributeBytes }: Sizes = unlimited): string {
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
export function decode(text: string): Session | undefined {
  const value: unknown = JSON.parse(text)
  return typeof value === 'object' && value !== null ? (value as Session) : undefined
}

/**
 * A deep copy of what `decode` answered. Three times as fast as parsing the text again (bench/experiments/copy.ts); an own
 * `__proto__` stays one.
 */
export function copy<T extends object>(value: T): T {
  if (Array.isArray(value)) {
    const list: unknown[] = value.slice()
    for (let i = 0; i < list.length; i++) {
      const item = list[i]
      if (typeof item === 'object' && item !== null) list[i] = copy(item)
    }
    return list as T
  }
  const object = { ...value } as Record<string, unknown>
  for (const key in object) {
    const item = object[key]
    if (typeof item === 'object' && item !== null) object[key] = copy(item)
  }
  return object as T
}
