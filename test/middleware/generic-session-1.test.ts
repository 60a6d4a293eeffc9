// koa-generic-session 1 on Koa 1, where middleware and routes are generators.
import { expect } from 'chai'
import session, { type Options } from 'koa-generic-session1'
import Koa, { type Context } from 'koa1'
import { DatabaseError, PgStore, SessionTooLargeError, SetupError } from '../../lib/index.js'
import { type Attributes, bodyOf, Fixture, type Site, storedId } from '../helpers/fixture.js'
import { Browser, listen } from '../helpers/http.js'
import { ownServer } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** A generator function, or a function if there is nothing to wait for. */
type Route = (this: Context) => unknown

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

function isGenerator(value: unknown): value is Generator<unknown, unknown, unknown> {
  return typeof Reflect.get(Object(value), 'next') === 'function'
}

/** Returns the session, which has to be yielded with the option `defer`. */
function* sessionOf(context: Context): Generator<unknown, Attributes, unknown> {
  const { session } = context
  return (isGenerator(session) ? yield session : session) as Attributes
}

const commonRoutes: Record<string, Route> = {
  *'/'() {
    return (yield* sessionOf(this)).name ?? 'anonymous'
  },
  *'/sign-in'() {
    const { name } = this.query
    Object.assign(yield* sessionOf(this), { name })
  },
  *'/visit'() {
    const session = yield* sessionOf(this)
    session.visits = (session.visits ?? 0) + 1
    return session.visits
  },
  '/sign-out'() {
    this.session = null
  },
}

