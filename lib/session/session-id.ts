// Session ids: creates, validates and hashes them. Pure.
import { hash, randomBytes } from 'node:crypto'

/** An entry of PostgreSQL's b-tree index has at most 2704 bytes. */
const maxRawIdLength = 1024

/** What PostgreSQL's type text can't hold: NUL and lone surrogates. */
const unstorable = /[\0\ud800-\udfff]/u

/** Separates ids, or sessions, that are sent as one parameter. Neither JSON nor a valid id contains it. */
export const separator = '\x1e'

/** Whether a stored id is a digest. No raw id has this form; see `rawId`. */
function isHashed(storedId: string): boolean {
  return storedId.startsWith('sha256:') && storedId.length === 50
}

/** Returns a new session id: 192 random bits in 32 characters. */
export function createId(): string {
  return randomBytes(24).toString('base64url')
}

/**
 * Returns a session id as a table of raw ids stores it, or `undefined` if it can't be stored. A sid in the form of a
 * stored digest is refused too: otherwise a stored id could be presented as a cookie.
 */
export function rawId(sid: string): string | undefined {
  return sid.length <= maxRawIdLength && isStorable(sid) && !isHashed(sid) ? sid : undefined
}

/** Whether an id can be sent as a parameter. */
export function isStorable(id: string): boolean {
  return !unstorable.test(id) && !id.includes(separator)
}

/** Throws a `TypeError` if `sid` can't be a session id. Ids are secrets: the message doesn't quote it. */
export function assertSessionId(sid: unknown): asserts sid is string {
  if (typeof sid !== 'string')
    throw new TypeError(`session id must be a string; received ${sid === null ? 'null' : typeof sid}`)
  if (sid === '') throw new TypeError('session id must not be empty')
}

/** Returns the digest of a session id. Notifications use it even if the table has raw ids, as it opens no session. */
export function digestOf(sid: string): string {
  return hash('sha256', sid, 'base64url')
}

/** Returns the digest for a stored id. Users and operators know it as the session's handle. */
export function handleOf(storedId: string): string {
  return isHashed(storedId) ? storedId.slice('sha256:'.length) : digestOf(storedId)
}
