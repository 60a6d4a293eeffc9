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

/**
 * A change in the result. A plus sign before the version marks a row that was inserted: only those are not announced. All
 * changes of a statement are returned as one value, since each column and each row of a result costs Node a multiple of reading it.
 */
const item = `case when notify then '' else '+' end || version || ' ' || ttl_ms::int8 || ' ' || id`

/** What stands before the changes: how many are announced, and whether the commit must be flushed. */
function head(announced: string, mustFlush: string): string {
  return `${announced} || case when ${mustFlush} then 'f' else '' end || chr(30)`
}

/** For a statement that changes one row. */
export function announceOne({ change, suffix, digest, channel, canFlush }: Announcement): string {
  // pg_notify returns an empty text.
  const notify = `pg_notify('${channel}', ${digest} || to_hex(version) || ${suffix}::text)::text`
  return (
    `with changed as (${change})` +
    ` select case when notify then ${head(`${notify} || '1'`, mustFlush(canFlush))} else '0' || chr(30) end || ${item} as result from changed`
  )
}

/** For a statement that changes up to `maxBatchSize` rows, which one payload can name. */
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
  const source = ` select ${recordValues} from changed where notify having count(*) > 0`
  return (
    `with changed as (${change}),` +
    ` recorded as (${insertRecord(table, source)} returning ${mustFlush(canFlush)} as must_flush)` +
    ` select ${head(`'0'`, '(select must_flush from recorded)')} || string_agg(${item}, chr(30)) as result from changed`
  )
}

/** Writes the record by itself. As `values`, so that Citus writes to one shard. */
export function recordSql(table: string): string {
  return insertRecord(table, ` values (${recordValues})`)
}

const recordValues = `'${unannouncedId}', null, now() + interval '1 hour', ${versionNow}`

/** Citus doesn't allow `now()` in `do update`. */
function insertRecord(table: string, source: string): string {
  return (
    `insert into ${table} as t (id, session, expiry, version)${source}` +
    ` on conflict (id) do update set version = greatest(excluded.version, t.version + 1), expiry = excluded.expiry`
  )
}

function withPayloads({ change, channel, canFlush }: Announcement, payloads: string): string {
  return (
    `with changed as (${change}), notified as (select pg_notify('${channel}', payload), ${mustFlush(canFlush)} as must_flush` +
    ` from (${payloads}) as payloads)` +
    ` select ${head('count(*) filter (where notify)', '(select bool_or(must_flush) from notified)')} || string_agg(${item}, chr(30)) as result from changed`
  )
}

function mustFlush(canFlush: boolean): string {
  return canFlush ? asyncCommitSql : 'false'
}
