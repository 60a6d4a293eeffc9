// Which rows are active and which are expired, as SQL conditions: the two sides of one rule. Pure.
import { notRecordSql, type Table } from './table.js'

/** Limits on a session's life besides its `expiry`, in milliseconds; `undefined`: no such limit. */
export interface ExpiryLimits {
  readonly maxLifetime: number | undefined
  readonly idleTimeout: number | undefined
}

/**
 * Returns the condition for rows that are active, neither destroyed nor expired: now or, if `msBefore` returns SQL for the time
 * so many ms before another one, then.
 */
export function activeCondition({ maxLifetime, idleTimeout }: ExpiryLimits, msBefore = msAgo): string {
  const within = (column: string, ms: number | undefined): string =>
    ms === undefined ? '' : ` and ${column} > ${msBefore(ms)}`
  return `session is not null and expiry > ${msBefore(0)}${within('created_at', maxLifetime)}${within('last_access', idleTimeout)}`
}

/**
 * Returns the condition for rows to delete: sessions that expired at least `grace` ms ago, and old tombstones. `prefix` is
 * the table's alias with a dot.
 */
export function expiredCondition(
  { columns }: Table,
  { maxLifetime, idleTimeout }: ExpiryLimits,
  grace: number,
  prefix = '',
): string {
  const alternatives = [`${prefix}expiry <= ${msAgo(grace)}`]
  // A tombstone stays until its own expiry.
  const addLimit = (column: string, ms: number | undefined): void => {
    if (ms !== undefined && columns.has(column))
      alternatives.push(`${prefix}session is not null and ${prefix}${column} <= ${msAgo(ms + grace)}`)
  }
  addLimit('created_at', maxLifetime)
  addLimit('last_access', idleTimeout)
  return `(${alternatives.join(' or ')}) and ${notRecordSql(prefix)}`
}

function msAgo(ms: number): string {
  return ms === 0 ? 'now()' : `now() - ${ms} * interval '1 millisecond'`
}
