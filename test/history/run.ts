// Several processes with a store each on one table, trouble or none, and what their histories show.
import { setTimeout as sleep } from 'node:timers/promises'
import { message, start } from '../helpers/processes.js'
import { startProxy } from '../helpers/proxy.js'
import { at, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { check, type Fault } from './check.js'
import { checkLog, keepLog, lostRows, readLog } from './log.js'
import type { Report, Work } from './worker.js'

export interface Run {
  /** A database of its own. */
  url: string
  library?: string
  seconds: number
  seed: number
  processes?: number
  maxStaleness?: number
  /** End listeners' connections, silence them, stop processes. */
  trouble?: boolean
  /** How many calls each process makes at once, and of how many keys. */
  callers?: number
  keys?: number
  /** Changes alone, as fast as they go, and PostgreSQL's own log of them. */
  changes?: boolean
}

export interface Outcome {
  events: number
  faults: Fault[]
  /** Answered from memory, of all reads. */
  hits: number
  reads: number
  reconnects: number
  /** Sets that were acknowledged. */
  acknowledged: number
  errors: string[]
  /** Of changes alone: how many PostgreSQL has logged, and what `pg_stat_database` has of deadlocks, before and after. */
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
}: Run): Promise<Outcome> {
  const port = Number(new URL(url).port)
  const through = (proxy: { port: number }) => at(url, { port: proxy.port })
  // Answers of the database take their time, notices don't: so fills and notices overtake each other.
  const slow = await startProxy(port, () => Math.random() ** 3 * 60)
  const lines = await Promise.all(Array.from({ length: processes }, () => startProxy(port)))
  if (changes) await keepLog(url)
  const before = await deadlocks(url)
  const children = lines.map((line, process) => {
    const work: Work = {
      library,
      url: changes ? url : through(slow),
      listen: through(line),
      outside: url,
      process,
      seed,
      seconds,
      keys,
      callers,
      changes,
      maxStaleness,
    }
    return start('../../history/worker.js', [JSON.stringify(work)])
  })
  try {
    const answers = Promise.all(children.map((child) => message<Report>(child)))
    let over = false
    const end = answers.finally(() => {
      over = true
    })
    let random = seed
    while (trouble && !over) {
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
        lines[victim]?.stall()
        await Promise.race([sleep(maxStaleness * 2), end])
        lines[victim]?.resume()
      } else {
        children[victim]?.kill('SIGSTOP')
        await Promise.race([sleep(maxStaleness * 2), end])
        children[victim]?.kill('SIGCONT')
      }
    }
    const found = await end
    const events = found.flatMap((answer) =>
      answer.events.map((event) => ({ ...event, end: event.end ?? Infinity })),
    )
    const faults = check(events, maxStaleness)
    const logged = changes ? await readLog(url) : []
    if (changes) {
      faults.push(...checkLog(events, logged))
      for (const _ of await lostRows(url)) faults.push({ what: 'lost', events: [] })
      // A connection tells what it has counted as it ends.
      await until(async () => (await connections(url)) === 0)
    }
    const caches = found.map(({ stats }) => stats?.cache || { hits: 0, misses: 0 })
    return {
      events: events.length,
      faults,
      hits: caches.reduce((sum, { hits }) => sum + hits, 0),
      reads: events.filter(({ kind }) => kind === 'read').length,
      reconnects: found.reduce((sum, { stats }) => sum + (stats?.reconnects ?? 0), 0),
      acknowledged: events.filter(({ kind, end }) => kind === 'write' && end < Infinity).length,
      errors: found.flatMap(({ errors }) => errors),
      ...(changes && { logged: logged.length, deadlocks: [before, await deadlocks(url)] }),
    }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await Promise.all([slow, ...lines].map((proxy) => proxy.close()))
  }
}

async function deadlocks(url: string): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    'select deadlocks::int as n from pg_stat_database where datname = current_database()',
  )
  return row?.n as number
}

/** But for the one that asks. */
async function connections(url: string): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    'select count(*)::int as n from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = $1',
    ['client backend'],
  )
  return row?.n as number
}
