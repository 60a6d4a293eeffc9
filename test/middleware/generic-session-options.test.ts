// The options of koa-generic-session 2.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { Fixture, storedId } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { type Options, type Routes, serveGenericSession, sessionOf } from './sites/generic-session.js'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

describe('koa-generic-session 2: options', () => {
  const fixture = new Fixture()
  const { makeStore, closeAfterTest, rows, onlyRow } = fixture
  const serve = (...[store, options, routes]: [PgStore, Options?, Routes?]) =>
    serveGenericSession(fixture, store, options, routes)

  it('defer: loads a session only when a request uses it', async () => {
    const pool = new pg.Pool({ connectionString: fixture.url })
    fixture.cleanups.push(() => pool.end())
    let queries = 0
    const store = closeAfterTest(
      new PgStore((text, values) => {
        queries++
        return pool.query(text, values)
      }),
    )
    const site = await serve(store, { defer: true })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    queries = 0
    expect((await browser.get(`${site.url}/idle`)).text).to.equal('done')
    expect(queries).to.equal(0)
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    expect(queries).to.equal(1)
  })

  it('defer: signs in, counts, replaces and signs out', async () => {
    const site = await serve(
      await makeStore(),
      { defer: true },
      {
        '/replace': (ctx) => {
          ctx.session = { name: 'bob' }
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('2')
    await browser.get(`${site.url}/replace`)
    expect((await browser.get(`${site.url}/`)).text).to.equal('bob')
    expect((await onlyRow()).session).to.deep.equal({ name: 'bob' })
    const copy = browser.copy()
    await browser.get(`${site.url}/sign-out`)
    expect((await copy.get(`${site.url}/`)).text).to.equal('anonymous')
    expect((await onlyRow()).session).to.equal(null)
  })

  it('rolling: saves an unchanged session, with its full ttl, and renews the cookie', async () => {
    const still = await serve(await makeStore(), { rolling: false })
    const rolling = await serve(await makeStore(), { rolling: true })
    const browser = new Browser()
    await browser.get(`${still.url}/sign-in?name=ann`)
    await fixture.shortenTtls()
    await browser.get(`${still.url}/`)
    expect((await onlyRow()).ttlSeconds).to.be.within(1, 100)
    const { setCookie } = await browser.get(`${rolling.url}/`)
    expect(setCookie[0]).to.match(/^koa\.sid=.+expires=/)
    expect((await onlyRow()).ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
  })

  it('allowEmpty: creates a session for a visitor who stores nothing', async () => {
    const site = await serve(await makeStore(), { allowEmpty: true })
    const browser = new Browser()
    await browser.get(`${site.url}/`)
    expect((await onlyRow()).id).to.equal(storedId(`koa:sess:${browser.cookies.get('koa.sid')}`))
  })

  it('prefix: keeps the sessions of two applications in one table apart, and may be empty', async () => {
    const store = await makeStore()
    const one = await serve(store, { prefix: 'one:' })
    const two = await serve(store, { prefix: '' })
    const browser = new Browser()
    await browser.get(`${one.url}/sign-in?name=ann`)
    const sid = browser.cookies.get('koa.sid')
    expect((await onlyRow()).id).to.equal(storedId(`one:${sid}`))
    expect((await browser.copy().get(`${two.url}/`)).text).to.equal('anonymous')
    const other = new Browser()
    await other.get(`${two.url}/sign-in?name=bob`)
    expect((await rows())[1]?.id).to.equal(storedId(other.cookies.get('koa.sid')))
    expect((await other.get(`${two.url}/`)).text).to.equal('bob')
    expect((await browser.get(`${one.url}/`)).text).to.equal('ann')
  })

  it('ttl: a number of milliseconds, which overrides the cookie', async () => {
    const site = await serve(await makeStore(), { ttl: hour, cookie: { maxAge: 2 * day } })
    await new Browser().get(`${site.url}/sign-in?name=ann`)
    expect((await onlyRow()).ttlSeconds).to.be.within(3540, 3600)
  })

  it('ttl: a function of the session; where it returns undefined, the cookie decides', async () => {
    const site = await serve(await makeStore(), {
      ttl: ({ name }) => (name === 'ann' ? 2 * hour : undefined),
      cookie: { maxAge: 3 * hour },
    })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect((await onlyRow()).ttlSeconds).to.be.within(7140, 7200)
    await browser.get(`${site.url}/sign-in?name=bob`)
    expect((await onlyRow()).ttlSeconds).to.be.within(10_740, 10_800)
  })

  for (const [kind, genSid] of Object.entries({
    synchronous: () => `own-${Math.random()}`,
    asynchronous: async () => `own-${Math.random()}`,
  }))
    it(`genSid: custom ids, ${kind}`, async () => {
      const site = await serve(await makeStore(), { genSid })
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect(browser.cookies.get('koa.sid')).to.match(/^own-0\.\d+$/)
      expect((await onlyRow()).id).to.equal(storedId(`koa:sess:${browser.cookies.get('koa.sid')}`))
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })

  it('sessionIdStore: ids in a header instead of a cookie', async () => {
    const site = await serve(await makeStore(), {
      sessionIdStore: {
        get() {
          return this.get('x-session')
        },
        set(sid) {
          this.set('x-session', sid)
        },
        reset() {
          this.set('x-session', 'none')
        },
      },
    })
    const client = new Browser()
    const signedIn = await client.get(`${site.url}/sign-in?name=ann`)
    expect(signedIn.setCookie).to.deep.equal([])
    const token = { 'x-session': signedIn.headers.get('x-session') ?? '' }
    expect((await onlyRow()).id).to.equal(storedId(`koa:sess:${token['x-session']}`))
    expect((await client.get(`${site.url}/`, token)).text).to.equal('ann')
    expect((await client.get(`${site.url}/`)).text).to.equal('anonymous')
    expect((await client.get(`${site.url}/sign-out`, token)).headers.get('x-session')).to.equal('none')
    expect((await client.get(`${site.url}/`, token)).text).to.equal('anonymous')
  })

  it('cookie.maxAge null: the cookie lasts until the browser closes, the session for the ttl of the store', async () => {
    const site = await serve(await makeStore({ ttl: 5 * hour }), { cookie: { maxAge: null } })
    const browser = new Browser()
    const { setCookie } = await browser.get(`${site.url}/sign-in?name=ann`)
    expect(setCookie[0]).not.to.include('expires')
    expect((await onlyRow()).ttlSeconds).to.be.within(17_940, 18_000)
    expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
  })

  it('cookie.maxAge 0: the session expires at once', async () => {
    const site = await serve(await makeStore(), { cookie: { maxAge: 0 } })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect((await onlyRow()).ttlSeconds).to.be.at.most(0)
    expect((await browser.get(`${site.url}/`)).text).to.equal('anonymous')
  })

  it('cookie.expires: the session expires then, even when it is saved again', async () => {
    const expires = new Date(Date.now() + 7 * day)
    const site = await serve(await makeStore(), { cookie: { expires } })
    const browser = new Browser()
    await browser.get(`${site.url}/visit`)
    await fixture.shortenTtls()
    expect((await browser.get(`${site.url}/visit`)).text).to.equal('2')
    expect((await onlyRow()).ttlSeconds).to.be.within((7 * day) / 1000 - 60, (7 * day) / 1000)
    expect((await onlyRow()).session?.cookie?.expires).to.equal(expires.toISOString())
  })

  it('cookie.expires in the past: the session expires at once', async () => {
    const site = await serve(await makeStore(), { cookie: { expires: new Date(0) } })
    await new Browser().get(`${site.url}/sign-in?name=ann`)
    expect((await onlyRow()).ttlSeconds).to.be.at.most(0)
  })

  it('the cookie of one session: it can last longer than the others', async () => {
    const site = await serve(
      await makeStore(),
      {},
      {
        '/remember': async (ctx) => {
          const { cookie } = await sessionOf(ctx)
          if (cookie) cookie.maxAge = 30 * day
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    await browser.get(`${site.url}/remember`)
    expect((await onlyRow()).ttlSeconds).to.be.within((30 * day) / 1000 - 60, (30 * day) / 1000)
    await fixture.shortenTtls()
    await browser.get(`${site.url}/visit`)
    expect((await onlyRow()).ttlSeconds).to.be.within((30 * day) / 1000 - 60, (30 * day) / 1000)
  })

  it('valid and beforeSave: receive the session as it is stored', async () => {
    const saved: unknown[] = []
    const site = await serve(await makeStore(), {
      valid: (_, session) => Reflect.get(session, 'name') !== 'banned',
      beforeSave: (_, session) => {
        saved.push(Reflect.get(session, 'name'))
        Reflect.set(session, 'stamped', true)
      },
    })
    const browser = new Browser()
    await browser.get(`${site.url}/sign-in?name=ann`)
    expect((await onlyRow()).session).to.include({ name: 'ann', stamped: true })
    await browser.get(`${site.url}/sign-in?name=banned`)
    expect((await browser.get(`${site.url}/`)).text).to.equal('anonymous')
    expect(saved).to.deep.equal(['ann', 'banned'])
  })
})
