// An instance that makes random calls on few keys for a while, and then says what it did.
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { PgStore as Store } from '../../lib/index.js'
import { nameOf } from '../../lib/notice.js'
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
  maxStaleness: number
}

const work = JSON.parse(process.argv[2] ?? '') as Work
const { PgStore } = (await import(work.library)) as { PgStore: typeof Store }
const store = new PgStore(work.url, { listen: work.listen, cache: { maxStaleness: work.maxStaleness } })
const psql = new pg.Pool({ connectionString: work.outside, max: 2 })
psql.on('error', () => undefined)
const events: Event[] = []
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
  } catch {
    // Nobody knows whether it happened.
  }
  events.push({ ...event, ...(value === undefined ? {} : { value }), process: work.process, start, end })
}

async function step(): Promise<void> {
  // A destroyed key stays so: every three seconds there are new ones.
  const key = `${Math.floor(random() * work.keys)}-${Math.floor(now() / 3_000)}`
  const id = `sha256:${nameOf(key)}`
  const dice = random()
  if (dice < 0.72)
    await record({ kind: 'read', key }, async () => (await store.get<{ n: number }>(key))?.n ?? null)
  else if (dice < 0.92) {
    const value = ++written
    // Half of them change what they have loaded, and are merged with what others did meanwhile.
    const loaded = random() < 0.5 ? await store.get(key).catch(() => undefined) : undefined
    if (loaded !== undefined) await sleep(Math.floor(random() * 10))
    await record(
      { kind: 'write', key, value },
      async () => void (await store.set(key, Object.assign(loaded ?? {}, { n: value }), 600_000)),
    )
  } else if (dice < 0.95)
    await record({ kind: 'touch', key }, async () => void (await store.touch(key, 600_000)))
  else if (dice < 0.955) await record({ kind: 'end', key }, async () => void (await store.destroy(key)))
  else if (dice < 0.995) {
    const value = ++written
    const text = 'update session set session = $2 where id = $1 and session is not null'
    await record({ kind: 'outside write', key, value }, async () =>
      (await psql.query(text, [id, { n: value }])).rowCount ? undefined : false,
    )
  } else
    await record({ kind: 'outside end', key }, async () =>
      (await psql.query('delete from session where id = $1', [id])).rowCount ? undefined : false,
    )
}

store.on('warning', () => undefined)
const end = now() + work.seconds * 1_000
const fibres = Array.from({ length: 4 }, async () => {
  while (now() < end) {
    await step()
    // Answers from memory must not keep the process from hearing.
    await sleep(Math.floor(random() * 4))
  }
})
await Promise.all(fibres)
const stats = await store.stats().catch(() => undefined)
await store.close()
await psql.end()
process.send?.({ events, stats }, () => process.disconnect())
