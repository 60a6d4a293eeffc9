// Whose a session is. Pure.
import { describe } from './errors.js'
import { separator } from './record.js'
import type { Session } from './types.js'

/** What a b-tree entry holds, with room to spare. */
const longest = 512

/** Where applications keep it: `userId`, `user.id` (most), `passport.user` (koa-passport). A guess: what can't be one isn't. */
export function commonUserId(session: Session): unknown {
  const of = (name: string, key: string): unknown => {
    const value = session[name]
    return typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined
  }
  return [session.userId, of('user', 'id'), of('passport', 'user')]
    .map((id) => (typeof id === 'object' && id !== null ? asJson(id) : id))
    .find((id) => (typeof id === 'string' || Number.isFinite(id)) && isUsable(`${id}`))
}

/** As a session that is loaded has it: an ObjectId is text there. */
function asJson(value: object): unknown {
  const toJson: unknown = Reflect.get(value, 'toJSON')
  return typeof toJson === 'function' ? Reflect.apply(toJson, value, []) : undefined
}

function isUsable(text: string): boolean {
  const isStorable = !/\0|[\ud800-\udfff]/u.test(text) && !text.includes(separator)
  return text !== '' && text.length <= longest && isStorable
}

/** A user's id as the table has it. Throws a `TypeError` or `RangeError`, naming `what`, for what can't be one. */
export function userIdText(id: unknown, what: string): string {
  if (typeof id !== 'string' && !Number.isFinite(id))
    throw new TypeError(`${what} must be a string or a finite number; received ${describe(id)}`)
  const text = `${id}`
  if (!isUsable(text))
    throw new RangeError(
      `${what} must have 1 to ${longest} characters that PostgreSQL can hold; received ${describe(id)}`,
    )
  return text
}

/** Applies the option `userId` to a session. */
export function userIdOf(option: (session: Session) => unknown, session: Session): string | undefined {
  const id = option(session)
  return id === undefined || id === null || id === ''
    ? undefined
    : userIdText(id, 'what the option "userId" answers')
}
