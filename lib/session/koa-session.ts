// How koa-session keeps an expiry inside a session, and how the store replaces it by its own. Pure.
import type { Session } from '../types/session-store.js'

/** How much longer than `maxAge` koa-session asks the store to keep a session. */
export const graceMs = 10_000

/**
 * Returns the session to store: without koa-session's `_expire`, as the store decides when a session expires. `_expire`
 * also differs at every save, so that no session would count as unchanged, and a touch doesn't update it, so that
 * koa-session would reject a session that was only touched. Doesn't modify the given session.
 */
export function withoutExpire(session: Session): Session {
  if (!isKoaSession(session) || !('_expire' in session)) return session
  const { _expire: _, ...stored } = session
  return stored
}

/**
 * Sets the `_expire` of a session that koa-session saved, and returns the session. koa-session compares it with the
 * application's clock, and had added its grace period to the ttl that it gave the store.
 */
export function withExpire(session: Session, ttlMs: number, now: number): Session {
  if (isKoaSession(session)) session._expire = now + ttlMs - graceMs
  return session
}

/** With `maxAge: 'session'`, koa-session sets no `_maxAge` and checks no expiry. */
export function isKoaSession(session: Session): boolean {
  return typeof session._maxAge === 'number'
}

/** Returns the context that koa-session passes to the store. It is the same object in all calls of one request. */
export function contextOf(more: object | undefined): object | undefined {
  const context: unknown = more && Reflect.get(more, 'ctx')
  return typeof context === 'object' && context !== null ? context : undefined
}
