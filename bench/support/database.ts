// Starts the PostgreSQL that a bench measures, with its default durability.
import pg from 'pg'
import { startPostgres } from '../../test/support/postgres/server.js'

export interface Database {
  readonly version: string
  readonly pid: number
  /** Creates a database. Each peer has one, as a listening connection receives every notification of its database. */
  create(name: string): Promise<string>
  stop(): Promise<void>
}

export async function startDatabase(): Promise<Database> {
  const server = await startPostgres({ sync: true, settings: { max_connections: '300' } })
  const admin = new pg.Client(server.url)
  admin.on('error', () => {})
  await admin.connect()
  const { rows } = await admin.query<{ server_version: string }>('show server_version')
  return {
    version: rows[0]?.server_version ?? '',
    pid: server.pid,
    async create(name) {
      await admin.query(`create database ${pg.escapeIdentifier(name)}`)
      return server.url.replace(/postgres$/, encodeURIComponent(name))
    },
    async stop() {
      await admin.end().catch(() => {})
      await server.stop()
    },
  }
}
