// Owns the PostgreSQL server that the tests share, and the databases in it.
import pg from 'pg'
import { type PostgresServer, startPostgres } from '../support/postgres/server.js'

let running: Promise<PostgresServer> | undefined
let databases = 0

/** A server of a test's own, to be stopped by it: one that is killed or has settings. */
export function ownServer(settings: Record<string, string> = {}): Promise<PostgresServer> {
  const bin = process.env.TEST_POSTGRES_BIN
  return startPostgres({ settings, ...(bin ? { bin } : {}) })
}

/** The server of this test run, started at the first call. */
function server(): Promise<PostgresServer> {
  running ??= ownServer({ max_connections: '200' })
  return running
}

export async function stopServer(): Promise<void> {
  await (await running)?.stop()
}

/** A connection string for a new, empty database. */
export async function freshDatabase(): Promise<string> {
  const { url } = await server()
  const name = `test_${process.pid}_${++databases}`
  await sql(url, `create database ${name}`)
  return at(url, { database: name })
}

/** The same server, as somebody else, at another database or by another way. */
export function at(
  url: string,
  { database, user, password, port }: { database?: string; user?: string; password?: string; port?: number },
): string {
  const changed = new URL(url)
  if (database !== undefined) changed.pathname = `/${database}`
  if (user !== undefined) changed.username = user
  if (password !== undefined) changed.password = password
  if (port !== undefined) changed.port = String(port)
  return changed.href
}

/** Runs statements past the store, as somebody in psql would; answers the rows of the last. */
export async function sql<T extends pg.QueryResultRow = pg.QueryResultRow>(
  url: string,
  text: string,
  values?: unknown[],
): Promise<T[]> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    const result = await client.query<T>(text, values)
    const last = Array.isArray(result) ? result.at(-1) : result
    return last.rows
  } finally {
    await client.end()
  }
}
