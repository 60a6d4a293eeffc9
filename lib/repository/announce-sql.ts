// SQL that announces the changes of a statement in the same statement, and makes its commit asynchronous.
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

/** In the joined changes, a plus sign before the version marks a row that was inserted: only those are not announced. */
function withPayloads({ change, channel, canFlush }: Announcement, payloads: string): string {
  return (
    `with changed as (${change}), notified as (select pg_notify('${channel}', payload), ${mustFlush(canFlush)} as must_flush` +
    ` from (${payloads}) as payloads)` +
    ` select string_agg(case when notify then '' else '+' end || version || ' ' || ttl_ms::int8 || ' ' || id, chr(30)) as changes,` +
    ` (select bool_or(must_flush) from notified) as must_flush, count(*) filter (where notify)::int as announced from changed`
  )
}

function mustFlush(canFlush: boolean): string {
  return canFlush ? asyncCommitSql : 'false'
}
