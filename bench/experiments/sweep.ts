// npm run bench:sweep: ways to delete expired sessions, their speed, and how much they slow requests.
// npm run bench:sweep -- [--rows 2000000] [--expired 0.5] [--only name]… [--alone]
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { type CleanupOptions, PgStore } from '../../lib/index.js'
import { count } from '../report/markdown.js'
import { startDatabase } from '../support/database.js'
import { percentile } from '../support/statistics.js'
import { nextMessage, startWorker } from '../support/workers.js'
import type { Latencies } from '../workers/sweep-load.js'

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '2000000' },
    expired: { type: 'string', default: '0.5' },
    only: { type: 'string', multiple: true, default: [] },
    alone: { type: 'boolean', default: false },
  },
})
const rowCount = Number(values.rows)
const expiredShare = Number(values.expired)
if (!(rowCount >= 1_000 && expiredShare > 0 && expiredShare <= 1))
  throw new RangeError('--rows must be 1000 or more, --expired above 0 and at most 1')

const warmUpMs = 2_000
const idleMs = 5_000

interface Way {
  readonly name: string
  /** The statement that creates its index. */
  readonly index?: string
  /** Deletes the expired sessions. Resolves with the number of rows. */
  run(client: pg.Client, url: string): Promise<number>
}

const byPages = (pagesPerBatch: number, isLocking: boolean): Way => ({
  name: `${pagesPerBatch} pages at a time${isLocking ? ', skip locked' : ''}`,
  async run(client) {
    const { rows } = await client.query(`select pg_relation_size('session') / 8192 as pages`)
    const range = `ctid >= $1::tid and ctid < $2::tid and expiry <= now()`
    const condition = isLocking
      ? `ctid = any(array(select ctid from session where ${range} for update skip locked)) and expiry <= now()`
      : range
    const text = `delete from session where ${condition} and (select set_config('synchronous_commit', 'off', true)) <> ''`
    let deleted = 0
    for (let page = 0; page < Number(rows[0].pages); page += pagesPerBatch) {
      const bounds = [`(${page},0)`, `(${page + pagesPerBatch},0)`]
      deleted += (await client.query({ name: `pages${isLocking}`, text, values: bounds })).rowCount ?? 0
    }
    return deleted
  },
})

/** Calls the store's sweep(). */
const byStore = (name: string, cleanup: CleanupOptions): Way => ({
  name,
  async run(_, url) {
    const store = new PgStore(url, { cache: false, create: false, cleanup: { cron: false, ...cleanup } })
    const { deleted } = await store.sweep()
    await store.close()
    return deleted
  },
})

const ways: Way[] = [
  byStore('sweep()', {}),
  byStore('sweep() with onExpired', { onExpired: () => undefined }),
  {
    name: 'one big delete',
    run: async (client) => (await client.query('delete from session where expiry <= now()')).rowCount ?? 0,
  },
  {
    name: "connect-pg-simple's prune (b-tree on expiry)",
    index: 'create index on session (expiry)',
    run: async (client) =>
      (await client.query('delete from session where expiry < to_timestamp($1)', [Date.now() / 1000]))
        .rowCount ?? 0,
  },
  {
    name: '5000 at a time by b-tree, order by expiry',
    index: 'create index on session (expiry)',
    async run(client) {
      const text =
        'delete from session where id = any(array(select id from session where expiry <= now()' +
        ' order by expiry limit 5000 for update skip locked)) and expiry <= now()'
      let total = 0
      for (let deleted = 1; deleted > 0; total += deleted) deleted = (await client.query(text)).rowCount ?? 0
      return total
    },
  },
  {
    name: 'BRIN on expiry, cursor, 1000 at a time by ctid',
    index: 'create index on session using brin (expiry) with (pages_per_range = 4)',
    async run(client, url) {
      const reader = new pg.Client(url)
      await reader.connect()
      await reader.query('begin')
      const cursor = reader.query(new Cursor('select ctid::text as ctid from session where expiry <= now()'))
      const text = 'delete from session where ctid = any($1::tid[]) and expiry <= now()'
      let deleted = 0
      for (;;) {
        const found = (await cursor.read(1_000)) as { ctid: string }[]
        if (found.length === 0) break
        deleted += (await client.query(text, [found.map(({ ctid }) => ctid)])).rowCount ?? 0
      }
      await reader.end()
      return deleted
    },
  },
  ...[64, 256, 1024].flatMap((pages) => [byPages(pages, true), byPages(pages, false)]),
  {
    name: 'select all expired rows, no delete',
    run: async (client) =>
      Number((await client.query('select count(*) from session where expiry <= now()')).rows[0].count),
  },
]

