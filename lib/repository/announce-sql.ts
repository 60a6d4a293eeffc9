// SQL that announces the changes of a statement in the same statement, and makes its commit asynchronous; or, while the server's
// queue of notifications is full, records that there are unannounced changes.
import { unannouncedId } from '../notifications/heartbeat.js'
import { maxBatchSize } from './batching.js'
import { asyncCommitSql } from './flush-sql.js'

export interface Announcement {
  /** A statement that returns id, version, ttl_ms and notify of each row that it changed. */
  readonly change: string
  /** The parameter that is appended to each payload. */
  readonly suffix: string
  /** SQL for the digest of a row's id. */
  readonly digest: string
  readonly channel: string
  /** Whether the commit may be asynchronous, and flushed afterwards. */
  readonly canFlush: boolean
}

/** For a statement that changes one row. Returns the row, and whether the change must be flushed. */
export function announceOne({ change, suffix, digest, channel, canFlush }: Announcement): string {
  return (
    `with changed as (${change}) select id, version, ttl_ms, notify,` +
    ` case when notify then pg_notify('${channel}', ${digest} || to_hex(version) || ${suffix}::text)::text end as payload,` +
    ` case when notify then ${mustFlush(canFlush)} end as must_flush from changed`
  )
}

/** For a statement that changes up to `maxBatchSize` rows, which one payload can name. Returns all changes as one value. */
export function announceMany(announcement: Announcement): string {
  const { suffix, digest } = announcement
  return withPayloads(
    announcement,
    `select string_agg(${digest} || to_hex(version), ',') || ${suffix}::text as payload from changed where notify having count(*) > 0`,
  )
}

/** For a statement that may change any number of rows. */
export function announceAny(announcement: Announcement): string {
  const { suffix, digest } = announcement
  const items = `select ${digest} || to_hex(version) as item, (row_number() over () - 1) / ${maxBatchSize} as part from changed where notify`
  return withPayloads(
    announcement,
    `select string_agg(item, ',') || ${suffix}::text as payload from (${items}) as items group by part`,
  )
}

/** The version of a change made now. As it is a time, versions grow even if a row is deleted and inserted again. */
export const versionNow = '(extract(epoch from now()) * 1000000)::bigint'

/**
 * For a statement that changes any number of rows without a notification. Every instance looks for the record at intervals, and
 * clears its cache when that has changed. The record is written last, when all rows are locked: otherwise two statements could
 * deadlock.
 */
export function recordUnannounced({ change, canFlush }: Announcement, table: string): string {
  return (
    `with changed as (${change}),` +
    ` recorded as (${recordSql(table, 'from changed where notify having count(*) > 0')} returning ${mustFlush(canFlush)} as must_flush)` +
    ` select string_agg(version || ' ' || ttl_ms::int8 || ' ' || id, chr(30)) as changes,` +
    ` (select must_flush from recorded) as must_flush, 0 as announced from changed`
  )
}

/** Writes the record by itself. Citus doesn't allow `now()` in `do update`. */
export function recordSql(table: string, condition = ''): string {
  return (
    `insert into ${table} as t (id, session, expiry, version) select '${unannouncedId}', null, now() + interval '1 hour',` +
    ` ${versionNow} ${condition} on conflict (id) do update set version = greatest(excluded.version, t.version + 1),` +
    ` expiry = excluded.expiry`
  )
}

function withPayloads({ change, channel, canFlush }: Announcement, payloads: string): string {
  return (
    `with changed as (${change}), notified as (select pg_notify('${channel}', payload), ${mustFlush(canFlush)} as must_flush` +
    ` from (${payloads}) as payloads)` +
    ` select string_agg(version || ' ' || ttl_ms::int8 || ' ' || id, chr(30)) as changes,` +
    ` (select bool_or(must_flush) from notified) as must_flush, count(*) filter (where notify)::int as announced from changed`
  )
}

function mustFlush(canFlush: boolean): string {
  return canFlush ? asyncCommitSql : 'false'
}