describe('koa-generic-session 1 on Koa 1', () => {
  const fixture = new Fixture()
  const { makeStore, closeAfterTest, rows, onlyRow } = fixture

  /** Serves an application with the common routes and those of a test. */
  async function serve(
    store: PgStore,
    options: Options = {},
    routes: Record<string, Route> = {},
  ): Promise<Site> {
    const errors: Error[] = []
    const app = new Koa()
    app.keys = ['the key of all these applications']
    // Koa removes all headers of a failed request; an application with an error handler doesn't.
    app.use(function* (next) {
      try {
        yield next
      } catch (error) {
        errors.push(error as Error)
        this.status = 500
        this.body = (error as Error).message
      }
    })
    app.use(session({ ...options, store }))
    app.use(function* () {
      const route = { ...commonRoutes, ...routes }[this.path]
      if (route === undefined) return
      const result = route.call(this)
      this.body = bodyOf(isGenerator(result) ? yield* result : result)
    })
    const running = await listen(app)
    fixture.cleanups.push(() => running.stop())
    return { ...running, errors }
  }

  for (const defer of [false, true]) {
    it(`signs in, keeps changes, survives a restart, and signs out, with defer ${defer}`, async () => {
      const site = await serve(await makeStore(), { defer })
      const browser = new Browser()
      expect((await browser.get(`${site.url}/`)).setCookie).to.deep.equal([])
      expect(await rows()).to.deep.equal([])
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
      const restarted = await serve(await makeStore(), { defer })
      expect((await browser.get(`${restarted.url}/visit`)).text).to.equal('2')
      expect((await browser.get(`${restarted.url}/`)).text).to.equal('ann')
      const row = await onlyRow()
      expect(row.id).to.equal(storedId(`koa:sess:${browser.cookies.get('koa.sid')}`))
      expect(row.session).to.deep.include({ name: 'ann', visits: 2 })
      expect(row.ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
      const copy = browser.copy()
      await browser.get(`${restarted.url}/sign-out`)
      expect(browser.cookies.has('koa.sid')).to.equal(false)
      expect((await copy.get(`${restarted.url}/`)).text).to.equal('anonymous')
      expect((await onlyRow()).session).to.equal(null)
    })

    it(`regenerateSession, with defer ${defer}: goes on under another id and destroys the old one`, async () => {
      const site = await serve(
        await makeStore(),
        { defer },
        {
          *'/regenerate'() {
            const { name } = yield* sessionOf(this)
            yield* this.regenerateSession()
            Object.assign(yield* sessionOf(this), { name, regenerated: true })
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const old = browser.copy()
      await browser.get(`${site.url}/regenerate`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      expect((await old.copy().get(`${site.url}/`)).text).to.equal('anonymous')
      const all = await rows()
      expect(all.map(({ id }) => id)).to.deep.equal([
        storedId(`koa:sess:${old.cookies.get('koa.sid')}`),
        storedId(`koa:sess:${browser.cookies.get('koa.sid')}`),
      ])
      expect(all[0]?.session).to.equal(null)
    })
  }

  it('lets generators yield, delegate to and await what the store returns', async () => {
    const store = await makeStore()
    const site = await serve(
      store,
      {},
      {
        *'/yield'() {
          yield store.set('yielded', { by: 'yield' }, hour)
          const loaded: unknown = yield store.get('yielded')
          yield store.destroy('yielded')
          const destroyed: unknown = yield store.get('yielded')
          return { loaded, destroyed }
        },
        *'/delegate'() {
          yield* store.set('delegated', { by: 'yield*' }, hour)
          const loaded = yield* store.get('delegated')
          yield* store.destroy('delegated')
          const destroyed = yield* store.get('delegated')
          return { loaded, destroyed }
        },
        *'/await'() {
          const result: unknown = yield (async () => {
            await store.set('awaited', { by: 'await' }, hour)
            const loaded = await store.get('awaited')
            await store.destroy('awaited')
            return { loaded, destroyed: await store.get('awaited') }
          })()
          return result
        },
        *'/at-once'() {
          yield [store.set('a', { n: 1 }), store.set('b', { n: 2 })]
          const result: unknown = yield { a: store.get('a'), b: store.get('b'), c: store.get('c') }
          return result
        },
      },
    )
    const fetchJson = async (path: string): Promise<unknown> => {
      const { text } = await new Browser().get(`${site.url}${path}`)
      return JSON.parse(text)
    }
    expect(await fetchJson('/yield')).to.deep.equal({ loaded: { by: 'yield' } })
    expect(await fetchJson('/delegate')).to.deep.equal({ loaded: { by: 'yield*' } })
    expect(await fetchJson('/await')).to.deep.equal({ loaded: { by: 'await' } })
    expect(await fetchJson('/at-once')).to.deep.equal({ a: { n: 1 }, b: { n: 2 } })
  })

  it('throws the store’s errors in generators that yield or delegate', async () => {
    const store = await makeStore()
    const site = await serve(
      store,
      {},
      {
        *'/yield'() {
          try {
            yield store.set('sid', { big: 1n })
          } catch (error) {
            return (error as Error).message
          }
          return 'nothing was thrown'
        },
        *'/delegate'() {
          try {
            yield* store.set('sid', { big: 1n })
          } catch (error) {
            return (error as Error).message
          }
          return 'nothing was thrown'
        },
      },
    )
    for (const path of ['/yield', '/delegate'])
      expect((await new Browser().get(`${site.url}${path}`)).text).to.match(/^session attribute "big"/)
  })

  it('saves an unchanged session only with rolling or sessionSave', async () => {
    const routes: Record<string, Route> = {
      '/force'() {
        this.sessionSave = true
      },
      *'/pretend'() {
        Object.assign(yield* sessionOf(this), { name: 'bob' })
        this.sessionSave = false
      },
    }
    const still = await serve(await makeStore(), {}, routes)
    const rolling = await serve(await makeStore(), { rolling: true })
    const browser = new Browser()
    await browser.get(`${still.url}/sign-in?name=ann`)
    await fixture.shortenTtls()
    await browser.get(`${still.url}/`)
    await browser.get(`${still.url}/pretend`)
    expect((await onlyRow()).ttlSeconds).to.be.within(1, 100)
    await browser.get(`${still.url}/force`)
    expect((await onlyRow()).ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
    await fixture.shortenTtls()
    await browser.get(`${rolling.url}/`)
    expect((await onlyRow()).ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
    expect((await browser.get(`${still.url}/`)).text).to.equal('ann')
  })

  it('takes its ttl from ttl, cookie.maxAge, cookie.expires, or the store', async () => {
    const cases: [Options, number][] = [
      [{ ttl: hour, cookie: { maxAge: 2 * day } }, 3600],
      [{ cookie: { maxAge: 2 * hour } }, 7200],
      [{ cookie: { expires: new Date(Date.now() + 3 * hour) } }, 10_800],
      [{ cookie: { maxAge: null } }, 18_000],
    ]
    for (const [options, seconds] of cases) {
      const site = await serve(await makeStore({ ttl: 5 * hour }), options)
      const browser = new Browser()
      await browser.get(`${site.url}/visit`)
      expect((await browser.get(`${site.url}/visit`)).text).to.equal('2')
      expect((await rows()).at(-1)?.ttlSeconds).to.be.within(seconds - 60, seconds)
    }
    const site = await serve(await makeStore(), { cookie: { maxAge: 0 } })
    const browser = new Browser()
    await browser.get(`${site.url}/visit`)
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
  })

  it('supports prefix, genSid, allowEmpty and sessionIdStore', async () => {
    const site = await serve(await makeStore(), {
      prefix: 'own:',
      allowEmpty: true,
      genSid: () => `sid-${Math.random()}`,
      sessionIdStore: {
        get() {
          return this.headers['x-session']
        },
        set(sid) {
          this.set('x-session', sid)
        },
        reset() {},
      },
    })
    const client = new Browser()
    const { headers, setCookie } = await client.get(`${site.url}/`)
    const sid = headers.get('x-session') ?? ''
    expect(sid).to.match(/^sid-0\.\d+$/)
    expect(setCookie).to.deep.equal([])
    expect((await onlyRow()).id).to.equal(storedId(`own:${sid}`))
    await client.get(`${site.url}/sign-in?name=ann`, { 'x-session': sid })
    expect((await client.get(`${site.url}/`, { 'x-session': sid })).text).to.equal('ann')
  })

  it('serves many requests of one browser at once, and signs none of them out', async () => {
    const site = await serve(await makeStore())
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    const sid = browser.cookies.get('koa.sid')
    const paths = Array.from({ length: 20 }, (_, n) => (n % 2 ? '/visit' : '/'))
    const responses = await Promise.all(paths.map((path) => browser.get(`${site.url}${path}`)))
    for (const [n, { status, text }] of responses.entries()) {
      expect(status).to.equal(200)
      if (paths[n] === '/') expect(text).to.equal('ann')
    }
    expect(browser.cookies.get('koa.sid')).to.equal(sid)
    expect((await onlyRow()).session).to.include({ name: 'ann' })
  })

  it('shares its sessions with koa-generic-session 2: an application can migrate while users are signed in', async () => {
    const { default: Koa3 } = await import('koa')
    const { default: session2 } = await import('koa-generic-session')
    const store = await makeStore()
    const old = await serve(store)
    const app = new Koa3()
    app.keys = ['the key of all these applications']
    app.use(session2({ store }))
    app.use((ctx) => {
      const session = ctx.session as unknown as Attributes
      if (ctx.path === '/visit') session.visits = (session.visits ?? 0) + 1
      ctx.body = session.name ?? 'anonymous'
    })
    const migrated = await listen(app)
    fixture.cleanups.push(() => migrated.stop())
    const browser = new Browser()
    await browser.get(`${old.url}/sign-in?name=ann`)
    expect((await browser.get(`${migrated.url}/visit`)).text).to.equal('ann')
    expect((await browser.get(`${old.url}/visit`)).text).to.equal('2')
    expect((await browser.get(`${old.url}/`)).text).to.equal('ann')
  })

  it('responds with errors during an outage, signs no user out, and recovers without a restart', async () => {
    const server = await ownServer()
    fixture.cleanups.push(() => server.stop())
    fixture.url = server.url
    const handled: [string, Error][] = []
    const site = await serve(await makeStore(), {
      errorHandler(error, type) {
        handled.push([type, error])
        throw error
      },
    })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    await server.kill()
    for (const path of ['/', '/visit', '/sign-out']) {
      const response = await browser.get(`${site.url}${path}`)
      expect(response.status).to.equal(500)
      expect(response.setCookie).to.deep.equal([])
    }
    const refused = await new Browser().get(`${site.url}/sign-in?name=bob`)
    expect(refused.status).to.equal(500)
    expect(refused.setCookie).to.deep.equal([])
    expect(handled.map(([type]) => type)).to.deep.equal(['get', 'get', 'get', 'set'])
    for (const [, error] of handled) expect(error).to.be.instanceOf(DatabaseError)
    await server.start()
    // For a moment, calls are still refused.
    await until(async () => (await browser.get(`${site.url}/`)).text === 'ann')
  })

  it('signs no user out when the unix socket does not exist (ENOENT)', async () => {
    const good = await serve(await makeStore())
    const browser = new Browser()
    await browser.get(`${good.url}/sign-in?name=ann`)
    const bad = await serve(
      closeAfterTest(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' })),
    )
    const response = await browser.get(`${bad.url}/`)
    expect(response.status).to.equal(500)
    expect(response.setCookie).to.deep.equal([])
    expect(bad.errors[0]).to.be.instanceOf(SetupError)
    expect(bad.errors[0]?.name).to.equal('koa-generic-session get error')
    expect((await browser.get(`${good.url}/`)).text).to.equal('ann')
  })

  const circle: Record<string, unknown> = {}
  circle.self = circle
  for (const [what, value, message] of [
    ['a BigInt', { big: 10n }, /attribute "big" can't be stored as JSON/],
    ['a circle', { circle }, /attribute "circle" can't be stored as JSON/],
    ['a function', () => 'bob', /session must be an object; received function/],
    ['two megabytes', { name: 'x'.repeat(2 ** 21) }, /maxBytes allows 1048576/],
  ] as const)
    it(`refuses ${what} as a session, and keeps the stored one`, async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/break'() {
            this.session = value
            // Otherwise the middleware fails on some of these before it calls the store.
            this.sessionSave = true
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const before = await onlyRow()
      const response = await browser.get(`${site.url}/break`)
      expect(response.status).to.equal(500)
      expect(response.text).to.match(message)
      expect(site.errors[0]).to.be.instanceOf(what === 'two megabytes' ? SessionTooLargeError : TypeError)
      expect((await onlyRow()).version).to.equal(before.version)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })
})
