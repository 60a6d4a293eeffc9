// The baseline: runs the store's own statements by pgbench, without Node.
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { PgStore, type QueryFunction } from '../../lib/index.js'
import type { Plan, StatementFigure } from '../report/results.js'
import type { Database } from '../support/database.js'
import { newIds, session } from '../support/sessions.js'
import { median } from '../support/statistics.js'

interface Statement {
  readonly statement: string
  readonly sql: string
  /** The number of sessions that it reads or writes. */
  readonly sessions: number
}

/** The number of sessions in a full batch of the store. */
const batchSize = 128

/** The SQL for the stored id of session `n`, as pgbench's variables are numbers. */
const storedId = (n: string): string => `('sha256:' || lpad((${n})::text, 43, '0'))`

export async function measureStatements(database: Database, plan: Plan): Promise<StatementFigure[]> {
  const url = await database.create('pgbench')
  const statements = await recordStatements(url)
  const folder = await mkdtemp(join(tmpdir(), 'koa-pg-store-pgbench-'))
  const runs: (Statement & { connections: number })[] = []
  for (const { sql, ...rest } of statements)
    for (const connections of [1, 10])
      runs.push({ ...rest, sql: `\\set n random(0, 9999)\n${sql};\n`, connections })
  try {
    const results = runs.map((): number[] => [])
    for (let round = 0; round < plan.rounds; round++)
      for (const [n, { sql, sessions, connections }] of runs.entries()) {
        const file = join(folder, `${n}.sql`)
        await writeFile(file, sql)
        const seconds = `${Math.max(1, Math.round(plan.seconds))}`
        const args = ['-n', '-M', 'prepared', '-c', `${connections}`, '-j', '1', '-T', seconds, '-f', file]
        const printed = await pgbench(...args, url)
        const tps = /tps = ([\d.]+)/.exec(printed)?.[1]
        if (tps !== undefined) results[n]?.push(Number(tps) * sessions)
      }
    return runs.flatMap(({ statement, connections }, n) => {
      const rounds = results[n] ?? []
      return rounds.length === 0 ? [] : { statement, connections, perSecond: median(rounds), rounds }
    })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

export async function hasPgbench(): Promise<boolean> {
  return (await pgbench('--version')) !== ''
}

/** What pgbench prints, or '' if it isn't installed or fails. */
async function pgbench(...args: string[]): Promise<string> {
  try {
    return (await promisify(execFile)('pgbench', args)).stdout
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') console.error(String(error))
    return ''
  }
}

/** Records the statements that the store sends, and replaces their parameters by expressions of pgbench. */
async function recordStatements(url: string): Promise<Statement[]> {
  const pool = new pg.Pool({ connectionString: url })
  pool.on('error', () => {})
  let last = ''
  const query: QueryFunction = (text, values) => {
    last = text
    return pool.query(text, values)
  }
  const store = new PgStore(query, { cache: false })
  await store.setup()
  await store.get('x')
  const read = last
  const ids = newIds(2 * batchSize)
  await Promise.all(ids.map((sid) => store.get(sid)))
  const readMany = last
  await store.set('x', session())
  const write = last
  // A space after colons: pgbench would read `:true` as a variable.
  const literal = pg.escapeLiteral(JSON.stringify(session()).replaceAll(':', ': '))
  await pool.query(
    `insert into session (id, session, expiry, version) select ${storedId('n')}, ${literal}, now() + interval '1 day', 1 from generate_series(0, 9999) as n`,
  )
  await pool.query('vacuum analyze session')
  await store.close()
  await pool.end()
  const list = `(select string_agg(${storedId('(:n::int + i * 71) % 10000')}, chr(30)) from generate_series(0, ${batchSize - 1}) as i)`
  return [
    { statement: 'read one', sql: replaceParameters(read, [storedId(':n::int')]), sessions: 1 },
    { statement: `read ${batchSize}`, sql: replaceParameters(readMany, [list]), sessions: batchSize },
    {
      statement: 'write one',
      // The last two: no time limit, and no heartbeat.
      sql: replaceParameters(write, [storedId(':n::int'), literal, '86400000', 'null', 'null', `''`]),
      sessions: 1,
    },
  ]
}

function replaceParameters(text: string, values: string[]): string {
  return text.replace(/\$(\d)/g, (parameter, n) => {
    const value = values[Number(n) - 1]
    if (value === undefined) throw new Error(`the statement has a parameter ${parameter}: ${text}`)
    return value
  })
}
