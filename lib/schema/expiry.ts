// Which rows are active and which are expired, as SQL conditions: the two sides of one rule. Pure.
import { sweepRecordId, type Table } from './table.js'

/** Limits on a session's life besides its `expiry`, in milliseconds; `undefined`: no such limit. */
export interface ExpiryLimits {
  readonly maxLifetime: number | undefined
  readonly idleTimeout: number | undefined
}

/** Returns the condition for rows that are active at a time, SQL for which is given: neither destroyed nor expired. */
export function activeCondition({ maxLifetime, idleTimeout }: ExpiryLimits, at = 'now()'): string {
  const within = (column: string, ms: number | undefined): string =>
    ms === undefined ? '' : ` and ${column} > ${msAgo(ms, at)}`
  return `session is not null and expiry > ${at}${within('created_at', maxLifetime)}${within('last_access', idleTimeout)}`
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
  return `(${alternatives.join(' or ')}) and ${prefix}id <> '${sweepRecordId}'`
}

function msAgo(ms: number, at = 'now()'): string {
  return ms === 0 ? at : `${at} - ${ms} * interval '1 millisecond'`
}
