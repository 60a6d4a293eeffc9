// What koa-session's README promises, with two instances of an application on one database. The titles quote it. Longer than
// 450 lines since the README is. Left out is what koa-session.test.ts shows: changes and restarts, `maxAge`, `regenerate`,
// `save`, `manuallyCommit`, `rolling`'s rows, `prefix`, `genid`, `externalKey`, `ContextStore`, outages, and destroyed sessions.
import { expect } from 'chai'
import type Koa from 'koa'
import koaSession, { type CreateSessionOptions } from 'koa-session'
import type { PgStore } from '../../lib/index.js'
import { Fixture, type Site } from '../helpers/fixture.js'
import { Browser, type HttpResponse } from '../helpers/http.js'
import { sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { type Route, serveKoaSession } from './sites/koa-session.js'

const day = 86_400_000

/** Returns the attributes of a cookie that a response sets, `undefined` if it doesn't set it. */
function cookieOf(response: HttpResponse, name = 'koa.sess'): string[] | undefined {
  const header = response.setCookie.find((text) => text.startsWith(`${name}=`))
  return header?.split('; ').slice(1)
}

/** Returns in how many ms a cookie expires, by its header. */
function maxAgeOf(cookie: string[] | undefined): number {
  const expires = cookie?.find((part) => part.startsWith('expires='))?.slice('expires='.length) ?? ''
  return Date.parse(expires) - Date.now()
}

describe('koa-session’s README', () => {
  const fixture = new Fixture()
  const { makeStore, rows, onlyRow } = fixture

  /** Serves two instances of an application, each with its own store on the same table. */
  async function serveTwo(
    options: CreateSessionOptions = {},
    routes: Record<string, Route> = {},
    use?: (app: Koa) => void,
  ): Promise<[Site, Site]> {
    const site = async () => {
      const siteOptions = {
        ...options,
        ...(!options.ContextStore && { store: options.store ?? (await makeStore()) }),
      }
      return serveKoaSession(fixture, siteOptions, routes, use)
    }
    return [await site(), await site()]
  }

  async function signIn(
    site: Site,
    browser: Browser,
    headers?: Record<string, string>,
  ): Promise<HttpResponse> {
    return browser.get(`${site.url}/sign-in?name=ann`, headers)
  }

  describe('Example', () => {
    it('counts the views of each visitor, and ignores favicons', async () => {
      const site = async () => {
        const store = await makeStore()
        return fixture.serve(
          (app) => koaSession({ store, secure: false }, app),
          (ctx) => {
            if (ctx.path === '/favicon.ico') return
            const session = ctx.session as unknown as { views?: number }
            const n = session.views || 0
            session.views = n + 1
            ctx.body = `${n + 1} views`
          },
        )
      }
      const [one, two] = [await site(), await site()]
      const browser = new Browser()
      expect((await browser.get(one.url)).text).to.equal('1 views')
      expect((await browser.get(two.url)).text).to.equal('2 views')
      expect((await browser.get(`${one.url}/favicon.ico`)).setCookie).to.deep.equal([])
      expect((await new Browser().get(two.url)).text).to.equal('1 views')
      await until(async () => (await rows()).some(({ session }) => session?.views === 2))
    })

    it('session(app, options) is session(options, app)', async () => {
      const store = await makeStore()
      const site = await fixture.serve(
        (app) => koaSession(app, { store }),
        (ctx) => {
          Object.assign(ctx.session ?? {}, { a: 1 })
          ctx.body = 'done'
        },
      )
      await new Browser().get(site.url)
      expect((await onlyRow()).session).to.include({ a: 1 })
    })
  })

  describe('Options', () => {
    it('key: the name of the cookie, koa.sess unless it says otherwise', async () => {
      const [plain] = await serveTwo()
      expect(cookieOf(await signIn(plain, new Browser()))).not.to.equal(undefined)
      const [one, two] = await serveTwo({ key: 'koa:sess' })
      const browser = new Browser()
      const response = await signIn(one, browser)
      expect(cookieOf(response)).to.equal(undefined)
      expect(cookieOf(response, 'koa:sess')).not.to.equal(undefined)
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
    })

    it('maxAge: the cookie lives for so long; by default the session a day, and the cookie as long as the browser', async () => {
      const [site] = await serveTwo({ maxAge: 5 * day })
      expect(maxAgeOf(cookieOf(await signIn(site, new Browser())))).to.be.within(5 * day - 60_000, 5 * day)
      const [plain] = await serveTwo()
      expect(cookieOf(await signIn(plain, new Browser()))?.join()).not.to.include('expires')
      expect((await rows()).at(-1)?.lifetimeSeconds).to.equal(day / 1000 + 10)
    })

    it('autoCommit false: what is not committed by hand is not stored, and no cookie is set', async () => {
      const [one] = await serveTwo({ autoCommit: false })
      expect((await signIn(one, new Browser())).setCookie).to.deep.equal([])
      expect(await rows()).to.deep.equal([])
    })

    it('overwrite: replaces an earlier cookie of that name in the same response, unless it is false', async () => {
      const routes: Record<string, Route> = {
        '/twice': (ctx, session) => {
          ctx.cookies.set('koa.sess', 'mine', { signed: false })
          session.name = 'ann'
        },
      }
      for (const [overwrite, cookies] of [
        [true, 1],
        [false, 2],
      ] as const) {
        const [site] = await serveTwo({ overwrite }, routes)
        const { setCookie } = await new Browser().get(`${site.url}/twice`)
        expect(setCookie.filter((text) => text.startsWith('koa.sess='))).to.have.length(cookies)
      }
    })

    it('httpOnly: scripts cannot read the cookie, unless it is false', async () => {
      const [hidden] = await serveTwo()
      expect(cookieOf(await signIn(hidden, new Browser()))).to.include('httponly')
      const [open] = await serveTwo({ httpOnly: false })
      expect(cookieOf(await signIn(open, new Browser()))).not.to.include('httponly')
    })

    it('signed: every instance rejects a cookie with a missing or wrong signature', async () => {
      const [one, two] = await serveTwo()
      const browser = new Browser()
      await signIn(one, browser)
      const forged = browser.copy()
      forged.cookies.set('koa.sess.sig', 'x'.repeat(27))
      const unsigned = browser.copy()
      unsigned.cookies.delete('koa.sess.sig')
      for (const { url } of [one, two]) {
        expect((await browser.get(url)).text).to.equal('ann')
        expect((await forged.copy().get(url)).text).to.equal('anonymous')
        expect((await unsigned.copy().get(url)).text).to.equal('anonymous')
      }
      const [free] = await serveTwo({ signed: false })
      expect(cookieOf(await signIn(free, new Browser()), 'koa.sess.sig')).to.equal(undefined)
    })

    it('rolling: every response sets the cookie, with its full maxAge', async () => {
      const [one, two] = await serveTwo({ rolling: true, maxAge: 5 * day })
      const browser = new Browser()
      await signIn(one, browser)
      for (const { url } of [two, one, two]) {
        const response = await browser.get(`${url}/`)
        expect(response.text).to.equal('ann')
        expect(maxAgeOf(cookieOf(response))).to.be.within(5 * day - 60_000, 5 * day)
      }
      const [still] = await serveTwo()
      expect((await browser.get(`${still.url}/`)).setCookie).to.deep.equal([])
    })

    it('renew: a session that is nearly expired is renewed, so that its user stays logged in', async () => {
      const [one, two] = await serveTwo({ renew: true })
      const browser = new Browser()
      await signIn(one, browser)
      const { id } = await onlyRow()
      /** Leaves the session that much of its day, as if it had been saved earlier. */
      const leaveHours = (hours: number) =>
        sql(
          fixture.url,
          `update session set expiry = now() + interval '${hours} hours 10 s',
            session = jsonb_set(session::jsonb, '{_expire}', to_jsonb(${Date.now() + hours * 3_600_000}))`,
        )
      await leaveHours(13)
      expect((await browser.get(`${two.url}/`)).setCookie).to.deep.equal([])
      expect((await onlyRow()).ttlSeconds).to.be.below(14 * 3_600)
      await leaveHours(11)
      // The other instance sees the change when the notification arrives.
      await until(async () => cookieOf(await browser.get(`${two.url}/`)) !== undefined)
      const row = await onlyRow()
      expect(row.id).to.equal(id)
      expect(row.ttlSeconds).to.be.within(day / 1000 - 60, day / 1000 + 10)
      expect((await browser.get(`${one.url}/`)).text).to.equal('ann')
    })

    it('secure: the cookie is for HTTPS alone', async () => {
      const proxied = (app: Koa) => {
        app.proxy = true
      }
      const [one, two] = await serveTwo({ secure: true }, {}, proxied)
      const https = { 'x-forwarded-proto': 'https' }
      const browser = new Browser()
      expect(cookieOf(await signIn(one, browser, https))).to.include('secure')
      expect((await browser.get(`${two.url}/`, https)).text).to.equal('ann')
      const plain = await signIn(one, new Browser())
      expect(plain.status).to.equal(500)
      expect(plain.setCookie).to.deep.equal([])
    })

    it('sameSite and all other options are the cookie’s', async () => {
      const [plain] = await serveTwo()
      expect(cookieOf(await signIn(plain, new Browser()))?.join())
        .to.match(/path=\/(,|$)/)
        .and.not.match(/samesite|domain/)
      const options = { sameSite: 'strict', path: '/shop', domain: 'example.com' }
      const [site] = await serveTwo(options)
      expect(cookieOf(await signIn(site, new Browser()))).to.include.members([
        'samesite=strict',
        'path=/shop',
        'domain=example.com',
      ])
    })

    it('encode and decode are for sessions in cookies: they are not called with a store', async () => {
      const fail = () => {
        throw new Error('not to be called')
      }
      const [one, two] = await serveTwo({ encode: fail, decode: fail })
      const browser = new Browser()
      expect((await signIn(one, browser)).status).to.equal(200)
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
    })
  })

  describe('Hooks', () => {
    it('valid: is called before a session is used; beforeSave: before it is saved', async () => {
      const [one, two] = await serveTwo({
        valid: (_, { name }: { name?: string }) => name !== 'mallory',
        beforeSave: (_, session: Record<string, unknown>) => {
          session.saves = Number(session.saves ?? 0) + 1
        },
      })
      const [ann, mallory] = [new Browser(), new Browser()]
      await signIn(one, ann)
      await mallory.get(`${one.url}/sign-in?name=mallory`)
      expect((await ann.get(`${two.url}/visit`)).text).to.equal('1')
      expect((await rows())[0]?.session).to.include({ name: 'ann', saves: 2 })
      expect((await mallory.get(`${two.url}/`)).text).to.equal('anonymous')
    })
  })

  describe('External Session Stores', () => {
    it('are called with key, maxAge, and what the README lists', async () => {
      const calls: [method: string, ...args: unknown[]][] = []
      const store = await makeStore()
      const recorded = <Method extends 'get' | 'set' | 'destroy'>(method: Method) =>
        (async (...args: never[]) => {
          const options: Record<string, unknown> = args.at(-1) ?? {}
          calls.push([method, typeof args[0], ...args.slice(1, -1), { ...options, ctx: typeof options.ctx }])
          return (store[method] as (...args: never[]) => Promise<unknown>).apply(store, args)
        }) as unknown as PgStore[Method]
      const [one, two] = await serveTwo({
        store: { get: recorded('get'), set: recorded('set'), destroy: recorded('destroy') },
        maxAge: day,
      })
      const browser = new Browser()
      await signIn(one, browser)
      await browser.get(`${two.url}/`)
      await browser.get(`${two.url}/sign-out`)
      const [set, ...others] = calls
      const [method, key, session, maxAge, options] = set ?? []
      expect([method, key, maxAge, options]).to.deep.equal([
        'set',
        'string',
        day + 10_000,
        { changed: true, ctx: 'object', rolling: false },
      ])
      expect(session).to.deep.include({ name: 'ann', _maxAge: day })
      const get = ['get', 'string', day, { ctx: 'object', rolling: false }]
      expect(others).to.deep.equal([get, get, ['destroy', 'string', { ctx: 'object' }]])
    })

    it('store sessions under a UUID, which a genid replaces along with the prefix', async () => {
      const [one, two] = await serveTwo()
      const browser = new Browser()
      await signIn(one, browser)
      expect(browser.cookies.get('koa.sess')).to.match(
        /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/,
      )
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
      let ids = 0
      const [own] = await serveTwo({ genid: () => `own-${++ids}`, prefix: 'shop:' })
      const other = new Browser()
      await signIn(own, other)
      expect(other.cookies.get('koa.sess')).to.match(/^own-\d+$/)
    })

    it('are created for each request by ContextStore, with its context', async () => {
      const store = await makeStore()
      const paths: string[] = []
      class RequestStore {
        constructor(ctx: Koa.Context) {
          paths.push(ctx.path)
        }
        get(...args: Parameters<PgStore['get']>) {
          return store.get(...args)
        }
        set(...args: Parameters<PgStore['set']>) {
          return store.set(...args)
        }
        destroy(...args: Parameters<PgStore['destroy']>) {
          return store.destroy(...args)
        }
      }
      const [one, two] = await serveTwo({ ContextStore: RequestStore })
      const browser = new Browser()
      await signIn(one, browser)
      expect((await browser.get(`${two.url}/visit`)).text).to.equal('1')
      const copy = browser.copy()
      await browser.get(`${two.url}/sign-out`)
      expect((await copy.get(`${one.url}/`)).text).to.equal('anonymous')
      expect(paths).to.deep.equal(['/sign-in', '/visit', '/sign-out', '/'])
    })
  })

  describe('Events', () => {
    /** Serves two instances and records their events. */
    async function serveRecorded(options: CreateSessionOptions = {}) {
      const events: [event: string, key: string, name: unknown][] = []
      const sites = await serveTwo(options, {}, (app) => {
        for (const event of ['missed', 'invalid', 'expired'])
          app.on(`session:${event}`, ({ key, value, ctx }) => {
            events.push([event, key, value?.name ?? value])
            expect(ctx.path).to.equal('/')
          })
      })
      return { sites, events }
    }

    it('session:missed: the store has no such session', async () => {
      const { sites, events } = await serveRecorded()
      const browser = new Browser()
      await signIn(sites[0], browser)
      const copy = browser.copy()
      await browser.get(`${sites[1].url}/sign-out`)
      const key = copy.cookies.get('koa.sess')
      // The first instance sees the sign-out when the notification arrives.
      await until(async () => (await copy.copy().get(`${sites[0].url}/`)).text === 'anonymous')
      await until(() => events.length > 0)
      expect(events[0]).to.deep.equal(['missed', key, undefined])
    })

    it('session:invalid: valid returned false', async () => {
      const { sites, events } = await serveRecorded({ valid: () => false })
      const browser = new Browser()
      await signIn(sites[0], browser)
      expect((await browser.copy().get(`${sites[1].url}/`)).text).to.equal('anonymous')
      await until(() => events.length > 0)
      expect(events).to.deep.equal([['invalid', browser.cookies.get('koa.sess'), 'ann']])
    })

    it('session:expired: it has expired, though the store keeps it for ten more seconds', async () => {
      const { sites, events } = await serveRecorded()
      const browser = new Browser()
      await signIn(sites[0], browser)
      await sql(
        fixture.url,
        `update session set expiry = now() + interval '9 s',
          session = jsonb_set(session::jsonb, '{_expire}', to_jsonb(${Date.now() - 1_000}))`,
      )
      expect((await browser.copy().get(`${sites[1].url}/`)).text).to.equal('anonymous')
      await until(() => events.length > 0)
      expect(events).to.deep.equal([['expired', browser.cookies.get('koa.sess'), 'ann']])
    })
  })

  describe('Custom External Key', () => {
    it('get and set: where the key is, instead of a cookie', async () => {
      const [one, two] = await serveTwo({
        externalKey: {
          get: (ctx) => ctx.get('authorization').replace(/^Bearer /, ''),
          set: (ctx, key) => ctx.set('x-token', key),
        },
      })
      const client = new Browser()
      const token = (await signIn(one, client)).headers.get('x-token')
      const headers = { authorization: `Bearer ${token}` }
      expect((await client.get(`${two.url}/visit`, headers)).text).to.equal('1')
      expect((await client.get(`${two.url}/`, headers)).text).to.equal('ann')
      expect(client.cookies.size).to.equal(0)
      await client.get(`${two.url}/sign-out`, headers)
      await until(async () => (await client.get(`${one.url}/`, headers)).text === 'anonymous')
    })
  })

  describe('Session', () => {
    it('isNew, maxAge and externalKey describe it', async () => {
      const [one, two] = await serveTwo(
        { maxAge: 5 * day },
        {
          '/what': (_, { isNew, maxAge, externalKey }) => [isNew, maxAge, externalKey],
        },
      )
      const browser = new Browser()
      const [isNew, maxAge, key] = JSON.parse((await browser.get(`${one.url}/what`)).text) as unknown[]
      expect([isNew, maxAge]).to.deep.equal([true, 5 * day])
      expect(key).to.match(/^[\da-f-]{36}$/)
      await signIn(one, browser)
      expect(JSON.parse((await browser.get(`${two.url}/what`)).text)).to.deep.equal([
        false,
        5 * day,
        browser.cookies.get('koa.sess'),
      ])
    })

    it('save: stores it even if it is empty', async () => {
      const [one, two] = await serveTwo(
        {},
        {
          '/save': (_, session) => session.save(),
          '/new': (_, { isNew }) => isNew,
        },
      )
      const browser = new Browser()
      await browser.get(`${one.url}/save`)
      expect(await rows()).to.have.length(1)
      expect((await browser.get(`${two.url}/new`)).text).to.equal('false')
    })

    it('regenerate: the old key is destroyed on the other instance too', async () => {
      const [one, two] = await serveTwo({}, { '/regenerate': (_, session) => session.regenerate() })
      const browser = new Browser()
      await signIn(one, browser)
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
      const old = browser.copy()
      await browser.get(`${one.url}/regenerate`)
      await until(async () => (await old.copy().get(`${two.url}/`)).text === 'anonymous')
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
    })

    it('set to null, it is destroyed, and its cookie is removed', async () => {
      const [one, two] = await serveTwo()
      const browser = new Browser()
      await signIn(one, browser)
      const copy = browser.copy()
      await browser.get(`${two.url}/sign-out`)
      expect(browser.cookies.has('koa.sess')).to.equal(false)
      await until(async () => (await copy.copy().get(`${one.url}/`)).text === 'anonymous')
      expect((await onlyRow()).session).to.equal(null)
    })
  })

  describe('where the store’s expiry decides', () => {
    for (const cache of [undefined, false] as const)
      it(`_expire does not sign a user out whose session was touched (cache: ${cache})`, async () => {
        const openStore = () => makeStore(cache === false ? { cache } : {})
        const store = await openStore()
        const maxAge = 2_000
        const one = await serveKoaSession(fixture, { store, maxAge })
        const two = await serveKoaSession(fixture, { store: await openStore(), maxAge })
        const browser = new Browser()
        await signIn(one, browser)
        const copy = browser.copy()
        await store.touch(copy.cookies.get('koa.sess') ?? '', day)
        const end = Date.now() + maxAge
        await until(() => Date.now() > end)
        for (const { url } of [one, two]) expect((await copy.get(`${url}/`)).text).to.equal('ann')
      })

    it('_expire does not sign a user out by an application’s clock', async () => {
      const [one, two] = await serveTwo()
      const browser = new Browser()
      await signIn(one, browser)
      // As saved by an application whose clock is two days behind.
      const text = `jsonb_set(session::jsonb, '{_expire}', to_jsonb(${Date.now() - day}))`
      await sql(fixture.url, `update session set session = ${text}`)
      await until(async () => (await onlyRow()).session?._expire !== undefined)
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
    })

    it('rolling writes no row for an unchanged session, which does not expire', async () => {
      const store = async () => makeStore({ touch: { interval: 60_000 } })
      const one = await serveKoaSession(fixture, { store: await store(), rolling: true })
      const browser = new Browser()
      await signIn(one, browser)
      await browser.get(`${one.url}/`)
      const row = () => sql(fixture.url, 'select xmin, ctid, version, session::text from session')
      const before = await row()
      for (let n = 0; n < 5; n++) {
        const response = await browser.get(`${one.url}/`)
        expect([response.text, cookieOf(response) !== undefined]).to.deep.equal(['ann', true])
      }
      expect(await row()).to.deep.equal(before)
      expect((await onlyRow()).session).to.deep.equal({ name: 'ann', _maxAge: day })
      await browser.get(`${one.url}/visit`)
      expect(await row()).not.to.deep.equal(before)
    })

    it('rolling keeps a user signed in whose row was not written', async () => {
      // A machine that pauses for as long signs the user out.
      const maxAge = 4_000
      const store = await makeStore({ touch: { interval: 60_000 } })
      const one = await serveKoaSession(fixture, { store, rolling: true, maxAge })
      const browser = new Browser()
      await signIn(one, browser)
      const copy = browser.copy()
      for (const end = Date.now() + 1.5 * maxAge; Date.now() < end; ) {
        expect((await copy.copy().get(`${one.url}/`)).text).to.equal('ann')
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    })
  })
})
