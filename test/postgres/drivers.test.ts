// A whole store over every driver and connection that people use.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { type AddressInfo, connect } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { Pool as NeonPool, neon, neonConfig } from '@neondatabase/serverless'
import { expect } from 'chai'
import pg from 'pg'
import pg811 from 'pg811'
import postgres from 'postgres'
import { createWebSocketStream, WebSocket, WebSocketServer } from 'ws'
import { PgStore, type QueryFunction } from '../../lib/index.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { useEverything } from '../helpers/use-everything.js'

/** Their types need those of a browser. */
const require = createRequire(import.meta.url)
const { PGlite } = require('@electric-sql/pglite') as { PGlite: new () => Database }
const { PGLiteSocketServer } = require('@electric-sql/pglite-socket') as {
  PGLiteSocketServer: new (options: {
    db: Database
    port: number
    host: string
  }) => {
    addEventListener(name: 'listening', listener: (event: { detail: { port: number } }) => void): void
    start(): Promise<void>
    stop(): Promise<void>
  }
}

interface Database {
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>
  close(): Promise<void>
}

describe('a store over', function () {
  this.timeout(60_000)
  let pglite: Database

  before(async () => {
    pglite = new PGlite()
    // It starts in this process, and keeps it from everything else for seconds.
    await pglite.query('select 1')
  })

  after(() => pglite.close())

  it('postgres.js, as a query function', async () => {
    const url = await freshDatabase()
    const client = postgres(url, { onnotice: () => undefined })
    const query: QueryFunction = (text, values) => client.unsafe(text, values as never[])
    await useEverything(query, (text) => sql(url, text))
    await client.end()
  })

  it('PGlite, as a query function', async () => {
    const rows = async (text: string): Promise<unknown[]> => (await pglite.query(text)).rows
    await useEverything((text, values) => pglite.query(text, values), rows)
  })

  it('PGlite behind its socket server, which has one connection, and says why nothing is cached', async () => {
    const server = new PGLiteSocketServer({ db: pglite, port: 0, host: '127.0.0.1' })
    const listening = new Promise<{ port: number }>((resolve) =>
      server.addEventListener('listening', (event) => resolve(event.detail)),
    )
    await server.start()
    const { port } = await listening
    const store = new PgStore({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres', max: 1 })
    const warnings: string[] = []
    store.on('warning', ({ message }) => warnings.push(message))
    await store.set('a-session-of-8', { userId: 8 })
    expect(await store.get('a-session-of-8')).to.deep.equal({ userId: 8 })
    expect(await store.sessionsOf(8)).to.have.length(1)
    await store.create({ cart: [1] }, { ttl: 1 })
    await until(async () => (await store.sweep()).deleted === 1)
    await until(() => warnings.length > 0)
    expect(warnings[0]).to.match(
      /^LISTEN connection lost, serving sessions from the database until it recovers: .*(connection ended|terminated|closed)/i,
    )
    await store.close()
    await server.stop()
  })

  it("Neon's neon(), as a query function", async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url, types: { getTypeParser: () => String } as never })
    // Answers as Neon's HTTP endpoint does: every value as text, with the types of the columns.
    const server = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request) body += chunk
      const { query, params } = JSON.parse(body) as { query: string; params: unknown[] }
      try {
        const { rows, fields, command, rowCount } = await pool.query({
          text: query,
          values: params,
          rowMode: 'array',
        })
        const columns = fields.map(({ name, dataTypeID }) => ({ name, dataTypeID }))
        response.end(JSON.stringify({ rows, fields: columns, command, rowCount, rowAsArray: true }))
      } catch (error) {
        response.writeHead(400)
        const { message, code } = error as Error & { code?: string }
        response.end(JSON.stringify({ message, code, severity: 'ERROR' }))
      }
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    neonConfig.fetchEndpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/sql`
    const run = neon('postgres://user:password@ep-test.neon.tech/app')
    await useEverything(
      (text, values) => run.query(text, values),
      (text) => sql(url, text),
    )
    server.close()
    await pool.end()
  })

  it("Neon's Pool, over a WebSocket", async () => {
    const url = await freshDatabase()
    const { hostname, port } = new URL(url)
    // Passes everything on to the server, as Neon's proxy does.
    const proxy = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    proxy.on('connection', (socket) => {
      const [client, server] = [createWebSocketStream(socket), connect(Number(port), hostname)]
      Promise.all([pipeline(client, server), pipeline(server, client)]).catch(() => socket.terminate())
    })
    await once(proxy, 'listening')
    neonConfig.webSocketConstructor = WebSocket
    neonConfig.wsProxy = () => `127.0.0.1:${(proxy.address() as AddressInfo).port}`
    neonConfig.useSecureWebSocket = false
    neonConfig.pipelineConnect = false
    const pool = new NeonPool({ connectionString: url })
    await useEverything(pool as unknown as pg.Pool, (text) => sql(url, text))
    await pool.end()
    proxy.close()
  })

  it("a pool of the application's own version of pg", async () => {
    const url = await freshDatabase()
    const pool = new pg811.Pool({ connectionString: url })
    await useEverything(pool, (text) => sql(url, text))
    await pool.end()
  })

  it("a pool with the application's own type parsers", async () => {
    const url = await freshDatabase()
    const getTypeParser = (oid: number, format?: 'text'): unknown =>
      [20, 21, 23, 114, 701, 1184, 1700, 3802].includes(oid) ? String : pg.types.getTypeParser(oid, format)
    const pool = new pg.Pool({ connectionString: url, types: { getTypeParser } as never })
    await useEverything(pool, (text) => sql(url, text))
    await pool.end()
  })

  it('a pool whose clients have no cursors, as those of pg-native', async () => {
    const url = await freshDatabase()
    class Client extends pg.Client {
      readonly native = {}
      // biome-ignore lint/suspicious/noExplicitAny: pg's query has eight signatures
      override query(...args: any[]): any {
        if (typeof args[0]?.submit === 'function')
          throw new TypeError('this.connection.sync is not a function')
        return super.query(...(args as [string]))
      }
    }
    const pool = new pg.Pool({ connectionString: url, Client })
    await useEverything(pool, (text) => sql(url, text))
    await pool.end()
  })

  // pg-native needs libpq and a compiler, so it is not installed with the other packages.
  const native = pg.native
  if (native !== null)
    it('a pool of pg-native', async () => {
      const url = await freshDatabase()
      const pool = new native.Pool({ connectionString: url })
      await useEverything(pool, (text) => sql(url, text))
      await pool.end()
    })
})
