// Measures requests through Koa and koa-generic-session: this store and the MemoryStore, and the writes of `rolling`.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Plan, RequestFigure, RollingFigure } from '../report/results.js'
import type { Database } from '../support/database.js'
import { newIds, session } from '../support/sessions.js'
import { median } from '../support/statistics.js'
import { nextMessage, startWorker, stopWorker } from '../support/workers.js'
import type { Order, Outcome } from '../workers/load.js'
import { cached, memoryStore, simple } from './peers.js'
import { connectPgSimple } from './postgres-peers.js'

const connections = 64
/** Ten for each connection. */
const ids = newIds(10 * connections)
/** One for each connection: the store writes once for a session and interval, however many requests use it. */
const rollingIds = ids.slice(0, connections)

export async function measureRequests(database: Database, plan: Plan): Promise<RequestFigure[]> {
  const apps = [
    { store: cached, ...(await startApp(await database.create('requests'), ids)) },
    { store: memoryStore, ...(await startApp('', ids)) },
  ]
  const figures = (['read-only', 'nine reads to one change'] as const).flatMap((traffic) =>
    apps.map((app) => ({ ...app, traffic, rounds: [] as number[], nodeUs: [] as number[] })),
  )
  const seconds = requestSeconds(plan)
  try {
    for (const { url } of apps) await load({ url, seconds, changes: true, connections, ids })
    for (let round = 0; round < plan.rounds; round++)
      for (const { url, cpuTime, traffic, rounds, nodeUs } of round % 2 ? figures.toReversed() : figures) {
        const before = await cpuTime()
        const changes = traffic !== 'read-only'
        const { perSecond, requests } = await load({ url, seconds, changes, connections, ids })
        rounds.push(perSecond)
        nodeUs.push(((await cpuTime()) - before) / requests)
      }
  } finally {
    for (const { stop } of apps) await stop()
  }
  return figures.map(({ store, traffic, rounds, nodeUs }) => ({
    store,
    traffic,
    perSecond: median(rounds),
    rounds,
    nodeUs: median(nodeUs),
  }))
}

export async function measureRolling(database: Database, plan: Plan): Promise<RollingFigure[]> {
  const url = await database.create('rolling')
  const app = await startApp(url, rollingIds, 'rolling')
  const seconds = 2 * requestSeconds(plan)
  const { requests } = await load({ url: app.url, seconds, changes: false, connections, ids: rollingIds })
  // Writes the deferred touches.
  await app.stop()
  const written = (await rowWrites(url)) - rollingIds.length

  // express-session touches the session at every such request.
  const peerUrl = await database.create('touches')
  const store = connectPgSimple(peerUrl)
  for (const id of ids) await store.set(id, session())
  for (const id of ids) await store.touch?.(id, session())
  await store.close()
  return [
    { store: cached, requests, rowWrites: written },
    { store: simple, requests: ids.length, rowWrites: (await rowWrites(peerUrl)) - ids.length },
  ]
}

interface App {
  readonly url: string
  /** The processor time that its process has taken so far, in µs. */
  cpuTime(): Promise<number>
  stop(): Promise<void>
}

/** autocannon takes whole seconds. */
function requestSeconds({ seconds }: Plan): number {
  return Math.max(1, Math.round(seconds * 4))
}

async function startApp(database: string, ids: readonly string[], rolling = ''): Promise<App> {
  const worker = startWorker('app', database, rolling)
  worker.send(ids)
  const url = await nextMessage<string>(worker)
  const cpuTime = (): Promise<number> => {
    const answer = nextMessage<number>(worker)
    worker.send('cpu')
    return answer
  }
  return { url, cpuTime, stop: () => stopWorker(worker) }
}

async function load(order: Order): Promise<Outcome> {
  const worker = startWorker('load')
  const exited = once(worker, 'exit')
  worker.send(order)
  const outcome = await nextMessage<Outcome>(worker)
  await exited
  if (outcome.failures > 0) throw new Error(`${outcome.failures} requests failed`)
  return outcome
}

/** Waits until the number is stable, as PostgreSQL counts the writes of a connection when it ends. */
async function rowWrites(url: string): Promise<number> {
  const client = new pg.Client(url)
  await client.connect()
  let writes = -1
  for (;;) {
    await sleep(300)
    await client.query('select pg_stat_clear_snapshot()')
    const sum = 'select sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 as writes from pg_stat_user_tables'
    const { rows } = await client.query<{ writes: number }>(`${sum} where relname like '%session%'`)
    if (rows[0]?.writes === writes) break
    writes = rows[0]?.writes ?? 0
  }
  await client.end()
  return writes
}
