// Ways to delete expired sessions: how fast alone, and what requests beside them notice. npm run bench:sweep -- [--rows 2000000]
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { type CleanupOptions, PgStore } from '../../lib/index.js'
import { startDatabase } from '../support/database.js'
import type { Latencies } from '../workers/sweep-load.js'

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '2000000' },
    expired: { type: 'string', default: '0.5' },
    only: { type: 'string', multiple: true, default: [] },
    alone: { type: 'boolean', default: false },
  },
})
const rows = Number(values.rows)
const share = Number(values.expired)
if (!(rows >= 1_000 && share > 0 && share <= 1)) throw new RangeError('--rows 1000 or more, --expired 0 to 1')

interface Way {
  readonly name: string
  /** What the table has beside its columns. */
  readonly index?: string
  /** Deletes what has expired; answers how many rows. */
  run(client: pg.Client, url: string): Promise<number>
}

const pages = (count: number, isLocking: boolean): Way => ({
  name: `${count} pages at a time${isLocking ? ', skip locked' : ''}`,
  async run(client) {
    const { rows } = await client.query(`select pg_relation_size('session') / 8192 as pages`)
    const range = `ctid >= $1::tid and ctid < $2::tid and expiry <= now()`
    const which = isLocking
      ? `ctid = any(array(select ctid from session where ${range} for update skip locked)) and expiry <= now()`
      : range
    const text = `delete from session where ${which} and (select set_config('synchronous_commit', 'off', true)) <> ''`
    let deleted = 0
    for (let page = 0; page < Number(rows[0].pages); page += count) {
      const bounds = [`(${page},0)`, `(${page + count},0)`]
      deleted += (await client.query({ name: `pages${isLocking}`, text, values: bounds })).rowCount ?? 0
    }
    return deleted
  },
})

/** As the application does it. */
const ours = (name: string, cleanup: CleanupOptions): Way => ({
  name,
  async run(_, url) {
    const store = new PgStore(url, { cache: false, create: false, cleanup: { cron: false, ...cleanup } })
    const { deleted } = await store.sweep()
    await store.close()
    return deleted
  },
})

const ways: Way[] = [
  ours('sweep() as it is', {}),
  ours('sweep() with an onExpired', { onExpired: () => undefined }),
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
      let deleted = 0
      for (let last = 1; last > 0; deleted += last) last = (await client.query(text)).rowCount ?? 0
      return deleted
    },
  },
  {
    name: 'BRIN on expiry, cursor, 1000 at a time by ctid',
    index: 'create index on session using brin (expiry) with (pages_per_range = 4)',
    async run(client, url) {
      const reader = new pg.Client(url)
      await reader.connect()
      await reader.query('begin')
      const cursor = reader.query(new Cursor('select ctid::text as at from session where expiry <= now()'))
      const text = 'delete from session where ctid = any($1::tid[]) and expiry <= now()'
      let deleted = 0
      for (;;) {
        const found = (await cursor.read(1_000)) as { at: string }[]
        if (found.length === 0) break
        deleted += (await client.query(text, [found.map(({ at }) => at)])).rowCount ?? 0
      }
      await reader.end()
      return deleted
    },
  },
  ...[64, 256, 1024].flatMap((count) => [pages(count, true), pages(count, false)]),
  {
    name: 'select all that has expired, no delete',
    run: async (client) =>
      Number((await client.query('select count(*) from session where expiry <= now()')).rows[0].count),
  },
]

const database = await startDatabase()
try {
  console.log(`PostgreSQL ${database.version}, ${rows} rows, ${share * 100} % expired`)
  console.log(
    line(
      '',
      'rows/s alone',
      'peak memory',
      'then nothing',
      'beside load',
      'served',
      'get p99',
      'idle',
      'set p99',
      'idle',
    ),
  )
  const chosen = ways.filter(
    ({ name }) => values.only.length === 0 || values.only.some((part) => name.includes(part)),
  )
  for (const [n, way] of chosen.entries()) await measure(way, `sweep${n}`)
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
  let peak = 0
  const watch = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage().rss)
  }, 20)
  const start = performance.now()
  const alone = await way.run(client, url)
  const perSecond = (alone / (performance.now() - start)) * 1_000
  clearInterval(watch)
  // Those who come a quarter of an hour later find little.
  await client.query('vacuum session')
  const again = performance.now()
  await way.run(client, url)
  const cells = [
    Math.round(perSecond).toLocaleString('en'),
    `${Math.round(peak / 1024 / 1024)} MiB`,
    `${Math.round(performance.now() - again)} ms`,
  ]
  if (!values.alone) {
    await fill(client)
    const load = fork(fileURLToPath(new URL('../workers/sweep-load.js', import.meta.url)), [
      url,
      String(rows),
    ])
    await pause(2_000)
    await said(load)
    await pause(5_000)
    const idle = await said(load)
    const began = performance.now()
    await way.run(client, url)
    const took = performance.now() - began
    const busy = await said(load, 'stop')
    await once(load, 'exit')
    cells.push(`${Math.round(took)} ms`)
    // Who is kept waiting asks less: what was served in the same time belongs to the picture.
    const perSecond = (list: Latencies, ms: number) => ((list.get.length + list.set.length) / ms) * 1_000
    cells.push(`${Math.round((perSecond(busy, took) / perSecond(idle, 5_000)) * 100)} %`)
    for (const kind of ['get', 'set'] as const) cells.push(p99(busy[kind]), p99(idle[kind]))
  }
  console.log(line(way.name, ...cells))
  await client.end()
}

/** Expired ones among live ones, and as on a table that has been in use for a while: touched, vacuumed. */
async function fill(client: pg.Client): Promise<void> {
  await client.query('truncate session')
  const id = `'sha256:' || rtrim(translate(encode(sha256(('live-' || i)::bytea), 'base64'), '+/', '-_'), '=')`
  await client.query(
    `insert into session (id, expiry, session, version)
     select ${id}, now() + (case when random() < ${share} then -1 else 1 end) * interval '1 hour' * (0.1 + random()),
     ('{"n":' || i || ',"x":"' || repeat('x', 380) || '"}')::json, 1 from generate_series(1, ${rows}) i`,
  )
  await client.query('vacuum analyze session')
  await client.query('checkpoint')
}

async function said(load: ChildProcess, word = 'how long'): Promise<Latencies> {
  const answer = once(load, 'message')
  load.send(word)
  return (await answer)[0] as Latencies
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

function p99(list: number[]): string {
  const sorted = list.toSorted((a, b) => a - b)
  return `${(sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN).toFixed(1)} ms`
}

function line(name: string, ...cells: string[]): string {
  return name.padEnd(48) + cells.map((cell) => cell.padStart(13)).join('')
}
