// The SQL of a sweep: finds, reads and deletes expired rows, and records the last sweep. Pure.
import { type ExpiryLimits, expiredCondition } from '../schema/expiry.js'
import { lastSweepSql, sweepRecordId, type Table } from '../schema/table.js'

export interface SweepLimits extends ExpiryLimits {
  /** How long a session stays in the table after it has expired, in ms. */
  readonly grace: number
}

/** Doesn't wait for the disk: rows that a crash brings back are deleted by the next sweep. Lasts for the transaction. */
const asyncCommit = `(select set_config('synchronous_commit', 'off', true)) is not null`

/** Doesn't wait for rows that another transaction has locked. Lasts for the transaction. */
const shortLockTimeout = `(select set_config('lock_timeout', '50ms', true)) is not null`

/** Makes the trigger of sql/006-notify.sql send no notification: caches don't return expired sessions anyway. */
const suppressNotify = `(select set_config('koa_pg_store.sweep', 'on', true)) is not null`

/** Whether the server is running a statement of another client, as far as this role may see. */
const hasActiveClients = `exists (select from pg_stat_activity where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid())`

/** Rows in the pages from `$1` up to, not including, `$2`. */
const inRange = 'ctid >= $1::tid and ctid < $2::tid'

export class SweepStatements {
  /** Returns the number of pages of the table `$1`. */
  readonly countPages: string
  /** Deletes in a range of pages. Fails with 55P03 if another transaction has locked a row. */
  readonly deleteRange: string
  /** The same, but skips locked rows. */
  readonly deleteUnlockedInRange: string
  /** Returns up to `$1` ids. */
  readonly findIds: string
  /** Deletes the ids `$1`. */
  readonly deleteIds: string
  /**
   * Returns up to `$3` sessions with their data, from after the place `$1` up to the place `$2`; where the table has no pages,
   * up to `$2` from after the id `$1`.
   */
  readonly read: string
  /** Deletes the ids `$2` at the places `$1` if they still have the versions `$3`. */
  readonly deleteUnchanged: string
  /** Returns how long ago the last sweep ended, in ms. */
  readonly lastSweep: string
  /** Records the end of a sweep, with its result `$1`. */
  readonly recordSweep: string

  constructor(table: Table, limits: SweepLimits) {
    const { name, columns, hasPages, isDistributed } = table
    const expired = expiredCondition(table, limits, limits.grace)
    // Citus can't run these, and a distributed table has neither the trigger nor the need for them.
    const settings = isDistributed ? '' : ` and ${asyncCommit} and ${suppressNotify}`
    const counted = (text: string): string =>
      `with gone as (${text} returning 1) select count(*)::int as deleted, ${hasActiveClients} as contended from gone`
    this.countPages = `select (pg_relation_size($1::text::regclass) / current_setting('block_size')::int)::int as pages`
    this.deleteRange = counted(
      `delete from ${name} where ${inRange} and ${expired}${settings} and ${shortLockTimeout}`,
    )
    this.deleteUnlockedInRange = counted(
      `delete from ${name} where ctid = any(array(select ctid from ${name} where ${inRange} and ${expired}` +
        ` for update skip locked)) and ${expired}${settings}`,
    )
    const lock = isDistributed ? '' : ' for update skip locked'
    this.findIds = `select id from ${name} where ${expired} limit $1${lock}`
    this.deleteIds = `delete from ${name} where id = any($1::text[]) and ${expired}${settings} returning 1 as deleted`
    const epoch = (column: string): string => `(extract(epoch from ${column}) * 1000)::float8`
    const optional = (column: string, value: string): string => (columns.has(column) ? value : 'null')
    this.read =
      `select id, ${hasPages ? 'ctid::text' : `''`} as at, session::text as session, ${epoch('expiry::timestamptz')} as expiry,` +
      ` ${optional('user_id', 'user_id')} as user_id, ${optional('created_at', epoch('created_at'))} as created_at,` +
      ` ${optional('last_access', epoch('last_access'))} as last_access, ${optional('version', 'version::text')} as version` +
      ` from ${name} where ` +
      (hasPages
        ? `ctid > $1::tid and ctid < $2::tid and ${expired} order by ctid limit $3`
        : `id > $1::text and ${expired} order by id limit $2`)
    // Where rows have places, a changed row is at another one.
    const unchanged = columns.has('version') ? 't.version = u.version' : '(u.version is null)'
    this.deleteUnchanged =
      `delete from ${name} as t using unnest($1::text[], $2::text[], $3::bigint[]) as u (at, id, version)` +
      ` where ${hasPages ? 't.ctid = u.at::tid and ' : ''}t.id = u.id and ${unchanged}` +
      ` and ${expiredCondition(table, limits, limits.grace, 't.')}${settings} returning 1 as deleted`
    this.lastSweep = lastSweepSql(name)
    const version = columns.has('version')
    // Long expired by any clock: the server's may be put back, and no session is to appear by that.
    this.recordSweep =
      `insert into ${name} as t (id, expiry, session${version ? ', version' : ''})` +
      ` select '${sweepRecordId}', '-infinity', json_build_object('at', ${epoch('now()')}, 'result', $1::text::json)${version ? ', 1' : ''} on conflict (id) do update` +
      ` set expiry = excluded.expiry, session = excluded.session${version ? ', version = t.version + 1' : ''}`
  }
}
