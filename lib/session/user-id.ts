// Whose a session is. Pure.

import type { Session } from '../types/session-store.js'
import { describe } from '../util/validate.js'
import { isStorable } from './session-id.js'

/** What a b-tree entry holds, with room to spare. */
const maxUserIdLength = 512

/** Where applications keep it: `userId`, `user.id` (most), `passport.user` (koa-passport). A guess: what can't be one isn't. */
export function defaultUserId(session: Session): unknown {
  return (
    usable(session.userId) ??
    usable(attribute(session.user, 'id')) ??
    usable(attribute(session.passport, 'user'))
  )
}

function attribute(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined
}

function usable(id: unknown): unknown {
  if (id === undefined || id === null) return undefined
  // As a session that is loaded has it: an ObjectId is text there.
  const toJson = typeof id === 'object' ? attribute(id, 'toJSON') : undefined
  const plain: unknown = typeof toJson === 'function' ? Reflect.apply(toJson, id, []) : id
  return (typeof plain === 'string' || Number.isFinite(plain)) && isUsable(`${plain}`) ? plain : undefined
}

function isUsable(text: string): boolean {
  return text !== '' && text.length <= maxUserIdLength && isStorable(text)
}

/** A user's id as the table has it. Throws a `TypeError` or `RangeError`, naming `what`, for what can't be one. */
export function toUserId(id: unknown, what: string): string {
  if (typeof id !== 'string' && !Number.isFinite(id))
    throw new TypeError(`${what} must be a string or a finite number; received ${describe(id)}`)
  const text = `${id}`
  if (!isUsable(text))
    throw new RangeError(
      `${what} must have 1 to ${maxUserIdLength} characters that PostgreSQL can hold; received ${describe(id)}`,
    )
  return text
}

/** Applies the option `userId` to a session. */
export function findUserId(option: (session: Session) => unknown, session: Session): string | undefined {
  const id = option(session)
  return id === undefined || id === null || id === ''
    ? undefined
    : toUserId(id, 'what the option "userId" answers')
}
