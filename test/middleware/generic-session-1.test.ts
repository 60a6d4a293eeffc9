import { hash } from 'node:crypto'
import { expect } from 'chai'
import session, { type Options } from 'koa-generic-session1'
import Koa, { type Context } from 'koa1'
import type pg from 'pg'
import { DatabaseError, PgStore, SessionTooLargeError, SetupError } from '../../lib/index.js'
import { Browser, listen } from '../helpers/http.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'

/** What these applications keep in a session. */
interface Kept {
  cookie?: { maxAge?: number | null; expires?: string }
  name?: string
  visits?: number
  [attribute: string]: unknown
}

/** A generator, or a function where there is nothing to wait for. */
type Route = (this: Context) => unknown

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

function isGenerator(value: unknown): value is Generator<unknown, unknown, unknown> {
  return typeof Reflect.get(Object(value), 'next') === 'function'
}

/** The session's attributes, whether the option `defer` makes something to be yielded of it or not. */
function* attributes(context: Context): Generator<unknown, Kept, unknown> {
  const { session } = context
  return (isGenerator(session) ? yield session : session) as Kept
}

const commonRoutes: Record<string, Route> = {
  *'/'() {
    return (yield* attributes(this)).name ?? 'nobody'
  },
  *'/sign-in'() {
    const { name } = this.query
    Object.assign(yield* attributes(this), { name })
  },
  *'/visit'() {
    const kept = yield* attributes(this)
    kept.visits = (kept.visits ?? 0) + 1
    return kept.visits
  },
  '/sign-out'() {
    this.session = null
  },
}

interface Row {
  id: string
  session: Kept | null
  version: string
  /** Seconds until it expires, by the server's clock. */
  left: number
}

