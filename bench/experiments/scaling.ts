// npm run bench:growth: get and set in tables of three sizes, and cached gets with small and large caches.
// npm run bench:growth -- [--seconds 1] [--rounds 3] [--interval 60000]
import { parseArgs } from 'node:util'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { readPlan, repeat } from '../comparison/measure.js'
import { environment, saveJson } from '../report/files.js'
import { count, machine, table } from '../report/markdown.js'
import type { Rate } from '../report/results.js'
import { startDatabase } from '../support/database.js'
import { fill, session, ttl } from '../support/sessions.js'
import { median } from '../support/statistics.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    // The store's touch.interval. 0: last accesses are not written, which shows what they cost.
    interval: { type: 'string', default: '60000' },
  },
})
const { seconds, rounds } = readPlan(values)
const touch = { interval: Number(values.interval) }

interface Figure extends Rate {
  readonly rows: number
  readonly operation: 'get' | 'set'
  readonly callers: number
}

const tableRows = [10_000, 100_000, 1_000_000]
const callerCounts = [1, 256]
const cacheEntries = [1_000, 100_000]
const hitsPerRound = 500_000

const database = await startDatabase()
try {
  const url = await database.create('growth')
  const figures: Figure[] = []
  for (const [n, rows] of tableRows.entries()) {
    process.stderr.write(`${count(rows)} rows\n`)
    await addRows(url, tableRows[n - 1] ?? 0, rows)
    figures.push(...(await measureTable(url, rows)))
  }
  const hits = []
  for (const entries of cacheEntries) hits.push(await measureHits(url, entries))
  const results = { ...environment(database), seconds, rounds, touch, figures, hits }
  console.log(
    `${machine(results)}. Medians of ${rounds} rounds of ${seconds} s each; last accesses ${touch.interval ? `every ${count(touch.interval)} ms` : 'not written'}.\n`,
  )
  const rate = (rows: number, operation: string, callers: number): string =>
    count(
      figures.find((f) => f.rows === rows && f.operation === operation && f.callers === callers)?.perSecond ??
        0,
    )
  const cases = ['get', 'set'].flatMap((operation) =>
    callerCounts.map((callers) => [operation, callers] as const),
  )
  console.log(
    table(
      ['per second, uncached', ...tableRows.map((rows) => `${count(rows)} rows`)],
      cases.map(([operation, callers]) => [
        `${operation}, ${callers === 1 ? '1 caller' : `${callers} callers`}`,
        ...tableRows.map((rows) => rate(rows, operation, callers)),
      ]),
    ),
  )
  console.log()
  console.log(
    table(
      ['cached', ...cacheEntries.map((entries) => `${count(entries)} entries`)],
      [['ns for an awaited get', ...hits.map(({ ns }) => count(ns))]],
    ),
  )
  await saveJson('growth.json', results)
} finally {
  await database.stop()
}

/** Inserts sessions as the store would, with the ids `session-<n>`. */
async function addRows(url: string, from: number, to: number): Promise<void> {
  const store = new PgStore(url)
  await store.setup()
  await store.close()
  const client = new pg.Client(url)
  await client.connect()
  await client.query(
    `insert into session (id, session, expiry, version)
     select 'sha256:' || rtrim(translate(encode(sha256(convert_to('session-' || n, 'UTF8')), 'base64'), '+/', '-_'), '='),
       $1::json, now() + interval '1 day', 1
     from generate_series($2::int, $3::int) as n`,
    [JSON.stringify(session()), from, to - 1],
  )
  for (const step of ['vacuum analyze session', 'checkpoint']) await client.query(step)
  await client.end()
}

async function measureTable(url: string, rows: number): Promise<Figure[]> {
  const store = new PgStore(url, { cache: false, touch })
  const randomId = () => `session-${Math.floor(Math.random() * rows)}`
  let missing = 0
  const work = {
    get: async () => {
      if ((await store.get(randomId())) === undefined) missing++
    },
    set: () => store.set(randomId(), session(), ttl),
  }
  const cases = (['get', 'set'] as const).flatMap((operation) =>
    callerCounts.map((callers) => ({ operation, callers, measured: [] as number[] })),
  )
  // Round by round, so that a disturbance of the machine affects all cases. The first round warms up.
  for (let round = 0; round <= rounds; round++)
    for (const { operation, callers, measured } of cases) {
      const { perSecond } = await repeat(work[operation], callers, seconds)
      if (round > 0) measured.push(perSecond)
    }
  await store.close()
  if (missing > 0) throw new Error(`${missing} sessions were not found`)
  return cases.map(({ operation, callers, measured }) => ({
    rows,
    operation,
    callers,
    perSecond: median(measured),
    rounds: measured,
  }))
}

/** Measures the gets of one caller, in random order, of sessions that are in the cache. */
async function measureHits(url: string, entries: number) {
  const store = new PgStore(url, { cache: { max: entries, maxBytes: 2 ** 30, ttl }, listen: false, touch })
  const sids = Array.from({ length: entries }, (_, n) => `session-${n}`)
  // Twice, as the cache parses an entry at its first hit.
  for (let pass = 0; pass < 2; pass++) await fill(sids, (sid) => store.get(sid))
  const order = Array.from(
    { length: hitsPerRound },
    () => sids[Math.floor(Math.random() * entries)] as string,
  )
  const measured: number[] = []
  for (let round = 0; round <= rounds; round++) {
    const start = performance.now()
    for (const sid of order) await store.get(sid)
    if (round > 0) measured.push(((performance.now() - start) / hitsPerRound) * 1e6)
  }
  const { cache } = await store.stats()
  if (!cache || cache.misses > entries) throw new Error('not every get was a cache hit')
  await store.close()
  return { entries, ns: median(measured), rounds: measured }
}
