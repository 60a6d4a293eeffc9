// What the store costs as it grows: get and set in tables of three sizes, a cached get among few and many.
// npm run bench:growth -- [--seconds 1] [--rounds 3] [--interval 60000]
import { parseArgs } from 'node:util'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { median, repeat } from '../comparison/measure.js'
import { count, machine, table } from '../report/markdown.js'
import { environment, json, save } from '../report/results.js'
import { startDatabase } from '../support/database.js'
import { session, ttl } from '../support/sessions.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    // How often a last access is written; 0: never, which shows what of a get's cost is in that.
    interval: { type: 'string', default: '60000' },
  },
})
const seconds = Number(values.seconds)
const rounds = Number(values.rounds)
const touch = { interval: Number(values.interval) }
if (!(seconds > 0 && rounds >= 1)) throw new RangeError('--seconds and --rounds must be above 0')

interface Figure {
  readonly rows: number
  readonly operation: 'get' | 'set'
  readonly callers: number
  readonly perSecond: number
  readonly rounds: readonly number[]
}

const sizes = [10_000, 100_000, 1_000_000]
const callers = [1, 256]
const entries = [1_000, 100_000]
const hitsInRound = 500_000

const database = await startDatabase()
try {
  const url = await database.create('growth')
  const figures: Figure[] = []
  for (const [n, rows] of sizes.entries()) {
    process.stderr.write(`${count(rows)} rows\n`)
    await grow(url, sizes[n - 1] ?? 0, rows)
    figures.push(...(await measureTable(url, rows)))
  }
  const hits = []
  for (const size of entries) hits.push(await measureHits(url, size))
  const results = { ...environment(database), seconds, rounds, touch, figures, hits }
  console.log(
    `${machine(results)}. Medians of ${rounds} rounds of ${seconds} s each; last accesses ${touch.interval ? `every ${count(touch.interval)} ms` : 'not written'}.\n`,
  )
  const rate = (rows: number, operation: string, number: number): string =>
    count(
      figures.find((f) => f.rows === rows && f.operation === operation && f.callers === number)?.perSecond ??
        0,
    )
  const cases = ['get', 'set'].flatMap((operation) => callers.map((number) => [operation, number] as const))
  console.log(
    table(
      ['per second, uncached', ...sizes.map((rows) => `${count(rows)} rows`)],
      cases.map(([operation, number]) => [
        `${operation}, ${number === 1 ? '1 caller' : `${number} callers`}`,
        ...sizes.map((rows) => rate(rows, operation, number)),
      ]),
    ),
  )
  console.log()
  console.log(
    table(
      ['cached', ...entries.map((size) => `${count(size)} entries`)],
      [['ns for an awaited get', ...hits.map(({ ns }) => count(ns))]],
    ),
  )
  await save('growth.json', json(results))
} finally {
  await database.stop()
}

/** Adds sessions as the store would have written them, under the ids `session-<n>`. */
async function grow(url: string, from: number, to: number): Promise<void> {
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
  const anyId = () => `session-${Math.floor(Math.random() * rows)}`
  let missing = 0
  const work = {
    get: async () => {
      if ((await store.get(anyId())) === undefined) missing++
    },
    set: () => store.set(anyId(), session(), ttl),
  }
  const cases = (['get', 'set'] as const).flatMap((operation) =>
    callers.map((number) => ({ operation, callers: number, all: [] as number[] })),
  )
  // The first round warms up. Round by round, so that what disturbs the machine for a while hits all.
  for (let round = 0; round <= rounds; round++)
    for (const { operation, callers, all } of cases) {
      const { perSecond } = await repeat(work[operation], callers, seconds)
      if (round > 0) all.push(perSecond)
    }
  await store.close()
  if (missing > 0) throw new Error(`${missing} sessions were not found`)
  return cases.map(({ all, ...rest }) => ({ rows, ...rest, perSecond: median(all), rounds: all }))
}

/** What one caller waits for a session that is in memory, in random order. */
async function measureHits(url: string, size: number) {
  const store = new PgStore(url, { cache: { max: size, maxBytes: 2 ** 30, ttl }, listen: false, touch })
  const sids = Array.from({ length: size }, (_, n) => `session-${n}`)
  // Twice: what was read is parsed as it is first wanted.
  for (let time = 0; time < 2; time++)
    for (let n = 0; n < size; n += 1_000)
      await Promise.all(sids.slice(n, n + 1_000).map((sid) => store.get(sid)))
  const order = Array.from({ length: hitsInRound }, () => sids[Math.floor(Math.random() * size)] as string)
  const all: number[] = []
  for (let round = 0; round <= rounds; round++) {
    const start = performance.now()
    for (const sid of order) await store.get(sid)
    if (round > 0) all.push(((performance.now() - start) / hitsInRound) * 1e6)
  }
  const { cache } = await store.stats()
  if (!cache || cache.misses > size) throw new Error('not every get was answered from memory')
  await store.close()
  return { entries: size, ns: median(all), rounds: all }
}
