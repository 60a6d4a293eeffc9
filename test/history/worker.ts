// A store in a child process that makes random calls on few keys for a while, and then reports them.
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Stats, PgStore as Store } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { type Event, now } from './event.js'

export interface Work {
  /** The URL of lib/index.js, or of a copy with a fault. */
  library: string
  url: string
  listen: string
  /** For changes directly in SQL. */
  outsideUrl: string
  process: number
  seed: number
  seconds: number
  keys: number
  /** The number of concurrent calls. */
  callers: number
  /** Make almost only sets, destroys and touches, as fast as possible. */
  changes: boolean
  maxStaleness: number
  /** By how much, in ms at most, each flush of the log is delayed at random. */
  flushDelayMs: number
  hasTriggers: boolean
  /** How long a statement may take. */
  queryTimeoutMs: number
}

/** The message of a worker when it has finished. */
export interface Report {
  events: Event[]
  /** The errors of failed calls. */
  errors: string[]
  stats?: Stats
}

const work = JSON.parse(process.argv[2] ?? '') as Work
const { PgStore } = (await import(work.library)) as { PgStore: typeof Store }
/** Sends the statements that flush the log late: until then the changes are visible, and not acknowledged. */
class SlowFlushClient extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config)
    const query: (...args: unknown[]) => unknown = this.query.bind(this)
    const flushes = (statement: unknown): boolean =>
      String(Reflect.get(Object(statement), 'text')).includes('pg_logical_emit_message(')
    Reflect.set(this, 'query', (...args: unknown[]) =>
      flushes(args[0]) ? sleep(random() ** 3 * work.flushDelayMs).then(() => query(...args)) : query(...args),
    )
  }
}

const Client = work.flushDelayMs > 0 ? SlowFlushClient : pg.Client
const config = {
  connectionString: work.url,
  Client,
  query_timeout: work.queryTimeoutMs,
} satisfies pg.PoolConfig
const store = new PgStore(config, {
  listen: work.listen,
  cache: { maxStaleness: work.maxStaleness },
  // Don't buffer touches.
  ...(work.changes && { touch: { interval: 0 } }),
})
const psql = new pg.Pool({ connectionString: work.outsideUrl, max: 2 })
psql.on('error', () => undefined)
// Before psql's first statement. With trouble, the server may not be there yet: the first calls try again.
await store.setup().catch(() => undefined)
const events: Event[] = []
const errors: string[] = []
const random = mulberry32(work.seed * 1_000 + work.process)
let written = work.process * 1e9

/** A small random number generator; the same seed gives the same numbers. */
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
    // It may or may not have taken effect: `end` stays infinite.
    errors.push(String(error))
  }
  events.push({ ...event, ...(value === undefined ? {} : { value }), process: work.process, start, end })
}

/** Keys are renewed after this time, since a destroyed one stays destroyed. */
const keyLifetimeMs = work.changes ? 1_000 : 3_000

function anyKey(): string {
  return `${Math.floor(random() * work.keys)}-${Math.floor(now() / keyLifetimeMs)}`
}

const calls = {
  read: (key: string) =>
    record({ kind: 'read', key }, async () => (await store.get<{ n: number }>(key))?.n ?? null),
  async write(key: string) {
    const value = ++written
    // Half of the writes change a loaded session, and are merged with concurrent changes.
    const loaded = random() < 0.5 ? await store.get(key).catch(() => undefined) : undefined
    if (loaded !== undefined) await sleep(Math.floor(random() * 10))
    return record(
      { kind: 'write', key, value },
      async () => void (await store.set(key, Object.assign(loaded ?? {}, { n: value }), 600_000)),
    )
  },
  touch: (key: string) => record({ kind: 'touch', key }, async () => void (await store.touch(key, 600_000))),
  destroy: (key: string) => record({ kind: 'destroy', key }, async () => void (await store.destroy(key))),
  /** Destroys several keys in one statement. */
  destroyMany: (key: string) =>
    Promise.all([key, ...new Set(Array.from({ length: 9 }, anyKey))].map((key) => calls.destroy(key))),
  writeOutside(key: string) {
    const value = ++written
    const text = 'update session set session = $2 where id = $1 and session is not null'
    return record({ kind: 'outside write', key, value }, async () =>
      (await psql.query(text, [idOf(key), { n: value }])).rowCount ? undefined : false,
    )
  },
  deleteOutside: (key: string) =>
    record({ kind: 'outside delete', key }, async () =>
      (await psql.query('delete from session where id = $1', [idOf(key)])).rowCount ? undefined : false,
    ),
}

function idOf(key: string): string {
  return `sha256:${digestOf(key)}`
}

/** Each call, and the random number below which it is made. */
const thresholds: [keyof typeof calls, number][] = work.changes
  ? [
      ['write', 0.85],
      ['touch', 0.95],
      ['read', 0.9998],
      ['destroyMany', 1],
    ]
  : [
      ['read', 0.72],
      ['write', 0.92],
      ['touch', 0.95],
      ['destroy', work.hasTriggers ? 0.955 : 1],
      ['writeOutside', 0.995],
      ['deleteOutside', 1],
    ]

async function step(): Promise<void> {
  const key = anyKey()
  const roll = random()
  const [call] = thresholds.find(([, threshold]) => roll < threshold) ?? ['read']
  await calls[call](key)
}

store.on('warning', () => undefined)
// The parent process may end first.
process.once('disconnect', () => process.exit())
const deadline = now() + work.seconds * 1_000
const callers = Array.from({ length: work.callers }, async () => {
  while (now() < deadline) {
    await step()
    // Lets the event loop receive notifications even if all reads are cache hits.
    if (!work.changes) await sleep(Math.floor(random() * 4))
  }
})
await Promise.all(callers)
const stats = await store.stats().catch(() => undefined)
await store.close()
await psql.end()
const report: Report = { events, errors, ...(stats && { stats }) }
process.send?.(report, () => process.disconnect())
