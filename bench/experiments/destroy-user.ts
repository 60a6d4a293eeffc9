// What it costs others when a user with 10,000 sessions is signed out everywhere. npm run bench:users
import { fork } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { PgStore } from '../../lib/index.js'
import { startDatabase } from '../support/database.js'
import { fill, newIds, session, turns } from '../support/sessions.js'

const sessions = 10_000
const rounds = 5
const others = 1_000
const callers = 8
/** Between two calls of a caller: nobody is to wait for the machine. */
const pauseMs = 10
const idleMs = 5_000
const cache = { max: 30_000 }

/** What the processes tell each other. */
type Order = { others: string[] } | { load: string[] } | { watch: number } | 'work' | 'stop'
type Report = 'loaded' | 'working' | { clean: number } | Latencies

/** In ms, of calls for sessions of other users. */
interface Latencies {
  get: number[]
  read: number[]
  set: number[]
}

const operations = { get: 'get', read: 'get, fresh: true', set: 'set' } as const

const now = (): number => Number(process.hrtime.bigint()) / 1e6

/** Callers who take turns at other sessions, until they are stopped. */
class Work {
  readonly #store: PgStore
  readonly #latencies: Latencies = { get: [], read: [], set: [] }
  #stopped = false
  readonly #callers: Promise<unknown>

  constructor(store: PgStore, ids: string[]) {
    this.#store = store
    const next = turns(ids)
    this.#callers = Promise.all(Array.from({ length: callers }, () => this.#call(next)))
  }

