// Attributes that expire by themselves: how they stand in a session's JSON, and how they leave it. Pure.
import type { Session } from '../types/session-store.js'

/**
 * A value with its end. Whoever reads the attribute without its key finds this and can't take it for the value; the
 * names are nobody else's.
 */
export interface ExpiringAttribute {
  readonly '~value': unknown
  /** Milliseconds since 1970. */
  readonly '~expires': number
}

export function isExpiring(value: unknown): value is ExpiringAttribute {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, '~expires') === 'number'
}

/** A session without what has expired: the same object if nothing has. The one given stays as it is. */
export function withoutExpiredAttributes(session: Session, now: number): Session {
  let kept: Session | undefined
  for (const name in session) {
    const value = session[name]
    if (!isExpiring(value) || value['~expires'] > now) continue
    kept ??= { ...session }
    delete kept[name]
  }
  return kept ?? session
}
