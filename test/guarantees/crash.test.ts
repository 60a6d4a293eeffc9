// What was acknowledged survives a crash of the server: it is killed under load, again and again. CRASHES: how many times.
import type { ChildProcess } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { flushLines, withoutLines } from '../helpers/faulty-library.js'
import { storedId } from '../helpers/fixture.js'
import { message, start } from '../helpers/processes.js'
import type { Acknowledged } from '../helpers/programs/changes.js'
import { ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import type { PostgresServer } from '../support/postgres/server.js'

const crashes = Number(process.env.CRASHES ?? 3)
const library = new URL('../../lib/index.js', import.meta.url).href
const names = ['a', 'b']

/** Kills all processes of a server at once, so that none can write what it still has in memory. */
async function crashServer(server: PostgresServer): Promise<void> {
  const children = childrenOf(server.pid)
  const killed = server.kill()
  for (const pid of children) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It has exited.
    }
  }
  await killed
}

function childrenOf(parent: number): number[] {
  // Elsewhere they notice soon that their parent has exited.
  if (!existsSync('/proc')) return []
  const isChild = (pid: number): boolean => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === parent
    } catch {
      return false
    }
  }
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && isChild(pid))
}

interface Losses {
  /** Acknowledged changes that the table doesn't have. */
  lost: string[]
  /** Destroyed sessions that have content. */
  back: string[]
}

/** Compares the table with what one process had acknowledged. */
async function compare(
  url: string,
  name: string,
  { set, merged, destroyed }: Acknowledged,
  losses: Losses,
): Promise<void> {
  const rows = await sql<{ id: string; session: Record<string, number> | null }>(
    url,
    'select id, session from session',
  )
  const sessions = new Map(rows.map(({ id, session }) => [id, session]))
  const has = (sid: string, attribute: string, n: number): boolean =>
    (sessions.get(storedId(sid))?.[attribute] ?? 0) >= n
  for (const [sid, n] of Object.entries(set)) if (!has(sid, 'n', n)) losses.lost.push(`set ${sid}`)
  for (const [sid, n] of Object.entries(merged)) if (!has(sid, name, n)) losses.lost.push(`merge ${sid}`)
  for (const sid of destroyed) {
    const session = sessions.get(storedId(sid))
    if (session === undefined) losses.lost.push(`destroy ${sid}`)
    else if (session !== null) losses.back.push(sid)
  }
}

/** Kills one backend: PostgreSQL ends all others, loses what it has in memory, and accepts connections again at once. */
async function crashBackend(server: PostgresServer): Promise<void> {
  const [backend] = await sql<{ pid: number }>(
    server.url,
    `select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit 1`,
  )
  if (backend !== undefined) process.kill(backend.pid, 'SIGKILL')
}

/** Returns a class of clients that send each flush of the log late. */
function slowFlushClient(delayMs: number): typeof pg.Client {
  return class extends pg.Client {
    constructor(config?: string | pg.ClientConfig) {
      super(config)
      const query: (...args: unknown[]) => unknown = this.query.bind(this)
      const flushes = (statement: unknown): boolean =>
        String(Reflect.get(Object(statement), 'text')).includes('pg_logical_emit_message(')
      Reflect.set(this, 'query', (...args: unknown[]) =>
        flushes(args[0]) ? sleep(delayMs).then(() => query(...args)) : query(...args),
      )
    }
  }
}

type Crash = (server: PostgresServer) => Promise<void>

/** Starts the changes in each process, and crashes the server meanwhile. Resolves with what each had acknowledged. */
async function crashUnderLoad(
  server: PostgresServer,
  children: ChildProcess[],
  crash: Crash,
): Promise<Acknowledged[]> {
  const changing = Promise.all(children.map((child) => message<'changing'>(child)))
  for (const child of children) child.send('change')
  await changing
  const reports = Promise.all(children.map((child) => message<Acknowledged>(child)))
  await sleep(400 + Math.random() * 300)
  await crash(server)
  // Until then, calls in progress may settle.
  for (const child of children) child.send('stop')
  return reports
}

/** Crashes the server a number of times, or until changes are lost. */
async function crashRepeatedly(
  times: number,
  library: string,
  crash: Crash = crashServer,
): Promise<Losses & { counts: Acknowledged['counts'] }> {
  const server = await ownServer({ max_connections: '50' }, true)
  const children = names.map((name) => start('./changes.js', [server.url, library, name]))
  const losses: Losses = { lost: [], back: [] }
  const counts = { set: 0, merged: 0, destroyed: 0 }
  try {
    const destroyed: string[] = []
    for (let n = 0; n < times && losses.lost.length + losses.back.length === 0; n++) {
      const reports = await crashUnderLoad(server, children, crash)
      await server.start()
      await until(() =>
        sql(server.url, 'select').then(
          () => true,
          () => false,
        ),
      )
      for (const [i, report] of reports.entries()) {
        destroyed.push(...report.destroyed)
        await compare(server.url, names[i] as string, report, losses)
        for (const kind of ['set', 'merged', 'destroyed'] as const) counts[kind] += report.counts[kind]
      }
      // Those of earlier rounds too, which have been saved again since.
      await compare(server.url, '', { set: {}, merged: {}, destroyed, counts }, losses)
    }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await server.stop()
  }
  return { ...losses, counts }
}

describe('a server that is killed (SIGKILL) under load', () => {
  it(`${crashes} times loses no acknowledged change, and brings no destroyed session back`, async () => {
    const { lost, back, counts } = await crashRepeatedly(crashes, library)
    expect({ lost, back }).to.deep.equal({ lost: [], back: [] })
    for (const count of Object.values(counts)) expect(count).to.be.above(20 * crashes)
    if (process.env.CRASHES) console.log(counts)
  }).timeout(60_000 + crashes * 15_000)

  it(`loses none either when one of its backends is killed ${crashes} times, and it recovers at once`, async () => {
    const { lost, back } = await crashRepeatedly(crashes, library, crashBackend)
    expect({ lost, back }).to.deep.equal({ lost: [], back: [] })
  }).timeout(60_000 + crashes * 15_000)

  for (const kind of ['connection string', 'pool'] as const)
    it(`acknowledges nothing that was lost before its flush, with a ${kind}`, async () => {
      // The server writes asynchronous commits to disk after seconds only, and each flush comes four seconds late.
      const server = await ownServer({ wal_writer_delay: '10s' }, true)
      const config = { connectionString: server.url, Client: slowFlushClient(4_000) }
      const pool = new pg.Pool(config)
      pool.on('error', () => undefined)
      const store = new PgStore(kind === 'pool' ? pool : config, { cache: false, cleanup: false })
      store.on('warning', () => undefined)
      const sids = ['a', 'b', 'c', 'd']
      try {
        await Promise.all(sids.map((sid) => store.set(sid, { n: 1 })))
        // One goes alone, the others together.
        const saving = Promise.allSettled(sids.map((sid) => store.set(sid, { n: 2 })))
        await sleep(200)
        await crashBackend(server)
        const outcomes = await saving
        await until(() =>
          store.get('a').then(
            () => true,
            () => false,
          ),
        )
        for (const [n, sid] of sids.entries())
          if (outcomes[n]?.status === 'fulfilled') expect(await store.get(sid), sid).to.deep.equal({ n: 2 })
      } finally {
        await store.close()
        await pool.end()
        await server.stop()
      }
    })

  it('loses acknowledged changes if they are not flushed', () =>
    withoutLines(flushLines, async (faulty) => {
      const { lost } = await crashRepeatedly(20, faulty)
      expect(lost).to.not.have.length(0)
    })).timeout(360_000)
})
