// What a store keeps of a session's JSON, and what it makes of it again: everything but what depends on the time. Pure.

import type { Session } from '../types/session-store.js'
import { withoutExpiredAttributes } from './expiring-attribute.js'
import { parse } from './json.js'
import { withExpire, withoutExpire } from './koa-session.js'

/** The JSON to be stored for the JSON of a session: without attributes that have expired, and koa-session's `_expire`. */
export function toStored(text: string, now = Date.now()): string {
  if (!text.includes('"~expires"') && !text.includes('"_expire"')) return text
  const session = parse(text) as Session
  const kept = withoutExpire(withoutExpiredAttributes(session, now))
  return kept === session ? text : JSON.stringify(kept)
}

/** The session for what was stored, if that has `left` ms to live; may change the object that it is given. */
export function fromStored(session: Session, left: number | undefined, now = Date.now()): Session {
  const kept = withoutExpiredAttributes(session, now)
  return left === undefined ? kept : withExpire(kept, left, now)
}

/** A session as the database answered it. */
export interface StoredSession {
  /** The id that the table has. */
  readonly id: string
  /** The JSON. */
  readonly json: string
  readonly version: number
  /** Milliseconds that it had to live when it was asked for. */
  readonly ttlMs: number
}
