// koa-pg-store stats: what is in the table.

import { ensureTable } from '../../schema/migrate.js'
import { qualifiedName, sweepRecordId } from '../../schema/table.js'
import { readOptions } from '../../stores/options.js'
import type { Row } from '../../types/options.js'
import type { Command } from '../command.js'
import { bytes, duration, number } from '../terminal.js'

/** A statistic reads the whole table, and may take its time. */
const statementMs = 600_000

const expiries: [string, string][] = [
  ['< 1 min', '1 minute'],
  ['< 10 min', '10 minutes'],
  ['< 1 h', '1 hour'],
  ['< 6 h', '6 hours'],
  ['< 1 d', '1 day'],
  ['< 1 week', '7 days'],
  ['< 30 d', '30 days'],
  ['longer', '1000 years'],
]

interface Found {
  live: number
  expired: number
  destroyed: number
  users: number | null
  oldestMs: number | null
  bytes: { table: number; indexes: number; total: number }
  lastSweep: { agoMs: number; deleted: number; batches: number; ms: number } | null
  sizes: { atMost: number; count: number }[]
  expiresIn: { name: string; count: number }[]
}

export const stats: Command = {
  summary: 'Count sessions and users, measure sizes, and tell of the last sweep',
  help: `
Usage: koa-pg-store stats [--json]

Counts what is in the table: sessions that are alive, that have expired and
wait for the next sweep, and the empty rows that destroyed ones leave for an
hour. Reads the whole table once and changes nothing.

  koa-pg-store stats
  koa-pg-store stats --json | jq .live`,
  options: {},
  async run({ values, terminal, options, connection }) {
    const settings = readOptions({ ...options, create: false })
    const { columns } = await ensureTable(connection, settings, () => undefined)
    const name = qualifiedName(settings)
    const [row] = await connection.query(statement(name, columns), [name], statementMs)
    const found = shaped(row as Row)
    if (values.json) {
      terminal.json(found)
      return 0
    }
    const line = (what: string, value: string): void => terminal.line(`${what.padEnd(12)} ${value}`)
    line('live', number(found.live))
    line('expired', `${number(found.expired)}${found.expired > 0 ? ', to be swept' : ''}`)
    line('destroyed', `${number(found.destroyed)}${found.destroyed > 0 ? ', marked for an hour' : ''}`)
    if (found.users !== null) line('users', number(found.users))
    if (found.oldestMs !== null) line('oldest', duration(found.oldestMs))
    const { table, indexes, total } = found.bytes
    line('size', `${bytes(total)} (table ${bytes(table)}, indexes ${bytes(indexes)})`)
    const last = found.lastSweep
    line(
      'last sweep',
      last
        ? `${duration(last.agoMs)} ago: ${number(last.deleted)} deleted in ${duration(last.ms)}`
        : 'none is known of',
    )
    if (found.live === 0) return 0
    terminal.line()
    terminal.line(terminal.style('bold', 'Sizes of live sessions, at most'))
    terminal.histogram(found.sizes.map(({ atMost, count }) => ({ name: bytes(atMost), count })))
    terminal.line()
    terminal.line(terminal.style('bold', 'Time until they expire'))
    terminal.histogram(found.expiresIn)
    return 0
  },
}

function statement(name: string, columns: ReadonlySet<string>): string {
  const bounds = expiries.map(([, interval]) => `now() + interval '${interval}'`).join(', ')
  const optional = (column: string, sql: string): string => (columns.has(column) ? sql : 'null')
  return `with s as materialized (
    select session is not null as whole, expiry::timestamptz > now() as alive, ${optional('user_id', 'user_id')} as user_id,
      ${optional('created_at', 'created_at')}::timestamptz as created_at,
      case when session is not null and expiry::timestamptz > now() then
        greatest(6, ceil(log(2, greatest(1, octet_length(session::text)))))::int end as size,
      width_bucket(expiry::timestamptz, array[${bounds}]) as bucket
    from ${name} where id <> '${sweepRecordId}')
  select pg_catalog.json_build_object(
    'live', count(*) filter (where whole and alive),
    'expired', count(*) filter (where whole and not alive),
    'destroyed', count(*) filter (where not whole),
    'users', ${optional('user_id', 'count(distinct user_id) filter (where whole and alive)')},
    'oldestMs', extract(epoch from now() - min(created_at) filter (where whole and alive)) * 1000,
    'bytes', pg_catalog.json_build_object('table', pg_table_size($1::text::regclass),
      'indexes', pg_indexes_size($1::text::regclass), 'total', pg_total_relation_size($1::text::regclass)),
    'lastSweep', (select session::jsonb || pg_catalog.jsonb_build_object('agoMs', extract(epoch from now() - expiry::timestamptz) * 1000)
      from ${name} where id = '${sweepRecordId}'),
    'sizes', (select pg_catalog.json_object_agg(size, n) from (select size, count(*) as n from s where size is not null group by size) z),
    'buckets', (select pg_catalog.json_object_agg(bucket, n) from (select bucket, count(*) as n from s where whole and alive group by bucket) b)
  )::text as found from s`
}

function shaped(row: Row): Found {
  const { sizes, buckets, ...rest } = JSON.parse(row.found as string) as Omit<
    Found,
    'sizes' | 'expiresIn'
  > & {
    sizes: Record<string, number> | null
    buckets: Record<string, number> | null
  }
  const powers = Object.keys(sizes ?? {}).map(Number)
  const all = powers.length === 0 ? [] : range(Math.min(...powers), Math.max(...powers))
  return {
    ...rest,
    sizes: all.map((power) => ({ atMost: 2 ** power, count: sizes?.[power] ?? 0 })),
    expiresIn: expiries.map(([name], n) => ({ name, count: buckets?.[n] ?? 0 })),
  }
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, n) => first + n)
}
