// koa-session 7: what each of its options and calls does to the stored session.
import { expect } from 'chai'
import type Koa from 'koa'
import type { CreateSessionOptions } from 'koa-session'
import { PgStore, SetupError } from '../../lib/index.js'
import { Fixture, type Row, storedId } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { type Route, serveKoaSession } from './sites/koa-session.js'

const hour = 3_600_000
const day = 24 * hour

describe('koa-session 7 on Koa 3', () => {
  const fixture = new Fixture()
  const { makeStore, closeAfterTest, rows, onlyRow } = fixture
  const serve = (...[options, routes]: [CreateSessionOptions, Record<string, Route>?]) =>
    serveKoaSession(fixture, options, routes)

  it('signs in, keeps changes, survives a restart, and signs out', async () => {
    const site = await serve({ store: await makeStore() })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
    const restarted = await serve({ store: await makeStore() })
    expect((await browser.get(`${restarted.url}/visit`)).text).to.equal('2')
    expect((await browser.get(`${restarted.url}/`)).text).to.equal('ann')
    const row = await onlyRow()
    expect(row.id).to.equal(storedId(browser.cookies.get('koa.sess')))
    expect(row.session).to.deep.include({ name: 'ann', visits: 2 })
    const copy = browser.copy()
    await browser.get(`${restarted.url}/sign-out`)
    expect(browser.cookies.has('koa.sess')).to.equal(false)
    expect((await copy.get(`${restarted.url}/`)).text).to.equal('anonymous')
    expect((await onlyRow()).session).to.equal(null)
  })

  it('stores a session that is assigned to ctx.session, under the same id', async () => {
    const site = await serve(
      { store: await makeStore() },
      {
        '/replace': (ctx) => {
          ctx.session = { name: 'bob' }
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/visit`)
    const sid = browser.cookies.get('koa.sess')
    await browser.get(`${site.url}/replace`)
    expect(browser.cookies.get('koa.sess')).to.equal(sid)
    expect((await browser.get(`${site.url}/`)).text).to.equal('bob')
    expect((await onlyRow()).session).not.to.have.property('visits')
  })

  it('writes nothing and sets no cookie for a visitor who stores nothing', async () => {
    const site = await serve({ store: await makeStore() })
    for (const path of ['/', '/idle'])
      expect((await new Browser().get(`${site.url}${path}`)).setCookie).to.deep.equal([])
    expect(await rows()).to.deep.equal([])
  })

  it('writes no row for a visitor who signs out without having signed in', async () => {
    const site = await serve({ store: await makeStore() })
    expect((await new Browser().get(`${site.url}/sign-out`)).status).to.equal(200)
    expect(await rows()).to.deep.equal([])
  })

  it('stores a session for ten seconds longer than its cookie, which lasts a day unless maxAge is set', async () => {
    for (const [options, seconds] of [
      [{}, day / 1000],
      [{ maxAge: 2 * hour }, 7200],
    ] as const) {
      const site = await serve({ store: await makeStore(), ...options })
      await new Browser().get(`${site.url}/sign-in?name=ann`)
      expect((await rows()).at(-1)?.lifetimeSeconds).to.equal(seconds + 10)
    }
  })

  it('maxAge session: the cookie lasts until the browser closes, the session for the ttl of the store', async () => {
    const site = await serve({ store: await makeStore({ ttl: 5 * hour }), maxAge: 'session' })
    const browser = new Browser()
    const { setCookie } = await browser.get(`${site.url}/visit`)
    expect(setCookie[0]).not.to.include('expires')
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('2')
    expect((await onlyRow()).ttlSeconds).to.be.within(17_940, 18_000)
  })

  it('maxAge of one session: it can last longer than the others', async () => {
    const site = await serve(
      { store: await makeStore() },
      {
        '/remember': (_, session) => {
          session.maxAge = 30 * day
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    await browser.get(`${site.url}/remember`)
    expect((await onlyRow()).ttlSeconds).to.be.within((30 * day) / 1000 - 50, (30 * day) / 1000 + 10)
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
  })

  it('regenerate: goes on under another id and destroys the old one', async () => {
    const site = await serve(
      { store: await makeStore() },
      { '/regenerate': (_, session) => session.regenerate() },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    const old = browser.copy()
    await browser.get(`${site.url}/regenerate`)
    expect(browser.cookies.get('koa.sess')).not.to.equal(old.cookies.get('koa.sess'))
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    expect((await old.copy().get(`${site.url}/`)).text).to.equal('anonymous')
    const all = await rows()
    expect(all.map(({ id }) => id)).to.deep.equal([
      storedId(old.cookies.get('koa.sess')),
      storedId(browser.cookies.get('koa.sess')),
    ])
    expect(all[0]?.session).to.equal(null)
  })

  it('save and manuallyCommit: store the session before the request goes on', async () => {
    const found: Row[][] = []
    const look = async () => {
      found.push(await rows())
    }
    const store = await makeStore()
    const site = await serve(
      { store },
      {
        '/save': async (_, session) => {
          await session.save()
          await look()
        },
      },
    )
    const manual = await serve(
      { store, autoCommit: false },
      {
        '/commit': async (_, session) => {
          session.name = 'bob'
          await session.manuallyCommit()
          await look()
        },
      },
    )
    await new Browser().get(`${site.url}/save`)
    expect(found[0]).to.have.length(1)
    const browser = new Browser()
    await browser.get(`${manual.url}/sign-in?name=ann`)
    expect(await rows()).to.have.length(1)
    await browser.get(`${manual.url}/commit`)
    expect(found[1]?.[1]?.session).to.include({ name: 'bob' })
    expect((await browser.get(`${manual.url}/`)).text).to.equal('bob')
  })

  it('rolling: saves an unchanged session, with its full ttl', async () => {
    const still = await serve({ store: await makeStore() })
    const rolling = await serve({ store: await makeStore(), rolling: true })
    const browser = new Browser()
    await browser.get(`${still.url}/sign-in?name=ann`)
    await fixture.shortenTtls()
    await browser.get(`${still.url}/`)
    expect((await onlyRow()).ttlSeconds).to.be.within(1, 100)
    await browser.get(`${rolling.url}/`)
    expect((await onlyRow()).ttlSeconds).to.be.within(day / 1000 - 50, day / 1000 + 10)
  })

  it('prefix: ids begin with it', async () => {
    const site = await serve({ store: await makeStore(), prefix: 'shop:' })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect(browser.cookies.get('koa.sess')).to.match(/^shop:[\w-]{36}$/)
    expect((await onlyRow()).id).to.equal(storedId(browser.cookies.get('koa.sess')))
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
  })

  it('genid: custom ids', async () => {
    const site = await serve({ store: await makeStore(), genid: (ctx) => `${ctx.method}-${Math.random()}` })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect(browser.cookies.get('koa.sess')).to.match(/^GET-0\.\d+$/)
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
  })

  it('externalKey: ids in a header instead of a cookie', async () => {
    const site = await serve({
      store: await makeStore(),
      externalKey: {
        get: (ctx) => ctx.get('x-session'),
        set: (ctx, key) => ctx.set('x-session', key),
      },
    })
    const client = new Browser()
    const { headers, setCookie } = await client.get(`${site.url}/sign-in?name=ann`)
    expect(setCookie).to.deep.equal([])
    const token = { 'x-session': headers.get('x-session') ?? '' }
    expect((await client.get(`${site.url}/`, token)).text).to.equal('ann')
    expect((await client.get(`${site.url}/`)).text).to.equal('anonymous')
  })

  it('ContextStore: the application’s own class around the store, with an object for each request', async () => {
    const store = await makeStore()
    const calls: string[] = []
    class TenantStore {
      readonly #ctx: Koa.Context
      constructor(ctx: Koa.Context) {
        this.#ctx = ctx
      }
      #id(key: string): string {
        return `${this.#ctx.get('x-tenant')}:${key}`
      }
      async get(key: string, maxAge: number, options: object): Promise<unknown> {
        calls.push('get')
        return store.get(this.#id(key), maxAge, options)
      }
      async set(key: string, session: object, maxAge: number, options: object): Promise<void> {
        calls.push('set')
        await store.set(this.#id(key), session, maxAge, options)
      }
      async destroy(key: string, options: object): Promise<void> {
        calls.push('destroy')
        await store.destroy(this.#id(key), options)
      }
    }
    const site = await serve({ ContextStore: TenantStore })
    const one = { 'x-tenant': 'one' }
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`, one)
    expect((await onlyRow()).id).to.equal(storedId(`one:${browser.cookies.get('koa.sess')}`))
    expect((await browser.copy().get(`${site.url}/`, { 'x-tenant': 'two' })).text).to.equal('anonymous')
    expect((await browser.get(`${site.url}/`, one)).text).to.equal('ann')
    const copy = browser.copy()
    await browser.get(`${site.url}/sign-out`, one)
    expect((await copy.get(`${site.url}/`, one)).text).to.equal('anonymous')
    expect(calls).to.deep.equal(['set', 'get', 'get', 'get', 'destroy', 'get'])
  })

  it('treats a visitor as anonymous once the session has expired by the database server’s clock', async () => {
    const site = await serve({ store: await makeStore() })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    await sql(fixture.url, `update session set expiry = now()`)
    // A change in psql takes effect as soon as its notification arrives.
    await until(async () => (await browser.copy().get(`${site.url}/`)).text === 'anonymous')
  })

  for (const way of ['changed', 'replaced', 'saved explicitly'])
    it(`does not restore a session that was destroyed while a request used it: ${way}`, async () => {
      const store = await makeStore()
      let arrive = () => {}
      let open = () => {}
      const arrived = new Promise<void>((resolve) => {
        arrive = resolve
      })
      const opened = new Promise<void>((resolve) => {
        open = resolve
      })
      const site = await serve(
        { store },
        {
          '/slow': async (ctx, session) => {
            arrive()
            await opened
            if (way === 'replaced') ctx.session = { name: session.name, late: true }
            else session.late = true
            if (way === 'saved explicitly') await session.save()
          },
        },
      )
      const elsewhere = await serve({ store: await makeStore() })
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const slow = browser.get(`${site.url}/slow`)
      await arrived
      await browser.copy().get(`${elsewhere.url}/sign-out`)
      open()
      expect((await slow).status).to.equal(200)
      // The other store drops the session as soon as the notification arrives.
      for (const { url } of [site, elsewhere])
        await until(async () => (await browser.copy().get(`${url}/`)).text === 'anonymous')
      expect((await onlyRow()).session).to.equal(null)
    })

  it('responds with errors, and signs no user out, when the database cannot be reached', async () => {
    const good = await serve({ store: await makeStore() })
    const browser = new Browser()
    await browser.get(`${good.url}/sign-in?name=ann`)
    const store = closeAfterTest(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' }))
    const bad = await serve({ store })
    for (const path of ['/', '/visit', '/sign-out']) {
      const response = await browser.get(`${bad.url}${path}`)
      expect(response.status).to.equal(500)
      expect(response.setCookie).to.deep.equal([])
    }
    const stranger = await new Browser().get(`${bad.url}/sign-in?name=bob`)
    expect(stranger.status).to.equal(500)
    expect(stranger.setCookie).to.deep.equal([])
    for (const error of bad.errors) expect(error).to.be.instanceOf(SetupError)
    expect((await browser.get(`${good.url}/`)).text).to.equal('ann')
  })

  const circle: Record<string, unknown> = {}
  circle.self = circle
  for (const [what, value] of [
    ['a BigInt', 10n],
    ['a circle', circle],
    ['two megabytes', 'x'.repeat(2 ** 21)],
  ] as const)
    it(`refuses ${what} in a session, and keeps the stored one`, async () => {
      const site = await serve(
        { store: await makeStore() },
        {
          '/break': (_, session) => {
            Object.assign(session, { name: 'bob', value })
          },
          // Skips koa-session's own check.
          '/force': (_, session) => {
            Object.assign(session, { name: 'bob', value })
            return session.save()
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      for (const path of ['/break', '/force']) {
        const response = await browser.get(`${site.url}${path}`)
        expect(response.status).to.equal(500)
        expect(response.setCookie).to.deep.equal([])
        expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      }
    })

  it('treats any unsigned cookie as anonymous, and never uses it as a session id', async () => {
    const site = await serve({ store: await makeStore(), signed: false })
    const strange = [`'; drop table session --`, '\\', '$1', '%00', '__proto__', '😀', 'x'.repeat(10_000)]
    for (const [n, id] of strange.entries()) {
      const sent = Buffer.from(id).toString('latin1')
      const browser = new Browser([['koa.sess', sent]])
      expect((await browser.get(`${site.url}/`)).text, id).to.equal('anonymous')
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect(browser.cookies.get('koa.sess')).to.match(/^[\w-]{36}$/)
      expect(await rows()).to.have.length(n + 1)
    }
    expect(site.errors).to.deep.equal([])
  })
})
