// Runs several processes with a store each on one table, with or without trouble, and checks their history.
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { fillQueue } from '../helpers/full-queue.js'
import { message, start } from '../helpers/processes.js'
import { startProxy } from '../helpers/proxy.js'
import { at, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { check, type Fault } from './check.js'
import { checkLog, keepLog, lostRows, readLog } from './log.js'
import type { Report, Work } from './worker.js'

export interface RunOptions {
  /** An empty database. */
  url: string
  /** The URL of lib/index.js, or of a copy with a fault. */
  library?: string
  seconds: number
  seed: number
  processes?: number
  maxStaleness?: number
  /** Terminate or stall LISTEN connections, and stop processes. */
  trouble?: boolean
  /** How many calls each process makes at once, and on how many keys. */
  callers?: number
  keys?: number
  /** Make only changes, as fast as possible, and check them against a log in PostgreSQL. */
  changes?: boolean
  /** By how much, in ms at most, each flush of the log is delayed at random. */
  flushDelayMs?: number
  /** Lock rows or the table for a while, set time limits of the server, and let the processes call more than it can take. */
  locks?: boolean
  /** Fill the server's queue of notifications again and again; see `smallQueue`. */
  fullQueue?: boolean
  /** By how much, in ms, notifications arrive late. */
  listenDelayMs?: number
  /** With `changes`: for how long, in s, PostgreSQL holds the lock of each row besides. */
  holdLocksSeconds?: number
  /** Whether the table has triggers, so that changes made outside the stores are noticed. Default: true. */
  hasTriggers?: boolean
}

export interface Outcome {
  events: number
  faults: Fault[]
  /** The cache hits among all reads. */
  hits: number
  reads: number
  reconnects: number
  /** Acknowledged sets. */
  acknowledged: number
  errors: string[]
  /** With `changes`: the changes that PostgreSQL logged, and the deadlocks in `pg_stat_database`, before and after. */
  logged?: number
  deadlocks?: [number, number]
}

export async function run({
  url,
  library = new URL('../../lib/index.js', import.meta.url).href,
  seconds,
  seed,
  processes = 4,
  maxStaleness = 400,
  trouble = false,
  callers = 4,
  keys = 30,
  changes = false,
  flushDelayMs = 0,
  locks = false,
  fullQueue = false,
  listenDelayMs = 0,
  holdLocksSeconds = 0,
  hasTriggers = true,
}: RunOptions): Promise<Outcome> {
  const port = Number(new URL(url).port)
  const through = (proxy: { port: number }) => at(url, { port: proxy.port })
  // Query results are delayed, notifications are not, so that notifications overtake fills.
  const slowProxy = await startProxy(port, () => Math.random() ** 3 * 60)
  // Not at once: connecting would take several times as long.
  const delayFrom = performance.now() + 4_000
  const delayNotifications = (): number => (performance.now() < delayFrom ? 0 : listenDelayMs)
  const listenDelay = listenDelayMs > 0 ? delayNotifications : undefined
  const listenProxies = await Promise.all(
    Array.from({ length: processes }, () => startProxy(port, listenDelay)),
  )
  if (changes) await keepLog(url, holdLocksSeconds)
  const before = await countDeadlocks(url)
  const children = listenProxies.map((proxy, process) => {
    const work: Work = {
      library,
      url: changes ? url : through(slowProxy),
      listen: through(proxy),
      outsideUrl: url,
      process,
      seed,
      seconds,
      keys,
      callers,
      changes,
      maxStaleness,
      flushDelayMs,
      hasTriggers,
      queryTimeoutMs: locks ? 1_000 : 10_000,
    }
    return start('../../history/worker.js', [JSON.stringify(work)])
  })
  try {
    const reports = Promise.all(children.map((child) => message<Report>(child)))
    let finished = false
    const end = reports.finally(() => {
      finished = true
    })
    const locking = locks ? lockAtRandom(url, seed, () => finished) : undefined
    const filling = fullQueue ? keepQueueFull(url, maxStaleness, () => finished) : undefined
    let random = seed
    while (trouble && !finished) {
      await Promise.race([sleep(300), end])
      random = (random * 1_103_515_245 + 12_345) % 2_147_483_648
      const victim = random % processes
      const kind = Math.floor(random / 1_000) % 3
      if (kind === 0)
        await sql(
          url,
          `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'koa-pg-store listener' and datname = current_database() order by random() limit 1`,
        )
      else if (kind === 1) {
        listenProxies[victim]?.stall()
        await Promise.race([sleep(maxStaleness * 2), end])
        listenProxies[victim]?.resume()
      } else {
        children[victim]?.kill('SIGSTOP')
        await Promise.race([sleep(maxStaleness * 2), end])
        children[victim]?.kill('SIGCONT')
      }
    }
    const received = await end
    await locking
    await filling
    const events = received.flatMap((report) =>
      report.events.map((event) => ({ ...event, end: event.end ?? Infinity })),
    )
    const faults = check(events, maxStaleness)
    const logged = changes ? await readLog(url) : []
    if (changes) {
      faults.push(...checkLog(events, logged))
      for (const _ of await lostRows(url)) faults.push({ what: 'lost write', events: [] })
      // A backend reports its deadlocks when it ends.
      await until(async () => (await countConnections(url)) === 0)
    }
    const caches = received.map(({ stats }) => stats?.cache || { hits: 0, misses: 0 })
    return {
      events: events.length,
      faults,
      hits: caches.reduce((sum, { hits }) => sum + hits, 0),
      reads: events.filter(({ kind }) => kind === 'read').length,
      reconnects: received.reduce((sum, { stats }) => sum + (stats?.reconnects ?? 0), 0),
      acknowledged: events.filter(({ kind, end }) => kind === 'write' && end < Infinity).length,
      errors: received.flatMap(({ errors }) => errors),
      ...(changes && { logged: logged.length, deadlocks: [before, await countDeadlocks(url)] }),
    }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await Promise.all([slowProxy, ...listenProxies].map((proxy) => proxy.close()))
  }
}

/** Fills the queue of notifications, for longer and shorter than heartbeats take. */
async function keepQueueFull(url: string, maxStaleness: number, isOver: () => boolean): Promise<void> {
  for (let n = 0; !isOver(); n++) {
    await sleep(maxStaleness / (1 + (n % 3)))
    const holder = await fillQueue(url)
    await sleep((maxStaleness * (n % 5)) / 4)
    await holder.release()
  }
}

async function countDeadlocks(url: string): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    'select deadlocks::int as n from pg_stat_database where datname = current_database()',
  )
  return row?.n as number
}

