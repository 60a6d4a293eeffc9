// 500,000 touches of 100,000 sessions: what they cost with each index, fill factor, batch and order of columns.
// npm run bench:touches
//
// They choose no index on a column that a touch changes, and fill factor 70: then every touch is a HOT update, and neither
// table nor indexes grow. A b-tree on expiry, or on last_access, forbids HOT altogether. BRIN allows it (PostgreSQL 16 on) and
// finds nothing: touches leave early and late expiries side by side, so that a sweep of 78 in 100,000 reads 70 % of the pages.
// A b-tree on what touches don't change, such as user_id, costs them nothing. 5,000 sessions in a statement are as fast as it
// gets, 500 hardly slower; half of a small table at once doesn't fit into the room that the fill factor leaves. PostgreSQL
// logs of a row what lies between its first and its last changed column: with the session between expiry and last_access all
// of it, with the two side by side 400 bytes less.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { count, machine, table } from '../report/markdown.js'
import { environment, json, save } from '../report/results.js'
import { type Database, startDatabase } from '../support/database.js'
import { fill, newIds, session, ttl, turns } from '../support/sessions.js'

interface Design {
  /** Beside the primary key. */
  readonly index: string
  /** Before the sessions are there. */
  readonly table?: string
  readonly sql?: string
  readonly fillfactor: number
  readonly sessions?: number
  /** How many in a statement; `'at once'`: `touch.interval` 0, with 256 callers. */
  readonly batch?: number | 'at once'
}

const btree = { index: 'b-tree on expiry', sql: 'create index on session (expiry)' }
const brin = { index: 'BRIN on expiry', sql: 'create index on session using brin (expiry)' }
const users = {
  index: 'b-tree on user_id',
  sql: 'create index on session (user_id) where user_id is not null',
}
const accesses = { index: 'b-tree on last_access', sql: 'create index on session (last_access)' }
const beside = {
  index: 'none, last_access beside expiry',
  table: `create table session (id text primary key, expiry timestamptz not null, last_access timestamptz not null default now(),
    session json, user_id text, created_at timestamptz not null default now(), version bigint not null);
    comment on column session.id is 'SHA-256 of the session id'`,
}
const designs: Design[] = [
  ...[{ index: 'none' }, btree, brin].flatMap((kind) => [
    { ...kind, fillfactor: 100 },
    { ...kind, fillfactor: 70 },
  ]),
  { ...accesses, fillfactor: 70 },
  { ...users, fillfactor: 70 },
  { ...beside, fillfactor: 70 },
  { index: 'none', fillfactor: 70, batch: 500 },
  { index: 'none', fillfactor: 70, batch: 'at once' },
  { index: 'none', fillfactor: 70, sessions: 10_000 },
  { index: 'none', fillfactor: 70, sessions: 10_000, batch: 500 },
]
const callers = 256

const { values } = parseArgs({
  options: {
    sessions: { type: 'string', default: '100000' },
    touches: { type: 'string', default: '500000' },
  },
})
const most = Number(values.sessions)
const touches = Number(values.touches)
if (!(most >= 10_000 && touches >= 10_000))
  throw new RangeError('--sessions and --touches must be 10000 or more')

const database = await startDatabase()
try {
  const figures = []
  for (const [n, design] of designs.entries()) {
    process.stderr.write(`design ${n + 1} of ${designs.length}\n`)
    figures.push(await measure(database, `touches${n}`, design))
  }
  const results = { ...environment(database), touches, figures }
  console.log(`${machine(results)}. ${count(touches)} touches each.\n`)
  console.log(
    table(
      [
        'index',
        'fill factor',
        'sessions',
        'in a statement',
        'touches/s',
        'HOT',
        'WAL a touch',
        'table, MB',
        'indexes, MB',
      ],
      figures.map((f) => [
        f.index,
        `${f.fillfactor}`,
        count(f.sessions),
        `${f.batch}`,
        count(f.perSecond),
        `${(f.hot * 100).toFixed(1)} %`,
        `${count(f.walBytes)} bytes`,
        ...[f.table, f.indexes].map(({ before, after }) => `${megabytes(before)} → ${megabytes(after)}`),
      ]),
    ),
  )
  const chosen = figures.filter(
    ({ hot, table, indexes }) =>
      hot > 0.99 && [table, indexes].every(({ before, after }) => after < before * 1.01),
  )
  chosen.sort((a, b) => a.walBytes - b.walBytes)
  console.log('\nAll but HOT and without growth, the least WAL first:')
  for (const f of chosen)
    console.log(
      `- ${f.index}, fill factor ${f.fillfactor}, ${f.batch} in a statement: ${count(f.perSecond)} touches a second`,
    )
  await save('touches.json', json(results))
} finally {
  await database.stop()
}

