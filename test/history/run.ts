// Several processes with a store each on one table, trouble or none, and what their histories show.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Stats } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import { startProxy } from '../helpers/proxy.js'
import { at, sql } from '../helpers/server.js'
import { check, type Fault } from './check.js'
import type { Event } from './event.js'
import type { Work } from './worker.js'

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
}

export interface Outcome {
  events: number
  faults: Fault[]
  /** Answered from memory, of all reads. */
  hits: number
  reads: number
  reconnects: number
}

export async function run({
  url,
  library = new URL('../../lib/index.js', import.meta.url).href,
  seconds,
  seed,
  processes = 4,
  maxStaleness = 400,
  trouble = false,
}: Run): Promise<Outcome> {
  const port = Number(new URL(url).port)
  const through = (proxy: { port: number }) => at(url, { port: proxy.port })
  // Answers of the database take their time, notices don't: so fills and notices overtake each other.
  const slow = await startProxy(port, () => Math.random() ** 3 * 60)
  const lines = await Promise.all(Array.from({ length: processes }, () => startProxy(port)))
  const children = lines.map((line, process) => {
    const work: Work = {
      library,
      url: through(slow),
      listen: through(line),
      outside: url,
      process,
      seed,
      seconds,
      keys: 30,
      maxStaleness,
    }
    return start('../history/worker.js', [JSON.stringify(work)])
  })
  try {
    const answers = Promise.all(children.map((child) => message<{ events: Event[]; stats?: Stats }>(child)))
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
    const caches = found.map(({ stats }) => stats?.cache || { hits: 0, misses: 0 })
    return {
      events: events.length,
      faults: check(events, maxStaleness),
      hits: caches.reduce((sum, { hits }) => sum + hits, 0),
      reads: events.filter(({ kind }) => kind === 'read').length,
      reconnects: found.reduce((sum, { stats }) => sum + (stats?.reconnects ?? 0), 0),
    }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await Promise.all([slow, ...lines].map((proxy) => proxy.close()))
  }
}