describe('koa-generic-session 1 on Koa 1', () => {
  let url: string
  const cleanups: (() => Promise<unknown>)[] = []

  beforeEach(async () => {
    url = await freshDatabase()
  })

  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  })

  async function makeStore(options: ConstructorParameters<typeof PgStore>[1] = {}): Promise<PgStore> {
    const store = closing(new PgStore(url, { touch: { interval: 0 }, ...options }))
    await store.setup()
    return store
  }

  function closing(store: PgStore): PgStore {
    cleanups.push(() => store.close())
    return store
  }

  /** An application of the common routes and those of a test. */
  async function serve(store: PgStore, options: Options = {}, routes: Record<string, Route> = {}) {
    const errors: Error[] = []
    const app = new Koa()
    app.keys = ['the key of all these applications']
    // Koa itself takes back every header of a request that failed; an application that answers errors doesn't.
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
      const made = route.call(this)
      const result: unknown = isGenerator(made) ? yield* made : made
      this.body = result === undefined ? 'done' : typeof result === 'string' ? result : JSON.stringify(result)
    })
    const served = await listen(app)
    cleanups.push(() => served.stop())
    return { url: served.url, errors }
  }

  async function rows(): Promise<Row[]> {
    return sql<Row & pg.QueryResultRow>(
      url,
      `select id, session, version, extract(epoch from expiry - now())::float8 as left from session order by created_at`,
    )
  }

  async function onlyRow(): Promise<Row> {
    const all = await rows()
    expect(all).to.have.length(1)
    return all[0] as Row
  }

  function storedId(sid: string | undefined): string {
    return `sha256:${hash('sha256', `koa:sess:${sid}`, 'base64url')}`
  }

  for (const defer of [false, true]) {
    it(`signs in, counts, outlives a restart, and signs out, with defer ${defer}`, async () => {
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
      expect(row.id).to.equal(storedId(browser.cookies.get('koa.sid')))
      expect(row.session).to.deep.include({ name: 'ann', visits: 2 })
      expect(row.left).to.be.within(day / 1000 - 60, day / 1000)
      const copy = browser.copy()
      await browser.get(`${restarted.url}/sign-out`)
      expect(browser.cookies.has('koa.sid')).to.equal(false)
      expect((await copy.get(`${restarted.url}/`)).text).to.equal('nobody')
      expect((await onlyRow()).session).to.equal(null)
    })

    it(`regenerates: goes on under another id, and the old one is dead, with defer ${defer}`, async () => {
      const site = await serve(
        await makeStore(),
        { defer },
        {
          *'/regenerate'() {
            const { name } = yield* attributes(this)
            yield* this.regenerateSession()
            Object.assign(yield* attributes(this), { name, regenerated: true })
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const old = browser.copy()
      await browser.get(`${site.url}/regenerate`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      expect((await old.copy().get(`${site.url}/`)).text).to.equal('nobody')
      const all = await rows()
      expect(all.map(({ id }) => id)).to.deep.equal([
        storedId(old.cookies.get('koa.sid')),
        storedId(browser.cookies.get('koa.sid')),
      ])
      expect(all[0]?.session).to.equal(null)
    })
  }

  it('lets generators yield, delegate to and await what the store answers', async () => {
    const store = await makeStore()
    const site = await serve(
      store,
      {},
      {
        *'/yield'() {
          yield store.set('yielded', { by: 'yield' }, hour)
          const there: unknown = yield store.get('yielded')
          yield store.destroy('yielded')
          const gone: unknown = yield store.get('yielded')
          return { there, gone }
        },
        *'/delegate'() {
          yield* store.set('delegated', { by: 'yield*' }, hour)
          const there = yield* store.get('delegated')
          yield* store.destroy('delegated')
          const gone = yield* store.get('delegated')
          return { there, gone }
        },
        *'/await'() {
          const result: unknown = yield (async () => {
            await store.set('awaited', { by: 'await' }, hour)
            const there = await store.get('awaited')
            await store.destroy('awaited')
            return { there, gone: await store.get('awaited') }
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
    const answer = async (path: string): Promise<unknown> => {
      const { text } = await new Browser().get(`${site.url}${path}`)
      return JSON.parse(text)
    }
    expect(await answer('/yield')).to.deep.equal({ there: { by: 'yield' } })
    expect(await answer('/delegate')).to.deep.equal({ there: { by: 'yield*' } })
    expect(await answer('/await')).to.deep.equal({ there: { by: 'await' } })
    expect(await answer('/at-once')).to.deep.equal({ a: { n: 1 }, b: { n: 2 } })
  })

  it('throws the store’s errors into generators that yield or delegate', async () => {
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

  it('saves an unchanged session only when it is rolling or made to', async () => {
    const routes: Record<string, Route> = {
      '/force'() {
        this.sessionSave = true
      },
      *'/pretend'() {
        Object.assign(yield* attributes(this), { name: 'bob' })
        this.sessionSave = false
      },
    }
    const still = await serve(await makeStore(), {}, routes)
    const rolling = await serve(await makeStore(), { rolling: true })
    const browser = new Browser()
    await browser.get(`${still.url}/sign-in?name=ann`)
    const hurried = async () => {
      await sql(url, `update session set expiry = now() + interval '100 s'`)
    }
    await hurried()
    await browser.get(`${still.url}/`)
    await browser.get(`${still.url}/pretend`)
    expect((await onlyRow()).left).to.be.within(1, 100)
    await browser.get(`${still.url}/force`)
    expect((await onlyRow()).left).to.be.within(day / 1000 - 60, day / 1000)
    await hurried()
    await browser.get(`${rolling.url}/`)
    expect((await onlyRow()).left).to.be.within(day / 1000 - 60, day / 1000)
    expect((await browser.get(`${still.url}/`)).text).to.equal('ann')
  })

  it('takes its lifetimes: ttl, cookie.maxAge, cookie.expires, and none', async () => {
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
      expect((await rows()).at(-1)?.left).to.be.within(seconds - 60, seconds)
    }
    const site = await serve(await makeStore(), { cookie: { maxAge: 0 } })
    const browser = new Browser()
    await browser.get(`${site.url}/visit`)
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
  })

  it('takes prefix, genSid, allowEmpty and sessionIdStore', async () => {
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
    expect((await onlyRow()).id).to.equal(`sha256:${hash('sha256', `own:${sid}`, 'base64url')}`)
    await client.get(`${site.url}/sign-in?name=ann`, { 'x-session': sid })
    expect((await client.get(`${site.url}/`, { 'x-session': sid })).text).to.equal('ann')
  })

  it('answers many requests of one browser at once, none of them signed out', async () => {
    const site = await serve(await makeStore())
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    const sid = browser.cookies.get('koa.sid')
    const paths = Array.from({ length: 20 }, (_, n) => (n % 2 ? '/visit' : '/'))
    const answers = await Promise.all(paths.map((path) => browser.get(`${site.url}${path}`)))
    for (const [n, { status, text }] of answers.entries()) {
      expect(status).to.equal(200)
      if (paths[n] === '/') expect(text).to.equal('ann')
    }
    expect(browser.cookies.get('koa.sid')).to.equal(sid)
    expect((await onlyRow()).session).to.include({ name: 'ann' })
  })

  it('shares its sessions with koa-generic-session 2: an application may be moved over while people are signed in', async () => {
    const { default: Koa3 } = await import('koa')
    const { default: session2 } = await import('koa-generic-session')
    const store = await makeStore()
    const old = await serve(store)
    const app = new Koa3()
    app.keys = ['the key of all these applications']
    app.use(session2({ store }))
    app.use((ctx) => {
      const kept = ctx.session as unknown as Kept
      if (ctx.path === '/visit') kept.visits = (kept.visits ?? 0) + 1
      ctx.body = kept.name ?? 'nobody'
    })
    const renewed = await listen(app)
    cleanups.push(() => renewed.stop())
    const browser = new Browser()
    await browser.get(`${old.url}/sign-in?name=ann`)
    expect((await browser.get(`${renewed.url}/visit`)).text).to.equal('ann')
    expect((await browser.get(`${old.url}/visit`)).text).to.equal('2')
    expect((await browser.get(`${old.url}/`)).text).to.equal('ann')
  })

  it('answers errors during an outage, signs nobody out, and goes on when it is over', async () => {
    const server = await ownServer()
    cleanups.push(() => server.stop())
    url = server.url
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
      const answer = await browser.get(`${site.url}${path}`)
      expect(answer.status).to.equal(500)
      expect(answer.setCookie).to.deep.equal([])
    }
    const refused = await new Browser().get(`${site.url}/sign-in?name=bob`)
    expect(refused.status).to.equal(500)
    expect(refused.setCookie).to.deep.equal([])
    expect(handled.map(([type]) => type)).to.deep.equal(['get', 'get', 'get', 'set'])
    for (const [, error] of handled) expect(error).to.be.instanceOf(DatabaseError)
    await server.start()
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
  })

  it('signs nobody out when the unix socket is not there (ENOENT)', async () => {
    const good = await serve(await makeStore())
    const browser = new Browser()
    await browser.get(`${good.url}/sign-in?name=ann`)
    const bad = await serve(
      closing(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' })),
    )
    const answer = await browser.get(`${bad.url}/`)
    expect(answer.status).to.equal(500)
    expect(answer.setCookie).to.deep.equal([])
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
    it(`refuses ${what} for a session, and the stored one stays as it was`, async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/break'() {
            this.session = value
            // Otherwise the middleware stumbles over some of them before the store sees them.
            this.sessionSave = true
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const before = await onlyRow()
      const answer = await browser.get(`${site.url}/break`)
      expect(answer.status).to.equal(500)
      expect(answer.text).to.match(message)
      expect(site.errors[0]).to.be.instanceOf(what === 'two megabytes' ? SessionTooLargeError : TypeError)
      expect((await onlyRow()).version).to.equal(before.version)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })
})
