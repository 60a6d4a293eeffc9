// What the database itself says of the table and of the server, in statements of their own: one that no lock on the table can
// delay, one that reads the table's sizes, and one that counts the sessions.
import type { Connection } from '../../postgres/connection.js'
import { activeCondition } from '../../schema/expiry.js'
import { lastSweepSql, notRecordSql, type Table } from '../../schema/table.js'
import type { Settings } from '../../types/settings.js'

const serverTimeoutMs = 3_000
const sizesTimeoutMs = 2_000
/** Counting reads the whole table. */
const countTimeoutMs = 60_000

/** The table and its partitions: a partitioned table has no rows of its own. Locks nothing. */
const treeSql = `with recursive tree (oid) as (
    select $1::pg_catalog.regclass::pg_catalog.oid union all
    select i.inhrelid from pg_catalog.pg_inherits i join tree on i.inhparent = tree.oid)`

/** The state of the server, and what PostgreSQL has counted since its statistics were reset. */
export interface ServerState {
  readonly database: string
  /** The server's clock, in ms. */
  readonly at: number
  /** Of the table with its partitions; `null` if Citus has distributed it, as its workers count. */
  readonly rows: {
    readonly inserted: number
    readonly updated: number
    readonly hotUpdated: number
    readonly deleted: number
    readonly dead: number
  } | null
  readonly connections: number
  readonly maxConnections: number
  /** Of this database; `null` if there is none that this role may see. */
  readonly oldestTransactionMs: number | null
  /** How full the queue of notifications is, from 0 to 1. */
  readonly queueUsage: number
  /** Connections of stores in this database that listen for changes. */
  readonly listeners: number
  /** Processes of the server that wait for a lock while they use the table, and those that hold these locks. */
  readonly lockWaits: number
  readonly lockHolders: readonly number[]
}

export interface TableSizes {
  readonly bytes: { readonly table: number; readonly indexes: number; readonly total: number }
  readonly lastSweep: { readonly agoMs: number; readonly deleted: number; readonly ms: number } | null
}

export interface SessionCounts {
  readonly active: number
  readonly expired: number
  readonly destroyed: number
}

/** Rates are differences of these. Nothing in it locks the table, so it works while another connection locks it. */
export async function readServer(connection: Connection, table: Table): Promise<ServerState> {
  const rows = ['inserted', 'updated', 'hot_updated', 'deleted']
    .map((name) => `'${camelCase(name)}', pg_catalog.sum(pg_catalog.pg_stat_get_tuples_${name}(oid))`)
    .join(', ')
  return readJson<ServerState>(
    connection,
    `${treeSql},
    waiting as (
      select distinct w.pid from pg_catalog.pg_locks w where not w.granted
        and exists (select from pg_catalog.pg_locks l join tree on l.relation = tree.oid where l.pid = w.pid)),
    backends as (select * from pg_catalog.pg_stat_activity where backend_type = 'client backend')
    select pg_catalog.json_build_object(
      'database', pg_catalog.current_database(),
      'at', extract(epoch from pg_catalog.clock_timestamp()) * 1000,
      'rows', ${table.isDistributed ? 'null' : `(select pg_catalog.json_build_object(${rows}, 'dead', pg_catalog.sum(pg_catalog.pg_stat_get_dead_tuples(oid))) from tree)`},
      'connections', (select pg_catalog.count(*) from backends),
      'maxConnections', pg_catalog.current_setting('max_connections')::pg_catalog.int4,
      'oldestTransactionMs', (select extract(epoch from pg_catalog.max(pg_catalog.clock_timestamp() - xact_start)) * 1000 from backends
        where datname = pg_catalog.current_database() and pid <> pg_catalog.pg_backend_pid()),
      'queueUsage', pg_catalog.pg_notification_queue_usage(),
      'listeners', (select pg_catalog.count(*) from backends
        where datname = pg_catalog.current_database() and application_name = 'koa-pg-store listener'),
      'lockWaits', (select pg_catalog.count(*) from waiting),
      'lockHolders', (select coalesce(pg_catalog.json_agg(distinct holder), '[]')
        from waiting cross join lateral pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) as h (holder)
        where holder not in (select pid from waiting))
    )::pg_catalog.text as result`,
    [table.name],
    serverTimeoutMs,
  )
}

export function readSizes(connection: Connection, { name, isDistributed }: Table): Promise<TableSizes> {
  const size = (kind: string): string =>
    isDistributed
      ? `pg_catalog.citus_${kind}_size($1::pg_catalog.regclass)`
      : `(select pg_catalog.sum(pg_catalog.pg_${kind}_size(oid)) from tree)`
  return readJson<TableSizes>(
    connection,
    `${treeSql} select pg_catalog.json_build_object(
      'bytes', (select pg_catalog.json_build_object('table', s.used, 'indexes', s.total - s.used, 'total', s.total)
        from (select ${size('table')} as used, ${size('total_relation')} as total) as s),
      'lastSweep', (select result::pg_catalog.jsonb || pg_catalog.jsonb_build_object('agoMs', ago) from (${lastSweepSql(name)}) as last)
    )::pg_catalog.text as result`,
    [name],
    sizesTimeoutMs,
  )
}

export function countSessions(
  connection: Connection,
  { name }: Table,
  settings: Settings,
): Promise<SessionCounts> {
  const active = activeCondition(settings)
  return readJson<SessionCounts>(
    connection,
    `select pg_catalog.json_build_object(
      'active', pg_catalog.count(*) filter (where ${active}),
      'expired', pg_catalog.count(*) filter (where session is not null and not (${active})),
      'destroyed', pg_catalog.count(*) filter (where session is null)
    )::pg_catalog.text as result from ${name} where ${notRecordSql()}`,
    [],
    countTimeoutMs,
  )
}

async function readJson<T>(
  connection: Connection,
  text: string,
  values: unknown[],
  timeoutMs: number,
): Promise<T> {
  const limit = { deadline: performance.now() + timeoutMs, statementMs: timeoutMs }
  const [row] = await connection.query(text, values, limit)
  return JSON.parse(row?.result as string) as T
}

function camelCase(name: string): string {
  return name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
}