const database = await startDatabase()
try {
  console.log(`PostgreSQL ${database.version}, ${count(rowCount)} rows, ${expiredShare * 100} % expired`)
  console.log(
    line(
      '',
      'rows/s alone',
      'peak memory',
      'second sweep',
      'with load',
      'served',
      'get p99',
      'idle',
      'set p99',
      'idle',
    ),
  )
  const selected = ways.filter(
    ({ name }) => values.only.length === 0 || values.only.some((part) => name.includes(part)),
  )
  for (const [n, way] of selected.entries()) await measure(way, `sweep${n}`)
} finally {
  await database.stop()
}

async function measure(way: Way, name: string): Promise<void> {
  const url = await database.create(name)
  const client = new pg.Client(url)
  client.on('error', () => undefined)
  await client.connect()
  const store = new PgStore(url, { cache: false })
  await store.setup()
  await store.close()
  if (way.index) await client.query(way.index)
  await client.query('alter table session set (autovacuum_enabled = false)')
  await fill(client)
  let peakBytes = 0
  const memoryTimer = setInterval(() => {
    peakBytes = Math.max(peakBytes, process.memoryUsage().rss)
  }, 20)
  const start = performance.now()
  const deleted = await way.run(client, url)
  const rowsPerSecond = (deleted / (performance.now() - start)) * 1_000
  clearInterval(memoryTimer)
  // The next sweep finds nothing to delete.
  await client.query('vacuum session')
  const secondStart = performance.now()
  await way.run(client, url)
  const cells = [
    count(rowsPerSecond),
    `${Math.round(peakBytes / 1024 / 1024)} MiB`,
    `${Math.round(performance.now() - secondStart)} ms`,
  ]
  if (!values.alone) {
    await fill(client)
    const load = startWorker('sweep-load', url, String(rowCount))
    await sleep(warmUpMs)
    await report(load)
    await sleep(idleMs)
    const idle = await report(load)
    const sweepStart = performance.now()
    await way.run(client, url)
    const sweepMs = performance.now() - sweepStart
    const busy = await report(load, 'stop')
    await once(load, 'exit')
    cells.push(`${Math.round(sweepMs)} ms`)
    // Callers that wait longer make fewer calls, which latencies alone don't show.
    const callsPerMs = ({ get, set }: Latencies, ms: number) => (get.length + set.length) / ms
    cells.push(`${Math.round((callsPerMs(busy, sweepMs) / callsPerMs(idle, idleMs)) * 100)} %`)
    for (const kind of ['get', 'set'] as const) cells.push(p99(busy[kind]), p99(idle[kind]))
  }
  console.log(line(way.name, ...cells))
  await client.end()
}

/** Fills the table with expired and active sessions, in random order. */
async function fill(client: pg.Client): Promise<void> {
  await client.query('truncate session')
  const id = `'sha256:' || rtrim(translate(encode(sha256(('live-' || i)::bytea), 'base64'), '+/', '-_'), '=')`
  await client.query(
    `insert into session (id, expiry, session, version)
     select ${id}, now() + (case when random() < ${expiredShare} then -1 else 1 end) * interval '1 hour' * (0.1 + random()),
     ('{"n":' || i || ',"x":"' || repeat('x', 380) || '"}')::json, 1 from generate_series(1, ${rowCount}) i`,
  )
  await client.query('vacuum analyze session')
  await client.query('checkpoint')
}

/** Resolves with the latencies since the last report. */
function report(load: ChildProcess, order: 'report' | 'stop' = 'report'): Promise<Latencies> {
  const latencies = nextMessage<Latencies>(load)
  load.send(order)
  return latencies
}

function p99(latencies: number[]): string {
  return `${percentile(latencies, 0.99).toFixed(1)} ms`
}

function line(name: string, ...cells: string[]): string {
  return name.padEnd(48) + cells.map((cell) => cell.padStart(13)).join('')
}
