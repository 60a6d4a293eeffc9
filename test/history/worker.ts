// An instance that makes random calls on few keys for a while, and then says what it did.
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Stats, PgStore as Store } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { type Event, now } from './event.js'

export interface Work {
  /** Where lib/ is: the real one, or one with a fault put in. */
  library: string
  url: string
  listen: string
  outside: string
  process: number
  seed: number
  seconds: number
  keys: number
  /** How many calls it makes at once. */
  callers: number
  /** Almost nothing but sets, destroys and touches, as fast as they go. */
  changes: boolean
  maxStaleness: number
}

/** What a worker says in the end. */
export interface Report {
  events: Event[]
  /** What calls failed with. */
  errors: string[]
  stats?: Stats
}

const work = JSON.parse(process.argv[2] ?? '') as Work
const { PgStore } = (await import(work.library)) as { PgStore: typeof Store }
const store = new PgStore(work.url, {
  listen: work.listen,
  cache: { maxStaleness: work.maxStaleness },
  // Each touch a statement.
  ...(work.changes && { touch: { interval: 0 } }),
})
const psql = new pg.Pool({ connectionString: work.outside, max: 2 })
psql.on('error', () => undefined)
const events: Event[] = []
const errors: string[] = []
const random = mulberry32(work.seed * 1_000 + work.process)
let written = work.process * 1e9

/** Small, and the same for the same seed. */
function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

async function record(
  event: Pick<Event, 'kind' | 'key' | 'value'>,
  call: () => Promise<number | null | undefined | false>,
): Promise<void> {
  const start = now()
  let end = Number.POSITIVE_INFINITY
  let value = event.value
  try {
    const result = await call()
    if (result === false) return
    if (result !== undefined) value = result
    end = now()
  } catch (error) {
    // Nobody knows whether it happened.
    errors.push(String(error))
  }
  events.push({ ...event, ...(value === undefined ? {} : { value }), process: work.process, start, end })
}

/** A destroyed key stays so: every while there are new ones. */
const whileMs = work.changes ? 1_000 : 3_000

function anyKey(): string {
  return `${Math.floor(random() * work.keys)}-${Math.floor(now() / whileMs)}`
}

const calls = {
  read: (key: string) =>
    record({ kind: 'read', key }, async () => (await store.get<{ n: number }>(key))?.n ?? null),
  async write(key: string) {
    const value = ++written
    // Half of them change what they have loaded, and are merged with what others did meanwhile.
    const loaded = random() < 0.5 ? await store.get(key).catch(() => undefined) : undefined
    if (loaded !== undefined) await sleep(Math.floor(random() * 10))
    return record(
      { kind: 'write', key, value },
      async () => void (await store.set(key, Object.assign(loaded ?? {}, { n: value }), 600_000)),
    )
  },
  touch: (key: string) => record({ kind: 'touch', key }, async () => void (await store.touch(key, 600_000))),
  end: (key: string) => record({ kind: 'end', key }, async () => void (await store.destroy(key))),
  /** Many in one statement. */
  endMany: (key: string) =>
    Promise.all([key, ...new Set(Array.from({ length: 9 }, anyKey))].map((key) => calls.end(key))),
  writeOutside(key: string) {
    const value = ++written
    const text = 'update session set session = $2 where id = $1 and session is not null'
    return record({ kind: 'outside write', key, value }, async () =>
      (await psql.query(text, [idOf(key), { n: value }])).rowCount ? undefined : false,
    )
  },
  endOutside: (key: string) =>
    record({ kind: 'outside end', key }, async () =>
      (await psql.query('delete from session where id = $1', [idOf(key)])).rowCount ? undefined : false,
    ),
}

function idOf(key: string): string {
  return `sha256:${digestOf(key)}`
}

/** Each call, and below which throw of the dice it is made. */
const shares: [keyof typeof calls, number][] = work.changes
  ? [
      ['write', 0.85],
      ['touch', 0.95],
      ['read', 0.9998],
      ['endMany', 1],
    ]
  : [
      ['read', 0.72],
      ['write', 0.92],
      ['touch', 0.95],
      ['end', 0.955],
      ['writeOutside', 0.995],
      ['endOutside', 1],
    ]

async function step(): Promise<void> {
  const key = anyKey()
  const dice = random()
  const [call] = shares.find(([, below]) => dice < below) ?? ['read']
  await calls[call](key)
}

store.on('warning', () => undefined)
// Whoever started it may be ended first.
process.once('disconnect', () => process.exit())
const end = now() + work.seconds * 1_000
const fibres = Array.from({ length: work.callers }, async () => {
  while (now() < end) {
    await step()
    // Answers from memory must not keep the process from hearing.
    if (!work.changes) await sleep(Math.floor(random() * 4))
  }
})
await Promise.all(fibres)
const stats = await store.stats().catch(() => undefined)
await store.close()
await psql.end()
const report: Report = { events, errors, ...(stats && { stats }) }
process.send?.(report, () => process.disconnect())
