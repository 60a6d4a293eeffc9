// Calls reject while the database cannot be reached, and work again without a restart.
import { expect } from 'chai'
import pg from 'pg'
import { DatabaseError, PgStore } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import { startProxy } from '../helpers/proxy.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import type { PostgresServer } from '../support/postgres/server.js'

describe('an outage', () => {
  let server: PostgresServer
  before(async () => {
    server = await ownServer()
  })
  after(() => server.stop())

  it('makes every call reject, and needs no restart', async () => {
    const store = new PgStore(server.url, { cache: false, touch: { interval: 0 } })
    const warnings: Error[] = []
    store.on('warning', (error) => warnings.push(error))
    await store.set('a', { a: 1 }, 600_000)
    // These wait for a lock when the server is killed: each must reject, and not resolve with undefined.
    const holder = new pg.Client(server.url)
    holder.on('error', () => undefined)
    await holder.connect()
    await holder.query('begin; lock table session')
    const pending = [1, 2, 3, 4, 5].flatMap(() => [
      rejection(store.get('a')),
      rejection(store.set('a', { b: 2 })),
    ])
    const waiting = `select from pg_locks where not granted and relation = 'session'::regclass`
    await until(async () => (await holder.query(waiting)).rowCount === 2)
    await server.kill()
    for (const error of await Promise.all(pending)) expect(error).to.be.instanceOf(DatabaseError)
    for (const call of [
      store.get('a'),
      store.set('a', {}),
      store.touch('a'),
      store.destroy('a'),
      store.count(),
    ]) {
      const error = await rejection(call)
      expect(error).to.be.instanceOf(DatabaseError)
      expect((error as DatabaseError).code).to.be.oneOf(['ERR_SESSION_DATABASE', 'ERR_SESSION_UNREACHABLE'])
      expect(error.message).to.match(
        /^can't (read|write|touch|destroy|count) the sessions?: (connect ECONNREFUSED|Connection terminated|read ECONNRESET|terminating connection|Client has encountered)/,
      )
    }
    await server.start()
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    await store.close()
  })

  it('during startup needs no restart', async () => {
    await server.kill()
    const store = new PgStore(server.url, { table: 'boot' })
    const errors = await Promise.all([
      rejection(store.setup()),
      rejection(store.get('a')),
      rejection(store.set('a', {})),
    ])
    for (const error of errors)
      expect(error.message).to.match(
        /can't set up "public"."boot": connect ECONNREFUSED .*: is PostgreSQL running/,
      )
    await server.start()
    // Calls are refused until an attempt to connect succeeds.
    await until(() =>
      store.set('a', { a: 1 }).then(
        () => true,
        () => false,
      ),
    )
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    await store.close()
  })

  it('of 15 seconds does not end an idle application with koa-generic-session', async function () {
    this.timeout(90_000)
    const child = start('idle-app.js', [server.url])
    let exitCode: unknown
    child.once('exit', (code, signal) => {
      exitCode = code ?? signal
    })
    try {
      const { port } = await message<{ port: number }>(child)
      const visit = async (cookie = '') => {
        const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { cookie } })
        const cookies = response.headers.getSetCookie().map((line) => line.split(';')[0])
        return { status: response.status, text: await response.text(), cookies }
      }
      const first = await visit()
      expect(first).to.include({ status: 200, text: '1' })
      const cookie = first.cookies.join('; ')
      await server.kill()
      // koa-generic-session has a timer that ends the process after 10 seconds.
      await new Promise((resolve) => setTimeout(resolve, 15_000))
      expect(exitCode).to.equal(undefined)
      const failed = await visit(cookie)
      expect(failed.status).to.equal(503)
      expect(failed.cookies, 'the user is not signed out').to.deep.equal([])
      await server.start()
      // The server may have been found unreachable a moment ago.
      await until(async () => (await visit(cookie)).status === 200)
      expect(await visit(cookie)).to.include({ status: 200, text: '3' })
      expect(exitCode).to.equal(undefined)
    } finally {
      child.kill()
    }
  })

  it('of the connections alone (pg_terminate_backend) makes no read fail', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url, { cache: false })
    await store.set('a', { a: 1 })
    for (let round = 0; round < 10; round++) {
      const terminated = sql(
        url,
        `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
      )
      let settled = false
      void terminated.then(() => {
        settled = true
      })
      while (!settled)
        for (const session of await Promise.all([store.get('a'), store.get('a')]))
          expect(session).to.deep.equal({ a: 1 })
    }
    await store.close()
  })

  it('of a network that stalls ends every wait, and needs no restart', async () => {
    const url = new URL(await freshDatabase())
    const proxy = await startProxy(Number(url.port))
    url.port = String(proxy.port)
    const store = new PgStore(
      {
        connectionString: url.href,
        connectionTimeoutMillis: 500,
        query_timeout: 500,
      },
      { cache: false },
    )
    await store.set('a', { a: 1 }, 600_000)
    proxy.stall()
    const error = await rejection(store.get('a'))
    expect(error).to.be.instanceOf(DatabaseError)
    const errors = await Promise.all(
      Array.from({ length: 30 }, () => rejection(store.set('a', { lost: true }))),
    )
    for (const { message } of errors)
      expect(message).to.match(/no response from PostgreSQL|no connection to PostgreSQL within 500 ms/)
    proxy.resume()
    await until(async () => {
      const session = await store.get('a').catch(() => undefined)
      return session !== undefined
    })
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    proxy.stall()
    const pending = rejection(store.get('a'))
    await store.close()
    await pending
    await proxy.close()
  })
})
