// Session ids: creating, checking and hashing them. Pure.
import { hash, randomBytes } from 'node:crypto'

// A b-tree entry has at most 2704 bytes.
const maxRawIdLength = 1024

/** What PostgreSQL's text can't hold: NUL, and halves of characters. */
const unstorable = /[\0\ud800-\udfff]/u

/** Stands between ids, or sessions, on their way to PostgreSQL: JSON never has it, and no id that we take. */
export const separator = '\x1e'

/** Whether this is what the table holds for an id. A raw id that looks like it is nobody's. */
function isDigest(id: string): boolean {
  return id.startsWith('sha256:') && id.length === 50
}

/** A new session id: 192 random bits in 32 characters. */
export function createId(): string {
  return randomBytes(24).toString('base64url')
}

/**
 * A session id as a table of raw ids would hold it, `undefined` if no such table can hold it. One that has the form of
 * a digest is refused too: otherwise what is read in the table could be presented as a cookie.
 */
export function rawId(sid: string): string | undefined {
  return sid.length <= maxRawIdLength && isStorable(sid) && !isDigest(sid) ? sid : undefined
}

/** Whether a statement can take it for an id. */
export function isStorable(id: string): boolean {
  return !unstorable.test(id) && !id.includes(separator)
}

/** Throws a `TypeError` if `sid` can't be a session id. Never quotes it: ids are secrets. */
export function assertSessionId(sid: unknown): asserts sid is string {
  if (typeof sid !== 'string')
    throw new TypeError(`session id must be a string; received ${sid === null ? 'null' : typeof sid}`)
  if (sid === '') throw new TypeError('session id must not be empty')
}

/** What payloads call a session: its digest, whatever the table calls it. It opens nothing. */
export function digestOf(sid: string): string {
  return hash('sha256', sid, 'base64url')
}

/** The same of the id that the table has. It is also what users and operators are told of a session. */
export function handleOf(id: string): string {
  return isDigest(id) ? id.slice('sha256:'.length) : digestOf(id)
}
