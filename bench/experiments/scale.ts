// npm run bench:scale: 1 to 32 processes that get and set sessions, with commits that take as long as on common disks.
// npm run bench:scale -- [--processes 1,2,4,8,16,32] [--rate 50] [--commit 0,1,3,5] [--gets 1] [--seconds 4]
import type { ChildProcess } from 'node:child_process'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { startPostgres } from '../../test/support/postgres/server.js'
import { environment, saveText } from '../report/files.js'
import { count, machine, table } from '../report/markdown.js'
import { processorTime, serverTimeSince, serverTimes } from '../support/processor-time.js'
import { fill, newIds, session, ttl } from '../support/sessions.js'
import { percentile } from '../support/statistics.js'
import { openStore } from '../support/store.js'
import { nextMessage, startWorker, stopWorker } from '../support/workers.js'
import type { Kind, Order, Saturated, Steady } from '../workers/scale-load.js'

const { values } = parseArgs({
  options: {
    processes: { type: 'string', default: '1,2,4,8,16,32' },
    /** Sets a second of each process. */
    rate: { type: 'string', default: '50' },
    /** How long a commit takes besides what the disk of this machine takes, in ms. */
    commit: { type: 'string', default: '0,1,3,5' },
    /** Gets for each set. */
    gets: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '4' },
  },
})
const list = (text: string): number[] => text.split(',').map(Number)
const [processCounts, commits] = [list(values.processes), list(values.commit)]
const [rate, getsPerSet, seconds] = [Number(values.rate), Number(values.gets), Number(values.seconds)]
const kinds: readonly Kind[] = ['plain', 'store', 'notifying']

interface Figure {
  readonly commit: number
  readonly processes: number
  readonly kind: Kind
  readonly p50: number
  readonly p99: number
  /** The share of the sets that were acknowledged in time. */
  readonly done: number
  readonly failed: number
  readonly saturatedPerSecond: number
  /** µs of PostgreSQL's processes for each set at full speed. */
  readonly serverPerSet: number
  /** Notifications a second that the process that only listens received; ms a second of it, and of a listener's backend. */
  readonly received: number
  readonly listener: number
  readonly backend: number
}

const server = await startPostgres({ sync: true, settings: { max_connections: '500', commit_siblings: '0' } })
const admin = new pg.Client(server.url)
const workers: ChildProcess[] = []
try {
  await admin.connect()
  const { rows } = await admin.query<{ server_version: string }>('show server_version')
  const ids = newIds()
  await createSessions(ids)
  // One more, which only listens.
  for (let n = 0; n <= Math.max(...processCounts); n++) workers.push(startWorker('scale-load'))
  const figures: Figure[] = []
  for (const commit of commits)
    for (const processes of processCounts)
      for (const kind of kinds) {
        const figure = await measure(commit, processes, kind, ids)
        figures.push(figure)
        const { p50, p99, saturatedPerSecond } = figure
        process.stderr.write(
          `${commit} ms, ${processes} × ${rate}/s, ${kind}: ${p50.toFixed(1)} / ${p99.toFixed(1)} ms, ${count(saturatedPerSecond)}/s\n`,
        )
      }
  const text = report(figures, machine(environment({ version: rows[0]?.server_version ?? '' })))
  console.log(text)
  await saveText('scale.md', text)
} finally {
  for (const worker of workers) await stopWorker(worker)
  await admin.end().catch(() => undefined)
  await server.stop()
}

/** Creates the same sessions in the store's table and in that of the upserts, with the same settings. */
async function createSessions(ids: readonly string[]): Promise<void> {
  const store = await openStore(server.url, { cache: false, cleanup: false })
  await fill(ids, (id) => store.set(id, session(), ttl))
  await store.close()
  await admin.query(
    'create table plain (id text primary key, session json, expiry timestamptz not null) with (fillfactor = 70)',
  )
  await admin.query(
    `insert into plain select id, $2::json, now() + interval '1 day' from unnest($1::text[]) as id`,
    [ids, JSON.stringify(session())],
  )
}