  async #call(next: () => string): Promise<void> {
    const { get, read, set } = this.#latencies
    while (!this.#stopped) {
      const sid = next()
      get.push(await timed(() => this.#store.get(sid)))
      read.push(await timed(() => this.#store.get(sid, { fresh: true })))
      set.push(await timed(() => this.#store.set(sid, session())))
      await sleep(pauseMs)
    }
  }

  async stop(): Promise<Latencies> {
    this.#stopped = true
    await this.#callers
    return this.#latencies
  }
}

async function timed(work: () => PromiseLike<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

async function trusted(url: string): Promise<PgStore> {
  const store = new PgStore(url, { cache })
  await Promise.all([new Promise<void>((resolve) => store.once('trust', resolve)), store.setup()])
  return store
}

async function cached(store: PgStore): Promise<number> {
  const { cache } = await store.stats()
  return cache === false ? 0 : cache.size
}

/** Another instance, in a process of its own. */
async function instance(url: string): Promise<void> {
  const trust = trusted(url)
  let otherIds: string[] = []
  let work: Work | undefined
  // As long as somebody listens to it, the process lives.
  process.on('message', async (order: Order) => {
    const store = await trust
    const report = (what: Report) => process.send?.(what)
    if (order === 'work') {
      work = new Work(store, otherIds)
      report('working')
    } else if (order === 'stop') report((await work?.stop()) ?? { get: [], read: [], set: [] })
    else if ('others' in order) {
      otherIds = order.others
      await fill(otherIds, (sid) => store.get(sid))
      report('loaded')
    } else if ('load' in order) {
      await fill(order.load, (sid) => store.get(sid))
      report('loaded')
    } else {
      while ((await cached(store)) > order.watch) await sleep(2)
      report({ clean: now() })
    }
  })
}

/** Starts one, which has the others' sessions in its cache. */
async function startInstance(url: string, otherIds: string[]) {
  const child = fork(fileURLToPath(import.meta.url), ['instance', url], { serialization: 'advanced' })
  child.once('exit', (code) => {
    if (code) throw new Error(`an instance ended with ${code}`)
  })
  const answer = <T>(): Promise<T> =>
    new Promise((resolve) => child.once('message', (message) => resolve(message as T)))
  const ask = <T>(order: Order): Promise<T> => {
    const answered = answer<T>()
    child.send(order)
    return answered
  }
  await ask({ others: otherIds })
  return { ask, end: () => child.kill() }
}

async function main(): Promise<void> {
  const database = await startDatabase()
  const url = await database.create('users')
  const store = await trusted(url)
  const otherIds = newIds(others)
  await fill(otherIds, (sid) => store.set(sid, session()))
  const instances = await Promise.all([1, 2, 3].map(() => startInstance(url, otherIds)))
  const [elsewhere] = instances
  if (elsewhere === undefined) throw new Error('no instance')

  const idle = { here: empty(), elsewhere: empty() }
  const beside = { here: empty(), elsewhere: empty() }
  /** Lets the callers of this process, and of another, work while something happens. */
  async function during(into: typeof idle, what: () => Promise<unknown>): Promise<void> {
    await elsewhere?.ask('work')
    const work = new Work(store, otherIds)
    await what()
    add(into.here, await work.stop())
    add(into.elsewhere, (await elsewhere?.ask<Latencies>('stop')) ?? empty())
  }

  const took: number[] = []
  const clean: number[] = []
  for (let round = 0; round < rounds; round++) {
    process.stderr.write(`round ${round + 1} of ${rounds}\n`)
    const ids = newIds(sessions)
    await fill(ids, (sid) => store.set(sid, { ...session(), userId: 'ann' }))
    for (const one of instances) await one.ask({ load: ids })
    // What was written to disk late is not to be the others' burden.
    await sleep(500)
    await during(idle, () => sleep(idleMs / rounds))
    await during(beside, async () => {
      const watched = Promise.all(
        instances.map((one) =>
          one === elsewhere ? undefined : one.ask<{ clean: number }>({ watch: others }),
        ),
      )
      const start = now()
      const count = await store.destroySessionsOf('ann')
      took.push(now() - start)
      if (count !== sessions) throw new Error(`${count} of ${sessions} sessions were destroyed`)
      for (const report of await watched) if (report) clean.push(report.clean - start)
    })
    if ((await cached(store)) > others) throw new Error('the own cache still has sessions of the user')
  }
  for (const one of instances) one.end()
  await store.close()
  await database.stop()

  const results = {
    date: new Date().toISOString(),
    node: process.version,
    postgres: database.version,
    sessions,
    rounds,
    destroyUserMs: figures(took),
    allCachesCleanMs: figures(clean),
    callers: Object.fromEntries(
      (['here', 'elsewhere'] as const).map((where) => [
        where,
        Object.fromEntries(
          (Object.keys(operations) as (keyof Latencies)[]).map((name) => [
            name,
            { idle: figures(idle[where][name]), beside: figures(beside[where][name]) },
          ]),
        ),
      ]),
    ),
  }
  const folder = fileURLToPath(new URL('../../../bench/results/', import.meta.url))
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}users.json`, `${JSON.stringify(results, null, 2)}\n`)

  const ms = (n: number): string => n.toFixed(n < 1 ? 3 : 1)
  const range = ({ p50, max }: { p50: number; max: number }): string =>
    `median ${ms(p50)} ms, at most ${ms(max)} ms`
  console.log(
    `destroyUser of a user with ${sessions.toLocaleString('en')} sessions, ${rounds} times: ${range(results.destroyUserMs)}`,
  )
  console.log(
    `until two other processes' caches, which had them all, have none: ${range(results.allCachesCleanMs)}`,
  )
  for (const where of ['here', 'elsewhere'] as const)
    for (const [name, label] of Object.entries(operations)) {
      const [before, then] = [
        figures(idle[where][name as keyof Latencies]),
        figures(beside[where][name as keyof Latencies]),
      ]
      console.log(
        `${where === 'here' ? 'same process ' : 'other process'}  ${label.padEnd(16)}  p50 ${ms(before.p50)} → ${ms(then.p50)} ms,` +
          ` p99 ${ms(before.p99)} → ${ms(then.p99)} ms, at most ${ms(then.max)} ms  (${before.count} and ${then.count} calls)`,
      )
    }
}

function empty(): Latencies {
  return { get: [], read: [], set: [] }
}

function add(to: Latencies, more: Latencies): void {
  for (const name of ['get', 'read', 'set'] as const) to[name].push(...more[name])
}

function figures(list: number[]): { count: number; p50: number; p99: number; max: number } {
  const sorted = list.toSorted((a, b) => a - b)
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) }
}

const [role, url = ''] = process.argv.slice(2)
await (role === 'instance' ? instance(url) : main())
