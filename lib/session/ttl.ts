// How long a session lives, for whatever a middleware passes as its ttl. Pure.
import type { Ttl } from '../types/session-store.js'
import { describe } from '../util/validate.js'

/** The longest life, in ms. */
export const maxTtl = 100 * 365.25 * 24 * 60 * 60 * 1000

/** How many milliseconds a session is to live from now on; see `Ttl`. Throws a `TypeError` for anything else. */
export function resolveTtl(ttl: Ttl, fallback: number, maxLifetime = maxTtl): number {
  if (ttl === undefined || ttl === null || ttl === 'session' || Number.isNaN(ttl))
    return Math.min(fallback, maxLifetime)
  if (typeof ttl !== 'number')
    throw new TypeError(`ttl must be a number of milliseconds; received ${describe(ttl)}`)
  return Math.max(0, Math.min(Math.ceil(ttl), maxLifetime, maxTtl))
}
