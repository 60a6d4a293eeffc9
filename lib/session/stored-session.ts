// Converts a session to and from its stored JSON: removes expired attributes and koa-session's `_expire`. Pure.
import type { Session } from '../types/session-store.js'
import { parse } from './json.js'
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

/** Returns the JSON to store for a session's JSON. */
export function toStored(json: string, now = Date.now()): string {
  if (!json.includes('"~expires"') && !json.includes('"_expire"')) return json
  const session = parse(json) as Session
  const stored = withoutExpire(withoutExpiredAttributes(session, now))
  return stored === session ? json : JSON.stringify(stored)
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
