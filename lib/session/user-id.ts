// Finds the user that a session belongs to. Pure.
import type { Session } from '../types/session-store.js'
import { describe } from '../util/validate.js'
import { isStorable } from './session-id.js'

/** Fits into an entry of PostgreSQL's b-tree index, with room to spare. */
const maxUserIdLength = 512

/**
 * The default of the option `userId`. Returns the first usable id where applications keep it: `userId`, `user.id` (most
 * of them), `passport.user` (koa-passport).
 */
export function defaultUserId(session: Session): unknown {
  return (
    usableId(session.userId) ??
    usableId(attribute(session.user, 'id')) ??
    usableId(attribute(session.passport, 'user'))
  )
}

function attribute(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined
}

function usableId(id: unknown): unknown {
  if (id === undefined || id === null) return undefined
  // An ObjectId is an object at the first save, and text once the session was loaded.
  const toJson = typeof id === 'object' ? attribute(id, 'toJSON') : undefined
  const plain: unknown = typeof toJson === 'function' ? Reflect.apply(toJson, id, []) : id
  return (typeof plain === 'string' ? isUsable(plain) : Number.isFinite(plain)) ? plain : undefined
}

function isUsable(text: string): boolean {
  return text !== '' && text.length <= maxUserIdLength && isStorable(text)
}

/**
 * Returns a user's id as the table stores it. Throws a `TypeError` or `RangeError` that begins with `what` and ends with what
 * `describeId` makes of the id.
 */
export function toUserId(id: unknown, what: string, describeId = describe): string {
  if (typeof id !== 'string' && !Number.isFinite(id))
    throw new TypeError(`${what} must be a string or a finite number; received ${describeId(id)}`)
  const text = `${id}`
  if (typeof id === 'string' && !isUsable(id))
    throw new RangeError(
      `${what} must have 1 to ${maxUserIdLength} characters that PostgreSQL can store; received ${describeId(id)}`,
    )
  return text
}

/** Quotes nothing: what the option returned is a part of a session. */
function describeType(id: unknown): string {
  if (typeof id === 'string') return `a string of ${id.length} characters`
  if (typeof id === 'number' || typeof id === 'boolean') return String(id)
  if (Array.isArray(id)) return 'an array'
  return typeof id === 'object' ? 'an object' : `a ${typeof id}`
}

/** Returns the user id that the option `userId` finds in a session. */
export function findUserId(userId: (session: Session) => unknown, session: Session): string | undefined {
  const id = userId(session)
  // It has checked what it returns.
  if (userId === defaultUserId) return id === undefined ? undefined : `${id}`
  return id === undefined || id === null || id === ''
    ? undefined
    : toUserId(id, 'the result of the option "userId"', describeType)
}
