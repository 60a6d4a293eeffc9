// npm run bench:users: how much it slows other calls when a user with 10,000 sessions is signed out everywhere.
import { fork } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { PgStore } from '../../lib/index.js'
import { environment, saveJson } from '../report/files.js'
import { startDatabase } from '../support/database.js'
import { fill, newIds, session, turns } from '../support/sessions.js'
import { median, percentile } from '../support/statistics.js'
import { openStore } from '../support/store.js'
import { nextMessage, sharedNow } from '../support/workers.js'

const userSessions = 10_000
const otherSessions = 1_000
const rounds = 5
const callers = 8
/** Between two calls of a caller, so that the machine isn't the bottleneck. */
const pauseMs = 10
const idleMs = 5_000
const cache = { max: 30_000 }

/** What the processes send each other. */
type Order = { otherIds: string[] } | { load: string[] } | { waitForCacheSize: number } | 'work' | 'stop'
type Report = 'loaded' | 'working' | { droppedAt: number } | Latencies

const operations = { get: 'get', freshGet: 'get, fresh: true', set: 'set' } as const
type Operation = keyof typeof operations
const operationNames = Object.keys(operations) as Operation[]

/** In ms, of calls for sessions of other users. */
type Latencies = Record<Operation, number[]>

/** Callers that use the sessions of other users until they are stopped. */
class Load {
  readonly #store: PgStore
  readonly #latencies = noLatencies()
  #stopped = false
  readonly #callers: Promise<unknown>

  constructor(store: PgStore, ids: string[]) {
    this.#store = store
    const nextId = turns(ids)
    this.#callers = Promise.all(Array.from({ length: callers }, () => this.#call(nextId)))
  }

