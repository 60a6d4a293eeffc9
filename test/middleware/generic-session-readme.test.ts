// What koa-generic-session's README promises, with two instances of an application on one database. The titles quote it.
// Left out is what the other generic-session tests show: `prefix`, `genSid`, `defer`, `allowEmpty`, `sessionIdStore`, `valid`
// and `beforeSave`, `cookie.expires`, `saveSession`, the `connect` event, and outages.
import { expect } from 'chai'
import { Fixture, type Site } from '../helpers/fixture.js'
import { Browser, type HttpResponse } from '../helpers/http.js'
import { sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { type Options, type Routes, serveGenericSession, sessionOf } from './sites/generic-session.js'

const day = 86_400_000

/** Returns the attributes of a cookie that a response sets, `undefined` if it doesn't set it. */
function cookieOf(response: HttpResponse, name = 'koa.sid'): string[] | undefined {
  const header = response.setCookie.find((text) => text.startsWith(`${name}=`))
  return header?.split('; ').slice(1)
}

describe('koa-generic-session’s README', () => {
  const fixture = new Fixture()
  const { makeStore, rows, onlyRow } = fixture

  /** Serves two instances of an application, each with its own store on the same table. */
  async function serveTwo(options: Options = {}, routes: Routes = {}): Promise<[Site, Site]> {
    const site = async () => serveGenericSession(fixture, await makeStore(), options, routes)
    return [await site(), await site()]
  }

  function signIn(site: Site, browser: Browser): Promise<HttpResponse> {
    return browser.get(`${site.url}/sign-in?name=ann`)
  }

  it('sets a cookie only when the session is modified, and each time that it is', async () => {
    const [one, two] = await serveTwo()
    const browser = new Browser()
    expect((await browser.get(`${one.url}/`)).setCookie).to.deep.equal([])
    expect(cookieOf(await signIn(one, browser))).not.to.equal(undefined)
    const { version } = await onlyRow()
    expect((await browser.get(`${two.url}/`)).setCookie).to.deep.equal([])
    expect((await onlyRow()).version).to.equal(version)
    expect(cookieOf(await browser.get(`${two.url}/visit`))).not.to.equal(undefined)
    expect((await onlyRow()).version).not.to.equal(version)
  })

  it('rolling sessions reset the cookie for every request that touches the session, unless a request overrides it', async () => {
    const [one, two] = await serveTwo(
      { rolling: true },
      {
        '/not-me': (ctx) => {
          ctx.sessionSave = false
        },
      },
    )
    const browser = new Browser()
    await signIn(one, browser)
    for (const { url } of [two, one]) expect(cookieOf(await browser.get(`${url}/`))).not.to.equal(undefined)
    expect((await browser.get(`${two.url}/not-me`)).setCookie).to.deep.equal([])
  })

  it('Example: gets, removes and regenerates', async () => {
    const get: Routes[string] = (ctx) => {
      const session = ctx.session as { count?: number }
      session.count = (session.count || 0) + 1
      return session.count
    }
    const [one, two] = await serveTwo(
      {},
      {
        '/get': get,
        '/remove': (ctx) => {
          ctx.session = null
          return 0
        },
        '/regenerate': async (ctx) => {
          get(ctx)
          await ctx.regenerateSession()
          return get(ctx)
        },
      },
    )
    const browser = new Browser()
    expect((await browser.get(`${one.url}/get`)).text).to.equal('1')
    expect((await browser.get(`${two.url}/get`)).text).to.equal('2')
    const before = browser.copy()
    // A new, empty session with another id.
    expect((await browser.get(`${two.url}/regenerate`)).text).to.equal('1')
    expect(browser.cookies.get('koa.sid')).not.to.equal(before.cookies.get('koa.sid'))
    expect((await browser.get(`${one.url}/get`)).text).to.equal('2')
    await until(async () => (await before.copy().get(`${one.url}/get`)).text === '1')
    const after = browser.copy()
    expect((await browser.get(`${one.url}/remove`)).text).to.equal('0')
    await until(async () => (await after.copy().get(`${two.url}/get`)).text === '1')
  })

  it('sessionId is the id of the cookie', async () => {
    const [one, two] = await serveTwo({}, { '/id': (ctx) => ctx.sessionId })
    const browser = new Browser()
    await signIn(one, browser)
    expect((await browser.get(`${two.url}/id`)).text).to.equal(browser.cookies.get('koa.sid'))
  })

  it('session.cookie: altering it changes the cookie of this user, on every instance', async () => {
    const [one, two] = await serveTwo(
      {},
      {
        '/remember': async (ctx) => {
          ;(await sessionOf(ctx)).cookie = { maxAge: 30 * day }
        },
      },
    )
    const [ann, bob] = [new Browser(), new Browser()]
    await signIn(one, ann)
    await signIn(one, bob)
    await ann.get(`${one.url}/remember`)
    await ann.get(`${two.url}/visit`)
    await bob.get(`${two.url}/visit`)
    const [annsRow, bobsRow] = await rows()
    expect(annsRow?.ttlSeconds).to.be.within((29 * day) / 1000, (30 * day) / 1000)
    expect(bobsRow?.ttlSeconds).to.be.within(0, day / 1000)
  })

  for (const [save, version] of [
    [true, 'another'],
    [false, 'the same'],
  ] as const)
    it(`sessionSave = ${save} decides, whatever was changed`, async () => {
      const [one, two] = await serveTwo(
        {},
        {
          '/decide': (ctx) => {
            if (!save) Object.assign(ctx.session ?? {}, { name: 'bob' })
            ctx.sessionSave = save
          },
        },
      )
      const browser = new Browser()
      await signIn(one, browser)
      const response = await browser.get(`${two.url}/decide`)
      expect(cookieOf(response) === undefined).to.equal(version === 'the same')
      expect((await browser.get(`${one.url}/`)).text).to.equal('ann')
    })

  describe('Options', () => {
    it('key: the name of the cookie, koa.sid unless it says otherwise', async () => {
      const [one, two] = await serveTwo({ key: 'shop' })
      const browser = new Browser()
      const response = await signIn(one, browser)
      expect([cookieOf(response), cookieOf(response, 'shop') === undefined]).to.deep.equal([undefined, false])
      expect((await browser.get(`${two.url}/`)).text).to.equal('ann')
    })

    it('errorHandler(err, type, ctx): handles what get and set throw', async () => {
      const handled: [message: string, type: string, path: string][] = []
      const broken = async () => Promise.reject(new Error('down'))
      const store = await makeStore()
      const errorHandler = (error: Error, type: string, ctx: { path: string }) => {
        handled.push([error.message, type, ctx.path])
      }
      const fail = { on: () => undefined, get: broken, set: broken, destroy: broken }
      const site = await serveGenericSession(fixture, fail, { errorHandler } as unknown as Options)
      const healthy = await serveGenericSession(fixture, store)
      const browser = new Browser()
      await signIn(healthy, browser)
      await browser.copy().get(`${site.url}/visit`)
      expect(handled).to.deep.equal([
        ['down', 'get', '/visit'],
        ['down', 'set', '/visit'],
      ])
      expect((await browser.get(`${healthy.url}/`)).text).to.equal('ann')
    })

    it('cookie: path /, httpOnly, a day, overwritten and signed, unless it says otherwise', async () => {
      const routes: Routes = {
        '/twice': (ctx) => {
          ctx.cookies.set('koa.sid', 'mine', { signed: false })
          Object.assign(ctx.session ?? {}, { name: 'ann' })
        },
      }
      const [plain] = await serveTwo({}, routes)
      const twice = await new Browser().get(`${plain.url}/twice`)
      expect(twice.setCookie.map((text) => text.split('=')[0])).to.deep.equal(['koa.sid', 'koa.sid.sig'])
      const cookie = cookieOf(twice)
      expect(cookie).to.include.members(['path=/', 'httponly'])
      const expires = Date.parse(cookie?.find((part) => part.startsWith('expires='))?.slice(8) ?? '')
      expect(expires - Date.now()).to.be.within(day - 60_000, day)
      const [other] = await serveTwo({ cookie: { signed: false, path: '/', maxAge: 5 * day } })
      expect(cookieOf(await signIn(other, new Browser()), 'koa.sid.sig')).to.equal(undefined)
    })

    it('cookie.path: elsewhere there is no session', async () => {
      const [one, two] = await serveTwo(
        { cookie: { path: '/shop' } },
        {
          '/shop/sign-in': (ctx) => Object.assign(ctx.session ?? {}, { name: 'ann' }).name,
          '/shop/': (ctx) => ctx.session?.name ?? 'anonymous',
          '/blog/': (ctx) => String(ctx.session),
        },
      )
      const browser = new Browser()
      expect(cookieOf(await browser.get(`${one.url}/shop/sign-in`))).to.include('path=/shop')
      expect((await browser.get(`${two.url}/shop/`)).text).to.equal('ann')
      expect((await browser.get(`${two.url}/blog/`)).text).to.equal('undefined')
    })

    it('cookie.maxAge null and a ttl: the cookie ends with the browser, the session after the ttl', async () => {
      const [one, two] = await serveTwo({ cookie: { maxAge: null }, ttl: day })
      const browser = new Browser()
      expect(cookieOf(await signIn(one, browser))?.join()).not.to.include('expires')
      expect((await onlyRow()).ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
      await sql(fixture.url, 'update session set expiry = now()')
      await until(async () => (await browser.copy().get(`${two.url}/`)).text === 'anonymous')
    })

    it('ttl: a function that expires browser-session cookies from the store after a day', async () => {
      const [one, two] = await serveTwo(
        {
          ttl: (session) => (session.cookie?.maxAge === null ? day : undefined),
          cookie: { maxAge: 5 * day },
        },
        {
          '/public-computer': async (ctx) => {
            const { cookie } = await sessionOf(ctx)
            Object.assign(cookie ?? {}, { maxAge: null })
          },
        },
      )
      const browser = new Browser()
      await signIn(one, browser)
      expect((await onlyRow()).ttlSeconds).to.be.within((5 * day) / 1000 - 60, (5 * day) / 1000)
      await browser.get(`${two.url}/public-computer`)
      expect((await onlyRow()).lifetimeSeconds).to.equal(day / 1000)
      expect((await browser.get(`${one.url}/`)).text).to.equal('ann')
    })
  })

  describe('Hooks', () => {
    it('valid and beforeSave: on every instance', async () => {
      const [one, two] = await serveTwo({
        valid: (_: unknown, session: { name?: string }) => session.name !== 'mallory',
        beforeSave: (_: unknown, session: { saves?: number }) => {
          session.saves = (session.saves ?? 0) + 1
        },
      } as Options)
      const [ann, mallory] = [new Browser(), new Browser()]
      await signIn(one, ann)
      await mallory.get(`${one.url}/sign-in?name=mallory`)
      await ann.get(`${two.url}/visit`)
      expect((await rows())[0]?.session).to.include({ name: 'ann', saves: 2 })
      expect((await mallory.get(`${two.url}/`)).text).to.equal('anonymous')
    })
  })

  describe('Session Store', () => {
    it('is called with get(sid), set(sid, session, ttl in ms) and destroy(sid)', async () => {
      const store = await makeStore()
      const calls: unknown[][] = []
      const recorder = {
        get: (...args: [string]) => {
          calls.push(['get', ...args])
          return store.get(...args)
        },
        set: (...args: [string, object, number]) => {
          calls.push(['set', ...args])
          return store.set(...args)
        },
        destroy: (...args: [string]) => {
          calls.push(['destroy', ...args])
          return store.destroy(...args)
        },
      }
      const site = await serveGenericSession(fixture, recorder)
      const browser = new Browser()
      await signIn(site, browser)
      const sid = `koa:sess:${browser.cookies.get('koa.sid')}`
      await browser.get(`${site.url}/`)
      await browser.get(`${site.url}/sign-out`)
      const [[method, id, session, ttl] = [], ...others] = calls
      expect([method, id, ttl]).to.deep.equal(['set', sid, day])
      expect(session).to.deep.include({ name: 'ann' })
      expect(others).to.deep.equal([
        ['get', sid],
        ['get', sid],
        ['destroy', sid],
      ])
    })
  })
})
