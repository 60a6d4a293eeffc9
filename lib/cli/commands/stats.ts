// koa-pg-store stats: counts and measures what is in the table.
import { activeCondition } from '../../schema/expiry.js'
import { ensureTable } from '../../schema/migrate.js'
import { lastSweepSql, notRecordSql, qualifiedName } from '../../schema/table.js'
import { readOptions } from '../../stores/options.js'
import type { Row } from '../../types/options.js'
import { type Command, type Context, readInteger, UsageError } from '../command.js'
import { bytes, duration, number, type Terminal } from '../terminal.js'
import { Watch } from '../watch/watch.js'

/** The statement reads the whole table. */
const queryTimeoutMs = 600_000

const defaultIntervalSeconds = 2
const maxIntervalSeconds = 86_400

/** The bars of the second histogram: a label and an upper bound. */
const expiryRanges: [label: string, interval: string][] = [
  ['< 1 min', '1 minute'],
  ['< 10 min', '10 minutes'],
  ['< 1 h', '1 hour'],
  ['< 6 h', '6 hours'],
  ['< 1 d', '1 day'],
  ['< 1 week', '7 days'],
  ['< 30 d', '30 days'],
  ['longer', '1000 years'],
]

interface TableStats {
  active: number
  expired: number
  destroyed: number
  users: number | null
  oldestMs: number | null
  bytes: { table: number; indexes: number; total: number }
  lastSweep: { agoMs: number; deleted: number; batches: number; ms: number } | null
  sizes: { maxBytes: number; count: number }[]
  expiresIn: { name: string; count: number }[]
}

export const stats: Command = {
  summary: 'Count sessions and users, measure sizes; with --watch, a live page',
  help: `
Usage: koa-pg-store stats [--watch [--interval <seconds>]] [--json]

Counts active sessions, expired ones that the next sweep deletes, and the empty
rows (tombstones) that destroyed ones leave for an hour. Reads the whole table
once and changes nothing.

  koa-pg-store stats
  koa-pg-store stats --json | jq .active

With --watch, shows what the application does now, until q or Ctrl-C: calls per
second and how long they take, the caches' hit ratio and whether they are
trusted, errors, conflicts, sizes and locks. On a terminal it draws a page,
elsewhere it prints a line at a time, with --json a JSON object in each.

  koa-pg-store stats --watch
  koa-pg-store stats --watch --interval 60 >> stats.log

The figures of calls and caches come from the application's processes, which
this asks by NOTIFY. Those that don't listen for changes can't answer: with the
option cache: false or listen: false, or with a query function.

Options:
  --watch
  --interval <seconds>   Default: 2
  --listen-url <…>       With --watch: the application's option listen, if it
                         has one, as where the database is behind a pooler.`,
  options: {
    watch: { type: 'boolean' },
    interval: { type: 'string' },
    'listen-url': { type: 'string' },
  },
  async run({ values, terminal, options, connection }) {
    const settings = readOptions({ ...options, create: false })
    const intervalMs = readInterval(values)
    const table = await ensureTable(connection, settings, () => undefined)
    if (intervalMs !== undefined) {
      const listen = (values['listen-url'] as string | undefined) ?? options.listen
      const isJson = values.json === true
      await new Watch({ connection, table, settings, listen, intervalMs, terminal, isJson }).run()
      return 0
    }
    const { columns, isDistributed } = table
    const name = qualifiedName(settings)
    const [row] = await connection.query(
      selectStatement(name, columns, activeCondition(settings), isDistributed),
      [name],
      queryTimeoutMs,
    )
    const result = parseStats(row as Row)
    if (values.json) terminal.json(result)
    else print(terminal, result)
    return 0
  },
}

/** Returns the interval of `--watch` in ms, or `undefined` without it. */
function readInterval(values: Context['values']): number | undefined {
  if (!values.watch) {
    const other = ['interval', 'listen-url'].find((name) => values[name] !== undefined)
    if (other !== undefined) throw new UsageError(`--${other} needs --watch`)
    return undefined
  }
  const seconds = readInteger(values, 'interval', 1) ?? defaultIntervalSeconds
  if (seconds > maxIntervalSeconds)
    throw new UsageError(`--interval must be ${maxIntervalSeconds} or less; received ${seconds}`)
  return seconds * 1_000
}

