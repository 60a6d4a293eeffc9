// Turns the ttl that a middleware passes into milliseconds. Pure.
import type { Ttl } from '../types/session-store.js'
import { describe } from '../util/validate.js'

/** 100 years, in ms. */
export const maxTtl = 100 * 365.25 * 24 * 60 * 60 * 1000

/** Returns the milliseconds until a session expires that is saved now; see `Ttl`. Throws a `TypeError` for anything else. */
export function resolveTtl(ttl: Ttl, defaultTtl: number, maxLifetime = maxTtl): number {
  if (ttl === undefined || ttl === null || ttl === 'session' || Number.isNaN(ttl))
    return Math.min(defaultTtl, maxLifetime)
  if (typeof ttl !== 'number')
    throw new TypeError(`ttl must be a number of milliseconds; received ${describe(ttl)}`)
  return Math.max(0, Math.min(Math.ceil(ttl), maxLifetime, maxTtl))
}
