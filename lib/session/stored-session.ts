// Converts a session to and from its stored JSON: removes expired attributes and koa-session's `_expire`. Pure.
import type { Session } from '../types/session-store.js'
import { parse, type SizeLimits, serialize } from './json.js'
import { withExpire, withoutExpire } from './koa-session.js'

/** A session as read from the database. */
export interface StoredSession {
  readonly id: string
  readonly json: string
  readonly version: number
  /** Milliseconds until the session expires, at the time of the read. */
  readonly ttlMs: number
}

/**
 * The stored form of an attribute with its own ttl. Code that reads the attribute without its key can't mistake this
 * object for the value.
 */
interface ExpiringAttribute {
  readonly '~value': unknown
  /** Milliseconds since 1970. */
  readonly '~expires': number
}

export function isExpiring(value: unknown): value is ExpiringAttribute {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, '~expires') === 'number'
}

/**
 * Returns the JSON to store for a session: without attributes that have expired, and without koa-session's `_expire`. Throws
 * as `serialize` does.
 */
export function toStored(session: object, limits?: SizeLimits, now = Date.now()): string {
  // What a session's own `toJSON` makes of it is known afterwards.
  if (typeof Reflect.get(Object(session), 'toJSON') === 'function')
    return restored(serialize(session, limits), now)
  return serialize(stripped(session, now), limits)
}

function stripped(session: object, now: number): object {
  try {
    return isPlain(session) ? withoutExpire(withoutExpiredAttributes(session, now)) : session
  } catch {
    // An attribute that can't be read: serialize says which.
    return session
  }
}

function restored(json: string, now: number): string {
  if (!mayExpire(json) && !json.includes('"_expire"')) return json
  const session = parse(json) as Session
  const stored = withoutExpire(withoutExpiredAttributes(session, now))
  return stored === session ? json : JSON.stringify(stored)
}

function isPlain(session: unknown): session is Session {
  return typeof session === 'object' && session !== null && !Array.isArray(session)
}

/** Whether a session may have attributes that expire. A look at the text, for a rare character, is cheaper than one at each attribute. */
export function mayExpire(json: string): boolean {
  return json.includes('~') && json.includes('"~expires"')
}

/**
 * Returns the session for what was stored. With `ttlMs`, the time until it expires, a session of koa-session gets its
 * `_expire` back. May modify the given object.
 */
export function fromStored(session: Session, ttlMs: number | undefined, now = Date.now()): Session {
  const current = withoutExpiredAttributes(session, now)
  return ttlMs === undefined ? current : withExpire(current, ttlMs, now)
}

/** Returns the given session if none of its attributes has expired, otherwise a copy without the expired ones. */
function withoutExpiredAttributes(session: Session, now: number): Session {
  let copy: Session | undefined
  for (const name in session) {
    const value = session[name]
    if (!isExpiring(value) || value['~expires'] > now) continue
    copy ??= { ...session }
    delete copy[name]
  }
  return copy ?? session
}
