// What sessions of other stores say about their expiry, and Express's form of a cookie. Pure.
import type { Session } from '../types/session-store.js'
import { graceMs, isKoaSession } from './koa-session.js'

/**
 * Returns how long a session may still live, in ms, by what the middleware has written into it; `undefined` if it says
 * nothing. Only for a store that can't be asked for its expiry: without koa-session's `_expire` or an expiry of the cookie,
 * the longest time that it can be is the cookie's `maxAge`.
 */
export function ttlInside(session: Session, now = Date.now()): number | undefined {
  if (isKoaSession(session) && typeof session._expire === 'number') return session._expire + graceMs - now
  const { expires, originalMaxAge, maxAge = originalMaxAge } = Object(session.cookie) as Session
  const expiresAt = typeof expires === 'string' || expires instanceof Date ? Number(new Date(expires)) : NaN
  if (!Number.isNaN(expiresAt)) return expiresAt - now
  return typeof maxAge === 'number' ? maxAge : undefined
}

/**
 * Returns a session of express-session with its cookie in the form of koa-generic-session, which would otherwise never move
 * the expiry of the cookie. Returns any other session as it is. Doesn't modify the given session.
 */
export function withKoaCookie(session: Session): Session {
  const { cookie } = session
  if (typeof cookie !== 'object' || cookie === null || !('originalMaxAge' in cookie)) return session
  const { originalMaxAge, expires: _, ...more } = cookie as Session
  return { ...session, cookie: { ...more, overwrite: true, signed: true, maxAge: originalMaxAge } }
}