function print(terminal: Terminal, result: TableStats): void {
  const { active, expired, destroyed, users, oldestMs, bytes: size, lastSweep } = result
  const line = (name: string, value: string): void => terminal.line(`${name.padEnd(12)} ${value}`)
  line('active', number(active))
  line('expired', `${number(expired)}${expired > 0 ? ', until the next sweep' : ''}`)
  line('destroyed', `${number(destroyed)}${destroyed > 0 ? ', kept as tombstones for an hour' : ''}`)
  if (users !== null) line('users', number(users))
  if (oldestMs !== null) line('oldest', duration(oldestMs))
  line('size', `${bytes(size.total)} (table ${bytes(size.table)}, indexes ${bytes(size.indexes)})`)
  line(
    'last sweep',
    lastSweep
      ? `${duration(lastSweep.agoMs)} ago: ${number(lastSweep.deleted)} deleted in ${duration(lastSweep.ms)}`
      : 'never',
  )
  if (active === 0) return
  terminal.line()
  terminal.line(terminal.style('bold', 'Active sessions by size, up to'))
  terminal.histogram(result.sizes.map(({ maxBytes, count }) => ({ name: bytes(maxBytes), count })))
  terminal.line()
  terminal.line(terminal.style('bold', 'Active sessions by time until they expire'))
  terminal.histogram(result.expiresIn)
}

function selectStatement(
  name: string,
  columns: ReadonlySet<string>,
  active: string,
  isDistributed: boolean,
): string {
  const bounds = expiryRanges.map(([, interval]) => `now() + interval '${interval}'`).join(', ')
  const optional = (column: string, sql: string): string => (columns.has(column) ? sql : 'null')
  // In a table that Citus has distributed, the rows are in its shards.
  const tableSize = `${isDistributed ? 'citus' : 'pg'}_table_size($1::text::regclass)`
  const totalSize = `${isDistributed ? 'citus' : 'pg'}_total_relation_size($1::text::regclass)`
  return `with s as materialized (
    select session is null as is_destroyed, ${active} as is_active, ${optional('user_id', 'user_id')} as user_id,
      ${optional('created_at', 'created_at')}::timestamptz as created_at,
      case when ${active} then
        greatest(6, ceil(log(2, greatest(1, octet_length(session::text)))))::int end as size_power,
      width_bucket(expiry::timestamptz, array[${bounds}]) as expiry_range
    from ${name} where ${notRecordSql()})
  select pg_catalog.json_build_object(
    'active', count(*) filter (where is_active),
    'expired', count(*) filter (where not is_destroyed and not is_active),
    'destroyed', count(*) filter (where is_destroyed),
    'users', ${optional('user_id', 'count(distinct user_id) filter (where is_active)')},
    'oldestMs', extract(epoch from now() - min(created_at) filter (where is_active)) * 1000,
    'bytes', pg_catalog.json_build_object('table', ${tableSize},
      'indexes', ${totalSize} - ${tableSize}, 'total', ${totalSize}),
    'lastSweep', (select result::jsonb || pg_catalog.jsonb_build_object('agoMs', ago) from (${lastSweepSql(name)}) as last),
    'sizesByPower', (select pg_catalog.json_object_agg(size_power, n) from (select size_power, count(*) as n from s where is_active group by size_power) z),
    'expiriesByRange', (select pg_catalog.json_object_agg(expiry_range, n) from (select expiry_range, count(*) as n from s where is_active group by expiry_range) e)
  )::text as stats from s`
}

function parseStats(row: Row): TableStats {
  const { sizesByPower, expiriesByRange, ...rest } = JSON.parse(row.stats as string) as Omit<
    TableStats,
    'sizes' | 'expiresIn'
  > & {
    /** Counts by the smallest power of two that is no less than the size. */
    sizesByPower: Record<string, number> | null
    /** Counts by the index in `expiryRanges`. */
    expiriesByRange: Record<string, number> | null
  }
  const powers = Object.keys(sizesByPower ?? {}).map(Number)
  const allPowers = powers.length === 0 ? [] : range(Math.min(...powers), Math.max(...powers))
  return {
    ...rest,
    sizes: allPowers.map((power) => ({ maxBytes: 2 ** power, count: sizesByPower?.[power] ?? 0 })),
    expiresIn: expiryRanges.map(([name], index) => ({ name, count: expiriesByRange?.[index] ?? 0 })),
  }
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index)
}
