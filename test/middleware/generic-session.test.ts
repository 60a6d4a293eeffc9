// koa-generic-session 2: signing in and out, and what a request can do to its session.
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { Fixture, type Row, storedId } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { type Options, type Routes, serveGenericSession, sessionOf } from './sites/generic-session.js'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

describe('koa-generic-session 2 on Koa 3', () => {
  const fixture = new Fixture()
  const { makeStore, closeAfterTest, rows, onlyRow } = fixture
  const serve = (...[store, options, routes]: [PgStore, Options?, Routes?]) =>
    serveGenericSession(fixture, store, options, routes)

  describe('signing in and out', () => {
    it('keeps the sessions of two users apart across requests and a restart of the application', async () => {
      const site = await serve(await makeStore())
      const ann = new Browser()
      const bob = new Browser()
      await ann.get(`${site.url}/sign-in?name=ann`)
      await bob.get(`${site.url}/sign-in?name=bob`)
      expect((await ann.get(`${site.url}/visit`)).text).to.equal('1')
      expect((await ann.get(`${site.url}/visit`)).text).to.equal('2')
      expect((await bob.get(`${site.url}/visit`)).text).to.equal('1')
      const restarted = await serve(await makeStore())
      expect((await ann.get(`${restarted.url}/`)).text).to.equal('ann')
      expect((await ann.get(`${restarted.url}/visit`)).text).to.equal('3')
      expect((await bob.get(`${restarted.url}/`)).text).to.equal('bob')
      expect(await rows()).to.have.length(2)
    })

    it('stores the session for a day, as long as its cookie lasts, under the digest of prefix and id', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const row = await onlyRow()
      expect(row.id).to.equal(storedId(`koa:sess:${browser.cookies.get('koa.sid')}`))
      expect(row.session).to.deep.include({ name: 'ann' })
      expect(row.ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
    })

    it('signs a user out: removes the cookie, and a copy of it is worth nothing', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const copy = browser.copy()
      const { setCookie } = await browser.get(`${site.url}/sign-out`)
      expect(setCookie[0]).to.match(/^koa\.sid=; .*expires=Thu, 01 Jan 1970/)
      expect(browser.cookies.has('koa.sid')).to.equal(false)
      expect((await browser.get(`${site.url}/`)).text).to.equal('anonymous')
      expect((await copy.get(`${site.url}/`)).text).to.equal('anonymous')
      expect((await onlyRow()).session).to.equal(null)
    })

    it('signs the same browser in again under another id', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const first = browser.cookies.get('koa.sid')
      await browser.get(`${site.url}/sign-out`)
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      expect(browser.cookies.get('koa.sid')).not.to.equal(first)
    })

    it('writes nothing and sets no cookie for a visitor who stores nothing, or signs out without having signed in', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      expect((await browser.get(`${site.url}/`)).setCookie).to.deep.equal([])
      expect((await browser.get(`${site.url}/sign-out`)).setCookie).to.deep.equal([])
      expect(await rows()).to.deep.equal([])
    })

    it('does not write a session that a request left unchanged', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const before = await onlyRow()
      expect((await browser.get(`${site.url}/`)).setCookie).to.deep.equal([])
      expect((await onlyRow()).version).to.equal(before.version)
    })

    it('treats a visitor as anonymous once the session has expired, and starts a new one under another id', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const first = browser.cookies.get('koa.sid')
      await sql(fixture.url, `update session set expiry = now()`)
      // A change in psql takes effect as soon as its notification arrives.
      await until(async () => (await browser.copy().get(`${site.url}/`)).text === 'anonymous')
      expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
      expect((await browser.get(`${site.url}/`)).text).to.equal('anonymous')
      expect(browser.cookies.get('koa.sid')).to.be.a('string').and.not.equal(first)
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
      const { session } = await onlyRow()
      expect(session?.name).to.equal('ann')
      expect(session?.visits).to.be.within(1, 10)
    })

    it('gives two simultaneous first requests a session each', async () => {
      const site = await serve(closeAfterTest(new PgStore(fixture.url)))
      const browsers = [new Browser(), new Browser()]
      await Promise.all(browsers.map((browser, n) => browser.get(`${site.url}/sign-in?name=${n}`)))
      for (const [n, browser] of browsers.entries())
        expect((await browser.get(`${site.url}/`)).text).to.equal(String(n))
    })
  })

  describe('what a request can do', () => {
    for (const defer of [false, true]) {
      it(`regenerateSession, with defer ${defer}: goes on under another id and destroys the old one`, async () => {
        const site = await serve(
          await makeStore(),
          { defer },
          {
            '/regenerate': async (ctx) => {
              const { name } = await sessionOf(ctx)
              await ctx.regenerateSession()
              // The middleware doesn't save a session with the same content as the old one.
              Object.assign(await sessionOf(ctx), { name, regenerated: true })
            },
          },
        )
        const browser = new Browser()
        await browser.get(`${site.url}/sign-in?name=ann`)
        const old = browser.copy()
        await browser.get(`${site.url}/regenerate`)
        expect(browser.cookies.get('koa.sid')).not.to.equal(old.cookies.get('koa.sid'))
        expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
        expect((await old.copy().get(`${site.url}/`)).text).to.equal('anonymous')
        const all = await rows()
        expect(all.map(({ id }) => id)).to.deep.equal([
          storedId(`koa:sess:${old.cookies.get('koa.sid')}`),
          storedId(`koa:sess:${browser.cookies.get('koa.sid')}`),
        ])
        expect(all[0]?.session).to.equal(null)
        expect(all[1]?.session).to.deep.include({ name: 'ann' })
      })
    }

    it('saveSession: stores the session before the request goes on', async () => {
      const found: Row[][] = []
      const site = await serve(
        await makeStore(),
        {},
        {
          '/save': async (ctx) => {
            const session = await sessionOf(ctx)
            session.visits = (session.visits ?? 0) + 1
            await ctx.saveSession()
            found.push(await rows())
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      await browser.get(`${site.url}/save`)
      expect(found[0]).to.have.length(1)
      expect(found[0]?.[0]?.session).to.deep.include({ name: 'ann', visits: 1 })
      const stranger = new Browser()
      await stranger.get(`${site.url}/save`)
      expect(found[1]).to.have.length(2)
      expect((await stranger.get(`${site.url}/visit`)).text).to.equal('2')
    })

    it('saveSession with defer: refuses the promise that the middleware saves, and keeps the stored session', async () => {
      const site = await serve(
        await makeStore(),
        { defer: true },
        {
          '/save': (ctx) => ctx.saveSession(),
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const response = await browser.get(`${site.url}/save`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      expect(response.status).to.equal(500)
      expect(response.text).to.match(/session must be an object; received a promise/)
    })

    it('sessionSave = false: discards the changes of the request', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/pretend': async (ctx) => {
            Object.assign(await sessionOf(ctx), { name: 'bob' })
            ctx.sessionSave = false
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const before = await onlyRow()
      expect((await browser.get(`${site.url}/pretend`)).setCookie).to.deep.equal([])
      expect((await onlyRow()).version).to.equal(before.version)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })

    it('sessionSave = true: saves an unchanged session, with its full ttl', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/force': (ctx) => {
            ctx.sessionSave = true
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      await fixture.shortenTtls()
      await browser.get(`${site.url}/force`)
      expect((await onlyRow()).ttlSeconds).to.be.within(day / 1000 - 60, day / 1000)
    })

    it('stores a change even if the request fails after it', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/fail': async (ctx) => {
            Object.assign(await sessionOf(ctx), { visits: 41 })
            throw new Error('the application failed')
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await browser.get(`${site.url}/fail`)).text).to.equal('the application failed')
      expect((await browser.get(`${site.url}/visit`)).text).to.equal('42')
    })
  })
})
