// The statements of a sweep: what is over, how it is found, and the note of the last sweep.
import { sweepRecordId, type Table } from '../schema/table.js'

/** Which sessions are over, beside those whose expiry has passed; in ms. */
export interface ExpiryLimits {
  readonly maxLifetime: number | undefined
  readonly idleTimeout: number | undefined
  /** How long a session stays in the table after it has expired. */
  readonly grace: number
}

/** A commit needn't wait for the disk: what a crash brings back goes with the next sweep. Until the transaction's end. */
const asyncCommit = `(select set_config('synchronous_commit', 'off', true)) is not null`

/** A row that somebody else holds isn't waited for. Until the transaction's end. */
const shortLockTimeout = `(select set_config('lock_timeout', '50ms', true)) is not null`

/** Tells the trigger of sql/006-notify.sql that nobody has to hear of this: caches know by themselves when sessions end. */
const suppressNotify = `(select set_config('koa_pg_store.sweep', 'on', true)) is not null`

/** Whether somebody else is being served, as far as this role may see. */
const hasActiveClients = `exists (select from pg_stat_activity where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid())`

/** Between two pages of the table: `$1` and `$2`. */
const inRange = 'ctid >= $1::tid and ctid < $2::tid'

export class SweepStatements {
  /** How many pages the table has. */
  readonly pages: string
  /** Deletes between two pages; fails with 55P03 if somebody holds a row. */
  readonly deleteRange: string
  /** The same, but passes over the rows that somebody holds. */
  readonly deleteUnlockedInRange: string
  /** Finds up to `$1` ids. */
  readonly find: string
  /** Deletes the ids `$1`. */
  readonly deleteFound: string
  /** Reads sessions with their data between two pages, or all. */
  readonly read: string
  /** The same in the order of ids, `$3` or `$1` of them at most after the id before it. */
  readonly readSome: string
  /** Deletes the ids `$2` at the places `$1`, unless they were changed since they had the versions `$3`. */
  readonly deleteRead: string
  /** How long ago, in ms, the last sweep ended, and what it did. */
  readonly lastSweep: string
  /** Notes a sweep. */
  readonly recordSweep: string

  constructor(table: Table, ends: ExpiryLimits) {
    const { name, columns, hasPages, isDistributed: distributed } = table
    const over = expiredCondition(table, ends)
    // Parts that Citus wouldn't run, and a table on it doesn't need.
    const settings = distributed ? '' : ` and ${asyncCommit} and ${suppressNotify}`
    const counted = (text: string): string =>
      `with gone as (${text} returning 1) select count(*)::int as deleted, ${hasActiveClients} as others from gone`
    this.pages = `select (pg_relation_size($1::text::regclass) / current_setting('block_size')::int)::int as pages`
    this.deleteRange = counted(
      `delete from ${name} where ${inRange} and ${over}${settings} and ${shortLockTimeout}`,
    )
    this.deleteUnlockedInRange = counted(
      `delete from ${name} where ctid = any(array(select ctid from ${name} where ${inRange} and ${over}` +
        ` for update skip locked)) and ${over}${settings}`,
    )
    const lock = distributed ? '' : ' for update skip locked'
    this.find = `select id from ${name} where ${over} limit $1${lock}`
    this.deleteFound = `delete from ${name} where id = any($1::text[]) and ${over}${settings} returning 1 as deleted`
    const epoch = (column: string): string => `(extract(epoch from ${column}) * 1000)::float8`
    const optional = (column: string, value: string): string => (columns.has(column) ? value : 'null')
    const data =
      `select id, ${hasPages ? 'ctid::text' : `''`} as at, session::text as session, ${epoch('expiry::timestamptz')} as expiry,` +
      ` ${optional('user_id', 'user_id')} as user_id, ${optional('created_at', epoch('created_at'))} as created_at,` +
      ` ${optional('last_access', epoch('last_access'))} as last_access, ${optional('version', 'version::text')} as version` +
      ` from ${name} where ${hasPages ? `${inRange} and ` : ''}${over}`
    this.read = data
    const next = hasPages ? ['$3', '$4'] : ['$1', '$2']
    this.readSome = `${data} and id > ${next[0]}::text order by id limit ${next[1]}`
    // By its place, where that can be: a changed row is at another.
    const unchanged = columns.has('version') ? 't.version = u.version' : '(u.version is null)'
    this.deleteRead =
      `delete from ${name} as t using unnest($1::text[], $2::text[], $3::bigint[]) as u (at, id, version)` +
      ` where ${hasPages ? 't.ctid = u.at::tid and ' : ''}t.id = u.id and ${unchanged}` +
      ` and ${expiredCondition(table, ends, 't.')}${settings} returning 1 as deleted`
    this.lastSweep = `select ${epoch('now() - expiry::timestamptz')} as ago, session::text as did from ${name} where id = '${sweepRecordId}'`
    const version = columns.has('version')
    this.recordSweep =
      `insert into ${name} as t (id, expiry, session${version ? ', version' : ''})` +
      ` select '${sweepRecordId}', now(), $1::json${version ? ', 1' : ''} on conflict (id) do update` +
      ` set expiry = excluded.expiry, session = excluded.session${version ? ', version = t.version + 1' : ''}`
  }
}

/** The opposite of what `Queries` calls alive, some grace later; and marks of destroyed sessions that have had their time. */
function expiredCondition(
  { columns }: Table,
  { grace, maxLifetime, idleTimeout }: ExpiryLimits,
  t = '',
): string {
  const ago = (ms: number): string => (ms === 0 ? 'now()' : `now() - ${ms} * interval '1 millisecond'`)
  const over = [`${t}expiry <= ${ago(grace)}`]
  const since = (column: string, ms: number | undefined): void => {
    if (ms !== undefined && columns.has(column))
      over.push(`${t}session is not null and ${t}${column} <= ${ago(ms + grace)}`)
  }
  since('created_at', maxLifetime)
  since('last_access', idleTimeout)
  return `(${over.join(' or ')}) and ${t}id <> '${sweepRecordId}'`
}
