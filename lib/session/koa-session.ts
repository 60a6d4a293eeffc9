// What koa-session keeps in a session's JSON about its expiry, and who decides it: the store. Pure.
import type { Session } from '../types/session-store.js'

/** How much longer than `maxAge` koa-session lets the store keep a session. */
const graceMs = 10_000

/**
 * A session as it is to be stored: without koa-session's `_expire`. That is the application's clock, it is another one at
 * every save, so that no save would be of an unchanged session, and koa-session would sign a person out by it whose session
 * was only touched. The object given stays as it is; another middleware's session is answered itself.
 */
export function withoutExpire(session: Session): Session {
  if (!isKoaSession(session) || !('_expire' in session)) return session
  const { _expire: _, ...stored } = session
  return stored
}

/**
 * Tells koa-session by `_expire` how long a session that was stored has to live, which it compares with the
 * application's clock: `left` ms from `now`, less what it had the store add. Changes the session, if it is one of
 * koa-session's.
 */
export function withExpire(session: Session, left: number, now: number): Session {
  if (isKoaSession(session)) session._expire = now + left - graceMs
  return session
}

/** With `maxAge: 'session'` it keeps no `_maxAge`, and looks at no expiry. */
export function isKoaSession(session: Session): boolean {
  return typeof session._maxAge === 'number'
}

/** What koa-session says beside the id: its context, which is there from the first `get` of a request to its last `set`. */
export function contextOf(more: object | undefined): object | undefined {
  const context: unknown = more && Reflect.get(more, 'ctx')
  return typeof context === 'object' && context !== null ? context : undefined
}
