// npm run bench:touches: the cost of 500,000 touches by index, fill factor, batch size and order of columns.
//
// The results are why the table has fill factor 70 and no index on a column that a touch changes: then every touch is a HOT
// update, and neither table nor indexes grow. A b-tree on expiry or last_access prevents HOT updates. BRIN allows them
// (PostgreSQL 16 or newer) but is useless: touches mix early and late expiries in a page, so a sweep of 78 in 100,000 rows
// reads 70 % of the pages. A b-tree on a column that touches don't change, such as user_id, costs them nothing. Statements of
// 5,000 sessions are the fastest, those of 500 hardly slower; updating half of a small table at once exceeds the space that
// the fill factor leaves. PostgreSQL logs the part of a row between its first and last changed column: 400 bytes less if
// last_access follows expiry than if the session is between them.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { environment, saveJson } from '../report/files.js'
import { count, machine, table } from '../report/markdown.js'
import { type Database, startDatabase } from '../support/database.js'
import { fill, newIds, session, ttl, turns } from '../support/sessions.js'

interface Design {
  /** The name of what it has besides the primary key. */
  readonly index: string
  /** Statements that create the table, if not the store, and the index. */
  readonly tableSql?: string
  readonly indexSql?: string
  readonly fillfactor: number
  readonly sessions?: number
  /** Sessions in a statement; `'at once'`: 256 callers with `touch.interval` 0. */
  readonly batch?: number | 'at once'
}

const btree = { index: 'b-tree on expiry', indexSql: 'create index on session (expiry)' }
const brin = { index: 'BRIN on expiry', indexSql: 'create index on session using brin (expiry)' }
const users = {
  index: 'b-tree on user_id',
  indexSql: 'create index on session (user_id) where user_id is not null',
}
const accesses = { index: 'b-tree on last_access', indexSql: 'create index on session (last_access)' }
const adjacent = {
  index: 'none, last_access after expiry',
  tableSql: `create table session (id text primary key, expiry timestamptz not null, last_access timestamptz not null default now(),
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
  { ...adjacent, fillfactor: 70 },
  { index: 'none', fillfactor: 70, batch: 500 },
  { index: 'none', fillfactor: 70, batch: 'at once' },
  { index: 'none', fillfactor: 70, sessions: 10_000 },
  { index: 'none', fillfactor: 70, sessions: 10_000, batch: 500 },
]
const callers = 256
const defaultBatch = 5_000

const { values } = parseArgs({
  options: {
    sessions: { type: 'string', default: '100000' },
    touches: { type: 'string', default: '500000' },
  },
})
const defaultSessions = Number(values.sessions)
const touches = Number(values.touches)
if (!(defaultSessions >= 10_000 && touches >= 10_000))
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
  const good = figures.filter(
    ({ hot, table, indexes }) =>
      hot > 0.99 && [table, indexes].every(({ before, after }) => after < before * 1.01),
  )
  good.sort((a, b) => a.walBytes - b.walBytes)
  console.log('\nOver 99 % HOT updates and no growth, by WAL:')
  for (const f of good)
    console.log(
      `- ${f.index}, fill factor ${f.fillfactor}, ${f.batch} in a statement: ${count(f.perSecond)} touches a second`,
    )
  await saveJson('touches.json', results)
} finally {
  await database.stop()
}

async function measure(database: Database, name: string, design: Design) {
  const { index, tableSql, indexSql, fillfactor } = design
  const { sessions = defaultSessions, batch = defaultBatch } = design
  const url = await database.create(name)
  const pool = new pg.Pool({ connectionString: url })
  const admin = new pg.Client(url)
  await admin.connect()
  const queryOne = async <T extends object>(text: string) => (await admin.query<T>(text)).rows[0] as T
  // The cache holds every session's expiry, so that no session is touched before its batch is full.
  const store = new PgStore(pool, {
    listen: false,
    cache: { max: sessions, maxBytes: 2 ** 30, ttl },
    touch: batch === 'at once' ? { interval: 0 } : { interval: 1, batchSize: batch },
  })
  if (tableSql) await admin.query(tableSql)
  const ids = newIds(sessions)
  await fill(ids, (id) => store.set(id, session()))
  await admin.query(`update session set user_id = left(id, 10), version = version + 1`)
  await admin.query(`alter table session set (fillfactor = ${fillfactor})`)
  if (indexSql) await admin.query(indexSql)
  for (const step of ['vacuum (full, analyze) session', 'vacuum session', 'checkpoint'])
    await admin.query(step)
  await queryOne('select pg_stat_force_next_flush()')

  const sizes = `select pg_table_size('session')::float8 as table, pg_indexes_size('session')::float8 as indexes`
  const updates = `select n_tup_upd::float8 as all, n_tup_hot_upd::float8 as hot from pg_stat_user_tables`
  const lsn = `select pg_current_wal_lsn() as lsn`
  const before = { ...(await queryOne<Sizes>(sizes)), ...(await queryOne<Updates>(updates)) }
  const { lsn: start } = await queryOne<{ lsn: string }>(lsn)
  const ms = await touchAll(store, pool, ids, batch)
  const { bytes } = await queryOne<{ bytes: number }>(
    `select pg_wal_lsn_diff(pg_current_wal_lsn(), '${start}')::float8 as bytes`,
  )
  await store.close()
  await pool.end()
  // PostgreSQL counts the updates of a connection when it ends.
  let done = await queryOne<Updates>(updates)
  for (let wait = 0; done.all - before.all < touches && wait < 100; wait++) {
    await sleep(100)
    done = await queryOne<Updates>(updates)
  }
  const written = done.all - before.all
  if (written !== touches) throw new Error(`${written} rows were updated by ${touches} touches`)
  const after = await queryOne<Sizes>(sizes)
  // Otherwise autovacuum would work on it, and write WAL, during the next measurement.
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

/** Resolves with the ms until all touches are written. A batch is collected while another one is being written. */
async function touchAll(
  store: PgStore,
  pool: pg.Pool,
  ids: string[],
  batch: number | 'at once',
): Promise<number> {
  const nextId = turns(ids)
  const start = performance.now()
  let remaining = touches
  if (batch === 'at once') {
    const caller = async () => {
      while (remaining-- > 0) await store.touch(nextId())
    }
    await Promise.all(Array.from({ length: callers }, caller))
  } else {
    // Each statement releases a client of the pool when it has run.
    let statementsInFlight = 0
    pool.on('release', () => statementsInFlight--)
    for (; remaining > 0; remaining -= batch) {
      statementsInFlight++
      await Promise.all(Array.from({ length: Math.min(batch, remaining) }, () => store.touch(nextId())))
      while (statementsInFlight > 1) await once(pool, 'release')
    }
    while (statementsInFlight > 0) await once(pool, 'release')
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
