// Starts the PostgreSQL server that the tests share, and creates databases in it.
import pg from 'pg'
import { type PostgresServer, startPostgres } from '../support/postgres/server.js'

let shared: Promise<PostgresServer> | undefined
let databases = 0

/** Starts a server for one test, which may kill it and must stop it. `sync`: whether its commits wait for the disk. */
export function ownServer(settings: Record<string, string> = {}, sync = false): Promise<PostgresServer> {
  const bin = process.env.TEST_POSTGRES_BIN
  return startPostgres({ settings, sync, ...(bin ? { bin } : {}) })
}

/** Returns the server of this test run; starts it at the first call. */
function sharedServer(): Promise<PostgresServer> {
  shared ??= ownServer({ max_connections: '200' })
  return shared
}

export async function stopServer(): Promise<void> {
  await (await shared)?.stop()
}

/** Creates an empty database and returns its connection string. */
export async function freshDatabase(): Promise<string> {
  const { url } = await sharedServer()
  const name = `test_${process.pid}_${++databases}`
  await sql(url, `create database ${name}`)
  return at(url, { database: name })
}

/** Returns a connection string with another database, user, password or port. */
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

/** Runs statements outside the store, as psql would, and returns the rows of the last. */
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