async function measure(
  commit: number,
  processes: number,
  kind: Kind,
  ids: readonly string[],
): Promise<Figure> {
  await admin.query(`alter system set commit_delay = ${commit * 1_000}`)
  for (const step of ['select pg_reload_conf()', 'vacuum analyze', 'checkpoint']) await admin.query(step)
  const used = workers.slice(0, processes + 1)
  const order: Order = { kind, url: server.url, ids, rate, getsPerSet, seconds }
  await all(used, (n) => (n === processes ? { ...order, rate: 0 } : order))
  const { rows } = await admin.query<{ pid: number }>(
    `select pid from pg_stat_activity where application_name like '% listener'`,
  )
  const listenerTime = (): number => rows.reduce((sum, { pid }) => sum + processorTime(pid), 0) / rows.length
  const backendBefore = listenerTime()
  const steady = await all<Steady>(used, () => 'steady')
  const backend = (listenerTime() - backendBefore) / seconds
  const listener = steady.pop() as Steady
  const before = serverTimes(server.pid)
  const saturated = await all<Saturated>(used, () => 'saturated')
  const serverMs = serverTimeSince(before, server.pid)
  await all(used, () => 'close')
  const latencies = steady.flatMap((each) => each.latencies)
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, n) => total + n, 0)
  return {
    commit,
    processes,
    kind,
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
    done: sum(steady.map(({ completed }) => completed)) / (processes * rate * seconds),
    failed: sum(steady.map(({ failed }) => failed)),
    saturatedPerSecond: sum(saturated.map(({ sets, seconds }) => (sets === 0 ? 0 : sets / seconds))),
    serverPerSet: (serverMs * 1_000) / sum(saturated.map(({ sets }) => sets)),
    received: listener.received / seconds,
    listener: listener.processorTime / seconds,
    backend,
  }
}

/** Sends each worker a message, and resolves with their answers. */
async function all<T>(used: readonly ChildProcess[], message: (n: number) => Order | string): Promise<T[]> {
  const answers = Promise.all(used.map((worker) => nextMessage<T>(worker)))
  for (const [n, worker] of used.entries()) worker.send(message(n))
  return answers
}

function report(figures: readonly Figure[], machine: string): string {
  const at = (commit: number, processes: number, kind: Kind): Figure =>
    figures.find((f) => f.commit === commit && f.processes === processes && f.kind === kind) as Figure
  const eachCase = commits.flatMap((commit) => processCounts.map((processes) => [commit, processes] as const))
  const latency = ({ p50, p99, done, failed }: Figure): string => {
    const notes = [done < 0.98 && `${Math.round(done * 100)} % done`, failed > 0 && `${failed} failed`]
    return [`${p50.toFixed(1)} / ${p99.toFixed(1)}`, ...notes.filter((note) => note !== false)].join(', ')
  }
  const names = { plain: 'upsert', store: 'store', notifying: 'upsert, notifying' }
  const head = ['commit', 'processes', ...kinds.map((kind) => names[kind])]
  const rowsOf = (cell: (figure: Figure) => string): string[][] =>
    eachCase.map(([commit, processes]) => [
      `${commit} ms`,
      `${processes}`,
      ...kinds.map((kind) => cell(at(commit, processes, kind))),
    ])
  const fastest = Math.min(...commits)
  return `${[
    `${machine}. ${seconds} s each. "Commit" is PostgreSQL’s \`commit_delay\`, and stands in for a slower disk.`,
    '- *upsert*: one statement for each set, which announces nothing.\n- *store*: this store, with its cache.\n- *upsert, notifying*: the upsert, with its notification in the same synchronous commit.',
    `## Latency of a set\n\nEach process sets ${rate} and gets ${rate * getsPerSet} sessions a second, of ${count(10_000)}. Median / 99th percentile in ms.`,
    table(head, rowsOf(latency)),
    '## Sets a second at full speed\n\nEach process has 16 callers, which only set.',
    table(
      head,
      rowsOf(({ saturatedPerSecond }) => count(saturatedPerSecond)),
    ),
    '## Processor time of PostgreSQL for a set at full speed, in µs',
    table(
      head,
      rowsOf(({ serverPerSet }) => count(serverPerSet)),
    ),
    `## Processor time of a listener\n\nOf one more instance, which makes no changes, with commits of ${fastest} ms, in ms a second.`,
    table(
      ['processes', 'notifications a second', 'the instance', 'its backend in PostgreSQL'],
      processCounts.map((processes) => {
        const { received, listener, backend } = at(fastest, processes, 'store')
        return [`${processes}`, count(received), listener.toFixed(1), backend.toFixed(1)]
      }),
    ),
  ].join('\n\n')}\n`
}