  async #call(nextId: () => string): Promise<void> {
    const { get, freshGet, set } = this.#latencies
    while (!this.#stopped) {
      const sid = nextId()
      get.push(await timed(() => this.#store.get(sid)))
      freshGet.push(await timed(() => this.#store.get(sid, { fresh: true })))
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

async function cacheSize(store: PgStore): Promise<number> {
  const { cache } = await store.stats()
  return cache === false ? 0 : cache.size
}

/** The main function of a child process: another instance. */
async function runInstance(url: string): Promise<void> {
  const opening = openStore(url, { cache })
  let otherIds: string[] = []
  let load: Load | undefined
  // This listener keeps the process running.
  process.on('message', async (order: Order) => {
    const store = await opening
    const report = (message: Report) => process.send?.(message)
    if (order === 'work') {
      load = new Load(store, otherIds)
      report('working')
    } else if (order === 'stop') report((await load?.stop()) ?? noLatencies())
    else if ('otherIds' in order) {
      otherIds = order.otherIds
      await fill(otherIds, (sid) => store.get(sid))
      report('loaded')
    } else if ('load' in order) {
      await fill(order.load, (sid) => store.get(sid))
      report('loaded')
    } else {
      while ((await cacheSize(store)) > order.waitForCacheSize) await sleep(2)
      report({ droppedAt: sharedNow() })
    }
  })
}

/** Starts an instance, and fills its cache with the sessions of other users. */
async function startInstance(url: string, otherIds: string[]) {
  const child = fork(fileURLToPath(import.meta.url), ['instance', url], { serialization: 'advanced' })
  const ask = <T>(order: Order): Promise<T> => {
    const reported = nextMessage<T>(child)
    child.send(order)
    return reported
  }
  await ask({ otherIds })
  return { ask, stop: () => child.kill() }
}

async function main(): Promise<void> {
  const database = await startDatabase()
  const url = await database.create('users')
  const store = await openStore(url, { cache })
  const otherIds = newIds(otherSessions)
  await fill(otherIds, (sid) => store.set(sid, session()))
  const instances = await Promise.all([1, 2, 3].map(() => startInstance(url, otherIds)))
  const [busyInstance, ...idleInstances] = instances
  if (busyInstance === undefined) throw new Error('no instance was started')

  const idle = { here: noLatencies(), elsewhere: noLatencies() }
  const during = { here: noLatencies(), elsewhere: noLatencies() }
  /** Measures the calls of this process and of another one while `work` runs. */
  async function measureDuring(latencies: typeof idle, work: () => Promise<unknown>): Promise<void> {
    await busyInstance?.ask('work')
    const load = new Load(store, otherIds)
    await work()
    add(latencies.here, await load.stop())
    add(latencies.elsewhere, (await busyInstance?.ask<Latencies>('stop')) ?? noLatencies())
  }

  const destroyMs: number[] = []
  const droppedMs: number[] = []
  for (let round = 0; round < rounds; round++) {
    process.stderr.write(`round ${round + 1} of ${rounds}\n`)
    const ids = newIds(userSessions)
    await fill(ids, (sid) => store.set(sid, { ...session(), userId: 'ann' }))
    for (const instance of instances) await instance.ask({ load: ids })
    // Lets the disk write what is pending before latencies are measured.
    await sleep(500)
    await measureDuring(idle, () => sleep(idleMs / rounds))
    await measureDuring(during, async () => {
      const reports = Promise.all(
        idleInstances.map((instance) =>
          instance.ask<{ droppedAt: number }>({ waitForCacheSize: otherSessions }),
        ),
      )
      const start = sharedNow()
      const count = await store.destroySessionsOf('ann')
      destroyMs.push(sharedNow() - start)
      if (count !== userSessions) throw new Error(`${count} of ${userSessions} sessions were destroyed`)
      for (const { droppedAt } of await reports) droppedMs.push(droppedAt - start)
    })
    if ((await cacheSize(store)) > otherSessions)
      throw new Error('the cache of this process still has sessions of the user')
  }
  for (const instance of instances) instance.stop()
  await store.close()
  await database.stop()

  const calls = Object.fromEntries(
    (['here', 'elsewhere'] as const).map((where) => [
      where,
      Object.fromEntries(
        operationNames.map((name) => [
          name,
          { idle: summarize(idle[where][name]), during: summarize(during[where][name]) },
        ]),
      ),
    ]),
  )
  await saveJson('users.json', {
    ...environment(database),
    sessions: userSessions,
    rounds,
    destroySessionsOfMs: summarize(destroyMs),
    allCachesDroppedMs: summarize(droppedMs),
    calls,
  })

  const ms = (n: number): string => n.toFixed(n < 1 ? 3 : 1)
  const range = (latencies: number[]): string => {
    const { p50, max } = summarize(latencies)
    return `median ${ms(p50)} ms, maximum ${ms(max)} ms`
  }
  const sessions = userSessions.toLocaleString('en')
  console.log(`destroySessionsOf a user with ${sessions} sessions, ${rounds} times: ${range(destroyMs)}`)
  console.log(`until the caches of two other processes have dropped them all: ${range(droppedMs)}`)
  for (const where of ['here', 'elsewhere'] as const)
    for (const name of operationNames) {
      const before = summarize(idle[where][name])
      const then = summarize(during[where][name])
      console.log(
        `${where === 'here' ? 'same process ' : 'other process'}  ${operations[name].padEnd(16)}  p50 ${ms(before.p50)} → ${ms(then.p50)} ms,` +
          ` p99 ${ms(before.p99)} → ${ms(then.p99)} ms, maximum ${ms(then.max)} ms  (${before.count} and ${then.count} calls)`,
      )
    }
}

function noLatencies(): Latencies {
  return { get: [], freshGet: [], set: [] }
}

function add(to: Latencies, more: Latencies): void {
  for (const name of operationNames) to[name].push(...more[name])
}

function summarize(latencies: number[]): { count: number; p50: number; p99: number; max: number } {
  const { length: count } = latencies
  return { count, p50: median(latencies), p99: percentile(latencies, 0.99), max: percentile(latencies, 1) }
}

const [role, url = ''] = process.argv.slice(2)
await (role === 'instance' ? runInstance(url) : main())
