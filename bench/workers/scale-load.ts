// One instance of an application in npm run bench:scale: gets and sets sessions at a fixed rate, then as fast as it can.
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Session } from '../../lib/index.js'
import { session, ttl } from '../support/sessions.js'
import { openStore } from '../support/store.js'
import { sharedNow } from '../support/workers.js'

/** The store; an upsert that announces nothing; and one whose notification is part of its synchronous commit. */
export type Kind = 'store' | 'plain' | 'notifying'

export interface Order {
  readonly kind: Kind
  readonly url: string
  /** Sessions that all processes share. */
  readonly ids: readonly string[]
  /** Sets a second. 0: the process only listens. */
  readonly rate: number
  readonly getsPerSet: number
  readonly seconds: number
}

/** What the process did at the fixed rate. */
export interface Steady {
  /** Of each set, in ms. One that is still waiting at the end counts with its time so far. */
  readonly latencies: number[]
  readonly completed: number
  readonly failed: number
  /** Notifications received. */
  readonly received: number
  /** Processor time of this process, in ms. */
  readonly processorTime: number
}

/** What it did as fast as it could. */
export interface Saturated {
  readonly sets: number
  readonly seconds: number
}

interface Peer {
  get(id: string): PromiseLike<unknown>
  set(id: string, session: Session): PromiseLike<unknown>
  received(): PromiseLike<number>
  close(): Promise<unknown>
}

const callersAtFullSpeed = 16
const warmUpSeconds = 1
/** A process that only listens makes a few gets, as without any it would stop sending heartbeats. */
const idleGetsPerSecond = 4
/** As many as the store opens by default. */
const maxConnections = 10

async function openPeer({ kind, url }: Order): Promise<Peer> {
  if (kind === 'store') {
    const store = await openStore(url, { cleanup: false })
    return {
      get: (id) => store.get(id),
      set: (id, session) => store.set(id, session, ttl),
      received: async () => (await store.stats()).notifications.received,
      close: () => store.close(),
    }
  }
  const pool = new pg.Pool({ connectionString: url, max: maxConnections })
  let received = 0
  const listener = new pg.Client({ connectionString: url, application_name: 'bench listener' })
  listener.on('notification', () => {
    received++
  })
  await listener.connect()
  if (kind === 'notifying') await listener.query('listen bench')
  const upsert = `insert into plain as t (id, session, expiry) values ($1, $2::json, now() + $3::float8 * interval '1 ms')
    on conflict (id) do update set session = excluded.session, expiry = excluded.expiry returning id`
  const set = {
    name: 'set',
    text:
      kind === 'plain' ? upsert : `with changed as (${upsert}) select pg_notify('bench', id) from changed`,
  }
  const get = { name: 'get', text: 'select session from plain where id = $1 and expiry > now()' }
  return {
    get: (id) => pool.query({ ...get, values: [id] }),
    set: (id, session) => pool.query({ ...set, values: [id, JSON.stringify(session), ttl] }),
    received: async () => received,
    close: () => Promise.all([pool.end(), listener.end()]),
  }
}

async function runSteadily(peer: Peer, { ids, rate, getsPerSet, seconds }: Order): Promise<Steady> {
  const random = (): string => ids[Math.floor(Math.random() * ids.length)] as string
  const before = { cpu: process.cpuUsage(), received: await peer.received() }
  const latencies: number[] = []
  const waiting = new Map<object, number>()
  let failed = 0
  const set = async (): Promise<void> => {
    const call = {}
    const start = sharedNow()
    waiting.set(call, start)
    await peer.set(random(), session()).then(
      () => latencies.push(sharedNow() - start),
      () => failed++,
    )
    waiting.delete(call)
  }
  const gets = rate === 0 ? idleGetsPerSecond * seconds : rate * getsPerSet * seconds
  // Evenly spaced, and not at the same time as those of other processes.
  const start = sharedNow() + Math.random() * (1_000 / Math.max(rate, 1))
  const due = (n: number, total: number): number => start + (n / total) * seconds * 1_000
  const pace = async (total: number, call: () => PromiseLike<unknown>): Promise<void> => {
    for (let n = 0; n < total; n++) {
      const pause = due(n, total) - sharedNow()
      if (pause > 0) await sleep(pause)
      Promise.resolve(call()).catch(() => undefined)
    }
  }
  await Promise.all([pace(rate * seconds, set), pace(gets, () => peer.get(random()))])
  const end = start + seconds * 1_000
  await sleep(Math.max(0, end - sharedNow()))
  const { user, system } = process.cpuUsage(before.cpu)
  const stillWaiting = [...waiting.values()].map((since) => sharedNow() - since)
  const completed = latencies.length
  latencies.push(...stillWaiting)
  const received = (await peer.received()) - before.received
  while (waiting.size > 0) await sleep(20)
  return { latencies, completed, failed, received, processorTime: (user + system) / 1_000 }
}

async function runAtFullSpeed(peer: Peer, { ids, rate, seconds }: Order): Promise<Saturated> {
  const start = sharedNow()
  const end = start + seconds * 1_000
  let sets = 0
  const caller = async (): Promise<void> => {
    while (sharedNow() < end) {
      await peer.set(ids[Math.floor(Math.random() * ids.length)] as string, session())
      sets++
    }
  }
  await Promise.all(Array.from({ length: rate === 0 ? 0 : callersAtFullSpeed }, caller))
  return { sets, seconds: (sharedNow() - start) / 1_000 }
}

let peer: Peer | undefined
let order: Order | undefined
process.on('message', async (message: Order | 'steady' | 'saturated' | 'close') => {
  if (typeof message === 'object') {
    order = message
    peer = await openPeer(order)
    // So that opening connections, preparing statements and compiling isn't measured.
    await runSteadily(peer, { ...order, seconds: warmUpSeconds })
    process.send?.('ready')
  } else if (peer !== undefined && order !== undefined) {
    if (message === 'steady') process.send?.(await runSteadily(peer, order))
    else if (message === 'saturated') process.send?.(await runAtFullSpeed(peer, order))
    else {
      await peer.close()
      process.send?.('closed')
    }
  }
})
process.once('disconnect', () => process.exit())