/** Counts the other connections to the database. */
async function countConnections(url: string): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    'select count(*)::int as n from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = $1',
    ['client backend'],
  )
  return row?.n as number
}

/**
 * Locks a few rows or the table for up to 1.5 s, again and again, and changes the server's time limits for new and idle
 * connections: statements are cancelled by the server as well.
 */
async function lockAtRandom(url: string, seed: number, isFinished: () => boolean): Promise<void> {
  let state = seed
  const random = (): number => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state / 2_147_483_648
  }
  const client = new pg.Client(url)
  await client.connect()
  const exists = `select to_regclass('session') is not null as exists`
  await until(async () => (await client.query(exists)).rows[0]?.exists === true)
  const database = client.escapeIdentifier(new URL(url).pathname.slice(1))
  const limits = ['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']
  // Its own connection has none.
  await client.query(
    `set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0`,
  )
  while (!isFinished()) {
    const limit = limits[Math.floor(random() * limits.length)]
    await client.query(`alter database ${database} set ${limit} = '${Math.floor(random() * 4) * 200}ms'`)
    // Connections take the new limits when they are opened.
    if (random() < 0.3)
      await client.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle' and application_name = 'koa-pg-store' and datname = current_database()`,
      )
    await client.query('begin')
    if (random() < 0.8)
      await client.query(
        `select from session where id = any(array(select id from session order by random() limit ${1 + Math.floor(random() * 4)})) for update skip locked`,
      )
    else await client.query('lock table session in access exclusive mode')
    await sleep(random() * 1_500)
    await client.query('commit')
    await sleep(random() * 200)
  }
  await client.end()
}