async function measure(database: Database, name: string, design: Design) {
  const { index, table, sql, fillfactor, sessions = most, batch = 5_000 } = design
  const url = await database.create(name)
  const pool = new pg.Pool({ connectionString: url })
  const admin = new pg.Client(url)
  await admin.connect()
  const ask = async <T extends object>(text: string) => (await admin.query<T>(text)).rows[0] as T
  // The store knows of each session that it lives on, so that none is touched before its batch is full.
  const store = new PgStore(pool, {
    listen: false,
    cache: { max: sessions, maxBytes: 2 ** 30, ttl },
    touch: batch === 'at once' ? { interval: 0 } : { interval: 1, batchSize: batch },
  })
  if (table) await admin.query(table)
  const ids = newIds(sessions)
  await fill(ids, (id) => store.set(id, session()))
  await admin.query(`update session set user_id = left(id, 10), version = version + 1`)
  await admin.query(`alter table session set (fillfactor = ${fillfactor})`)
  if (sql) await admin.query(sql)
  for (const step of ['vacuum (full, analyze) session', 'vacuum session', 'checkpoint'])
    await admin.query(step)
  await ask('select pg_stat_force_next_flush()')

  const sizes = `select pg_table_size('session')::float8 as table, pg_indexes_size('session')::float8 as indexes`
  const updates = `select n_tup_upd::float8 as all, n_tup_hot_upd::float8 as hot from pg_stat_user_tables`
  const lsn = `select pg_current_wal_lsn() as lsn`
  const before = { ...(await ask<Sizes>(sizes)), ...(await ask<Updates>(updates)) }
  const { lsn: start } = await ask<{ lsn: string }>(lsn)
  const ms = await touchAll(store, pool, ids, batch)
  const { bytes } = await ask<{ bytes: number }>(
    `select pg_wal_lsn_diff(pg_current_wal_lsn(), '${start}')::float8 as bytes`,
  )
  await store.close()
  await pool.end()
  // A connection tells what it did as it ends.
  let done = await ask<Updates>(updates)
  for (let wait = 0; done.all - before.all < touches && wait < 100; wait++) {
    await sleep(100)
    done = await ask<Updates>(updates)
  }
  const written = done.all - before.all
  if (written !== touches) throw new Error(`${written} rows were updated by ${touches} touches`)
  const after = await ask<Sizes>(sizes)
  // Autovacuum would clean it up while the next is measured, and the WAL is one for all.
  await admin.query('drop table session')
  await admin.end()
  return {
    index,
    fillfactor,
    sessions,
    batch,
    perSecond: (touches / ms) * 1_000,
    hot: (done.hot - before.hot) / written,
    walBytes: bytes / touches,
    table: { before: before.table, after: after.table },
    indexes: { before: before.indexes, after: after.indexes },
  }
}

/** In how many ms all touches are written; the next batch is made while one is under way. */
async function touchAll(
  store: PgStore,
  pool: pg.Pool,
  ids: string[],
  batch: number | 'at once',
): Promise<number> {
  const next = turns(ids)
  const start = performance.now()
  let left = touches
  if (batch === 'at once') {
    const caller = async () => {
      while (left-- > 0) await store.touch(next())
    }
    await Promise.all(Array.from({ length: callers }, caller))
  } else {
    // Each statement takes a client of the pool, and gives it back.
    let underWay = 0
    pool.on('release', () => underWay--)
    for (; left > 0; left -= batch) {
      underWay++
      await Promise.all(Array.from({ length: Math.min(batch, left) }, () => store.touch(next())))
      while (underWay > 1) await once(pool, 'release')
    }
    while (underWay > 0) await once(pool, 'release')
  }
  return performance.now() - start
}

interface Sizes {
  readonly table: number
  readonly indexes: number
}

interface Updates {
  readonly all: number
  readonly hot: number
}

function megabytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1)
}
