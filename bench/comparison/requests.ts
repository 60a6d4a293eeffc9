// Whole requests through Koa and koa-generic-session: this store against the MemoryStore, and what `rolling` writes.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import type { Database } from '../support/database.js'
import { newIds, session } from '../support/sessions.js'
import type { Order, Outcome } from '../workers/load.js'
import { median, type Plan } from './measure.js'
import { cached, memoryStore, simple } from './peers.js'
import { connectPgSimple } from './postgres-peers.js'

export type Traffic = 'read-only' | 'nine reads to one change'

export interface RequestFigure {
  readonly store: string
  readonly traffic: Traffic
  /** Requests per second. */
  readonly perSecond: number
  readonly rounds: readonly number[]
}

/** Rows written for a read-only request when sessions are `rolling`. */
export interface RollingFigure {
  readonly store: string
  readonly requests: number
  readonly rowWrites: number
}

const connections = 64
/** Ten for each connection. */
const ids = newIds(10 * connections)
/** One for each: as the store writes once for a session and interval, whatever the requests, it is their ratio that counts. */
const few = ids.slice(0, connections)

const script = (name: string): string => fileURLToPath(new URL(`../workers/${name}`, import.meta.url))

export async function measureRequests(database: Database, plan: Plan): Promise<RequestFigure[]> {
  const contenders = [
    { store: cached, ...(await startApp(await database.create('requests'), ids)) },
    { store: memoryStore, ...(await startApp('', ids)) },
  ]
  const figures = (['read-only', 'nine reads to one change'] as const).flatMap((traffic) =>
    contenders.map(({ store, url }) => ({ store, traffic, url, rounds: [] as number[] })),
  )
  const seconds = requestSeconds(plan)
  try {
    for (const { url } of contenders) await load({ url, seconds, changes: true, connections, ids })
    for (let round = 0; round < plan.rounds; round++)
      for (const { url, traffic, rounds } of round % 2 ? figures.toReversed() : figures)
        rounds.push(
          (await load({ url, seconds, changes: traffic !== 'read-only', connections, ids })).perSecond,
        )
  } finally {
    for (const { stop } of contenders) await stop()
  }
  return figures.map(({ store, traffic, rounds }) => ({ store, traffic, perSecond: median(rounds), rounds }))
}

export async function measureRolling(database: Database, plan: Plan): Promise<RollingFigure[]> {
  const url = await database.create('rolling')
  const app = await startApp(url, few, 'rolling')
  const seconds = 2 * requestSeconds(plan)
  const { requests } = await load({ url: app.url, seconds, changes: false, connections, ids: few })
  // It writes what it has put off.
  await app.stop()
  const written = (await rowWrites(url)) - few.length

  // express-session touches at every such request.
  const peer = await database.create('touches')
  const store = connectPgSimple(peer)
  for (const id of ids) await store.set(id, session())
  for (const id of ids) await store.touch?.(id, session())
  await store.close()
  return [
    { store: cached, requests, rowWrites: written },
    { store: simple, requests: ids.length, rowWrites: (await rowWrites(peer)) - ids.length },
  ]
}

/** autocannon knows whole seconds. */
function requestSeconds({ seconds }: Plan): number {
  return Math.max(1, Math.round(seconds * 4))
}

async function startApp(
  database: string,
  ids: readonly string[],
  rolling = '',
): Promise<{ url: string; stop(): Promise<void> }> {
  const child = fork(script('./app.js'), [database, rolling])
  const ended = once(child, 'exit')
  child.send(ids)
  const url = (await answer(child)) as string
  return {
    url,
    async stop() {
      child.disconnect()
      await ended
    },
  }
}

async function load(order: Order): Promise<Outcome> {
  const child = fork(script('./load.js'))
  const ended = once(child, 'exit')
  child.send(order)
  const outcome = (await answer(child)) as Outcome
  await ended
  if (outcome.failures > 0) throw new Error(`${outcome.failures} requests failed`)
  return outcome
}

async function answer(child: ChildProcess): Promise<unknown> {
  const ended = once(child, 'exit').then(() => Promise.reject(new Error(`${child.spawnargs[1]} ended early`)))
  const [message] = await Promise.race([once(child, 'message'), ended])
  return message
}

/** Once everybody has disconnected: a connection reports what it did as it ends. */
async function rowWrites(url: string): Promise<number> {
  const client = new pg.Client(url)
  await client.connect()
  let writes = -1
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 300))
    await client.query('select pg_stat_clear_snapshot()')
    const sum = 'select sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 as writes from pg_stat_user_tables'
    const { rows } = await client.query<{ writes: number }>(`${sum} where relname like '%session%'`)
    if (rows[0]?.writes === writes) break
    writes = rows[0]?.writes ?? 0
  }
  await client.end()
  return writes
}
