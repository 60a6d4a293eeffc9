// What PostgreSQL itself does with the store's own statements, without Node: pgbench.
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { PgStore, type QueryFunction } from '../../lib/index.js'
import type { Database } from '../support/database.js'
import { newIds, session } from '../support/sessions.js'
import type { Plan } from './measure.js'
import { median } from './measure.js'

export interface Floor {
  readonly statement: string
  readonly connections: number
  /** Sessions per second. */
  readonly perSecond: number
  readonly rounds: readonly number[]
}

/** How many sessions the store's batches hold at most. */
const many = 128

/** The id of session `n`, in SQL: pgbench knows numbers only. */
const id = (n: string): string => `('sha256:' || lpad((${n})::text, 43, '0'))`

export async function measureFloor(database: Database, plan: Plan): Promise<Floor[]> {
  const url = await database.create('floor')
  const statements = await ownStatements(url)
  const folder = await mkdtemp(join(tmpdir(), 'koa-pg-store-pgbench-'))
  const runs: { statement: string; sql: string; sessions: number; connections: number }[] = []
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

/** Listens to the store as it talks to the database, and puts numbers where its values were. */
async function ownStatements(url: string): Promise<{ statement: string; sql: string; sessions: number }[]> {
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
  const ids = newIds(2 * many)
  await Promise.all(ids.map((sid) => store.get(sid)))
  const readMany = last
  await store.set('x', session())
  const write = last
  // pgbench takes `:true` for a variable of its own.
  const literal = pg.escapeLiteral(JSON.stringify(session()).replaceAll(':', ': '))
  await pool.query(
    `insert into session (id, session, expiry, version) select ${id('n')}, ${literal}, now() + interval '1 day', 1 from generate_series(0, 9999) as n`,
  )
  await pool.query('vacuum analyze session')
  await store.close()
  await pool.end()
  const list = `(select string_agg(${id('(:n::int + i * 71) % 10000')}, chr(30)) from generate_series(0, ${many - 1}) as i)`
  return [
    { statement: 'read one', sql: put(read, [id(':n::int')]), sessions: 1 },
    { statement: `read ${many}`, sql: put(readMany, [list]), sessions: many },
    { statement: 'write one', sql: put(write, [id(':n::int'), literal, '86400000', 'null']), sessions: 1 },
  ]
}

function put(text: string, values: string[]): string {
  return text.replace(/\$(\d)/g, (_, n) => values[Number(n) - 1] as string)
}
