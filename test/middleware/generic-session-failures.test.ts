// koa-generic-session 2 while the store connects, fails and recovers.
import type { EventEmitter } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import { DatabaseError, PgStore, SetupError } from '../../lib/index.js'
import { Fixture } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { type Options, type Routes, serveGenericSession } from './sites/generic-session.js'

describe('koa-generic-session 2: a store that fails', () => {
  const fixture = new Fixture()
  const { makeStore, closeAfterTest } = fixture
  const serve = (...[store, options, routes]: [PgStore, Options?, Routes?]) =>
    serveGenericSession(fixture, store, options, routes)

  it('forwards the connect event of the store once the table exists', async () => {
    const connected: unknown[] = []
    const site = await serve(
      closeAfterTest(new PgStore(fixture.url)),
      {},
      {
        '/listen': (ctx) => {
          ctx.sessionStore.on('connect', () => connected.push(sql(fixture.url, 'select from session')))
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/listen`)
    expect(connected).to.have.length(0)
    await browser.get(`${site.url}/sign-in?name=ann`)
    await browser.get(`${site.url}/`)
    expect(connected).to.have.length(1)
    await connected[0]
  })

  it('responds with errors during an outage, signs no user out, and recovers without a restart', async () => {
    const server = await ownServer()
    fixture.cleanups.push(() => server.stop())
    fixture.url = server.url
    const store = await makeStore()
    const handled: [string, Error][] = []
    const disconnects: string[] = []
    // The middleware listens for it, though the store's types have no such event.
    const emitter = store as unknown as EventEmitter
    emitter.on('disconnect', () => disconnects.push('store'))
    const site = await serve(
      store,
      {
        errorHandler(error, type) {
          handled.push([type, error])
          throw error
        },
      },
      {
        '/listen': (ctx) => {
          ctx.sessionStore.on('disconnect', () => disconnects.push('middleware'))
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/listen`)
    await browser.get(`${site.url}/sign-in?name=ann`)
    const cookies = [...browser.cookies]

    await server.kill()
    for (const path of ['/', '/visit', '/sign-in?name=bob', '/sign-out']) {
      const response = await browser.get(`${site.url}${path}`)
      expect(response.status).to.equal(500)
      expect(response.setCookie).to.deep.equal([])
    }
    expect(handled.map(([type]) => type)).to.deep.equal(['get', 'get', 'get', 'get'])
    const stranger = new Browser()
    expect((await stranger.get(`${site.url}/`)).text).to.equal('anonymous')
    const refused = await stranger.get(`${site.url}/sign-in?name=bob`)
    expect(refused.status).to.equal(500)
    expect(refused.setCookie).to.deep.equal([])
    expect(handled[4]?.[0]).to.equal('set')
    for (const [, error] of handled) expect(error).to.be.instanceOf(DatabaseError)

    await server.start()
    expect([...browser.cookies]).to.deep.equal(cookies)
    // For a moment, calls are still refused.
    await until(async () => (await browser.get(`${site.url}/`)).text === 'ann')
    await stranger.get(`${site.url}/sign-in?name=bob`)
    expect((await stranger.get(`${site.url}/`)).text).to.equal('bob')
    expect(disconnects).to.deep.equal([])
  })

  /** Serves two sites, one of them with a store that has no socket, and signs a user in at the other. */
  async function serveWithoutSocket(broken: PgStore) {
    const good = await serve(await makeStore())
    const handled: [string, Error][] = []
    const bad = await serve(broken, {
      errorHandler(error, type) {
        handled.push([type, error])
        throw error
      },
    })
    const browser = new Browser()
    await browser.get(`${good.url}/sign-in?name=ann`)
    return { good, bad, handled, browser }
  }

  it('signs no user out when the unix socket does not exist (ENOENT)', async () => {
    const broken = closeAfterTest(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' }))
    const { good, bad, handled, browser } = await serveWithoutSocket(broken)
    const response = await browser.get(`${bad.url}/`)
    expect(response.status).to.equal(500)
    expect(response.setCookie).to.deep.equal([])
    expect(handled).to.have.length(1)
    expect(handled[0]?.[0]).to.equal('get')
    expect(handled[0]?.[1]).to.be.instanceOf(SetupError)
    expect(handled[0]?.[1].cause).to.include({ code: 'ENOENT' })
    expect((await browser.get(`${good.url}/`)).text).to.equal('ann')
  })

  it('signs no user out when the unix socket disappears (ENOENT)', async () => {
    const { hostname, port, username, password, pathname } = new URL(fixture.url)
    const pool = new pg.Pool({
      host: hostname,
      port: Number(port),
      user: username,
      password,
      database: pathname.slice(1),
      // Each query uses a new connection.
      maxUses: 1,
    })
    fixture.cleanups.push(() => pool.end())
    const broken = closeAfterTest(new PgStore(pool, { cache: false }))
    await broken.setup()
    const { good, bad, handled, browser } = await serveWithoutSocket(broken)
    expect((await browser.get(`${bad.url}/`)).text).to.equal('ann')
    pool.options.host = '/nowhere'
    const response = await browser.get(`${bad.url}/`)
    expect(response.status).to.equal(500)
    expect(response.setCookie).to.deep.equal([])
    expect(handled).to.have.length(1)
    expect(handled[0]?.[0]).to.equal('get')
    expect(handled[0]?.[1]).to.be.instanceOf(DatabaseError)
    expect(handled[0]?.[1].cause).to.include({ code: 'ENOENT' })
    expect((await browser.get(`${good.url}/`)).text).to.equal('ann')
  })

  it('throws the store’s error, and sets no cookie, if the application has no errorHandler', async () => {
    const good = await serve(await makeStore())
    const bad = await serve(
      closeAfterTest(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' })),
    )
    const browser = new Browser()
    await browser.get(`${good.url}/sign-in?name=ann`)
    for (const response of [
      await browser.get(`${bad.url}/`),
      await new Browser().get(`${bad.url}/sign-in?name=bob`),
    ]) {
      expect(response.status).to.equal(500)
      expect(response.setCookie).to.deep.equal([])
    }
    expect(bad.errors.map(({ name }) => name)).to.deep.equal([
      'koa-generic-session get error',
      'koa-generic-session set error',
    ])
  })
})
