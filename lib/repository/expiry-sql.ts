// SQL expressions for how long a session of the row `t` lives. Pure.
import type { ExpiryLimits } from '../schema/expiry.js'

/** This expiry, but no later than `maxLifetime` allows. */
export function cappedSql({ maxLifetime }: ExpiryLimits, expiry: string): string {
  if (maxLifetime === undefined) return expiry
  // Only with immutable functions: Citus rejects `created_at + interval`.
  const createdAt = `extract(epoch from (t.created_at - timestamptz 'epoch'))::float8`
  return `least(${expiry}, to_timestamp(${createdAt} + ${maxLifetime / 1000}))`
}

/**
 * How many ms a session has to live if it isn't used. Calculated in numbers: `extract` and intervals cost PostgreSQL ten
 * times as much as `date_part`. The expiry in a koa-pg-session table may have no time zone.
 */
export function remainingTtlSql({ maxLifetime, idleTimeout }: ExpiryLimits): string {
  const end = (column: string, ms: number | undefined): string =>
    ms === undefined ? '' : `, date_part('epoch', t.${column}) + ${ms / 1000}`
  const ends = `date_part('epoch', t.expiry::timestamptz)${end('created_at', maxLifetime)}${end('last_access', idleTimeout)}`
  return `(least(${ends}) - date_part('epoch', now())) * 1000`
}

/**
 * The same for a session that was just written; 0 where that is what was asked for. Without `now()`, which Citus doesn't let
 * an upsert return.
 */
export function writtenTtlSql({ maxLifetime }: ExpiryLimits): string {
  if (maxLifetime === undefined) return '0::float8'
  return `date_part('epoch', t.expiry - t.last_access) * 1000`
}
