import { hash } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import { DatabaseError, PgStore, SessionTooLargeError, SetupError } from '../../lib/index.js'
import { Fixture, type Kept, type Row } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { attributes, type Options, type Routes, serveGenericSession } from './sites/generic-session.js'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

describe('koa-generic-session 2 on Koa 3', () => {
  const fixture = new Fixture()
  const { makeStore, closing, rows, onlyRow } = fixture
  const serve = (...[store, options, routes]: [PgStore, Options?, Routes?]) =>
    serveGenericSession(fixture, store, options, routes)

  function storedId(sid: string | undefined, prefix = 'koa:sess:'): string {
    return `sha256:${hash('sha256', `${prefix}${sid}`, 'base64url')}`
  }

  /** Lets every session expire in 100 seconds. */
  async function hurry(): Promise<void> {
    await sql(fixture.url, `update session set expiry = now() + interval '100 s'`)
  }

  describe('signing in and out', () => {
    it('keeps each person apart, from request to request and over a restart of the application', async () => {
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

    it('stores the session for as long as its cookie lives, a day, under the digest of prefix and id', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const row = await onlyRow()
      expect(row.id).to.equal(storedId(browser.cookies.get('koa.sid')))
      expect(row.session).to.deep.include({ name: 'ann' })
      expect(row.left).to.be.within(day / 1000 - 60, day / 1000)
    })

    it('signs a person out: the cookie goes, and who kept a copy of it finds nobody', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const copy = browser.copy()
      const { setCookie } = await browser.get(`${site.url}/sign-out`)
      expect(setCookie[0]).to.match(/^koa\.sid=; .*expires=Thu, 01 Jan 1970/)
      expect(browser.cookies.has('koa.sid')).to.equal(false)
      expect((await browser.get(`${site.url}/`)).text).to.equal('nobody')
      expect((await copy.get(`${site.url}/`)).text).to.equal('nobody')
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

    it('writes nothing and sets no cookie for a visitor who stores nothing, or signs out as nobody', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      expect((await browser.get(`${site.url}/`)).setCookie).to.deep.equal([])
      expect((await browser.get(`${site.url}/sign-out`)).setCookie).to.deep.equal([])
      expect(await rows()).to.deep.equal([])
    })

    it('does not write a session again that a request left as it was', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const before = await onlyRow()
      expect((await browser.get(`${site.url}/`)).setCookie).to.deep.equal([])
      expect((await onlyRow()).version).to.equal(before.version)
    })

    it('finds nobody once the session has expired, and starts over under another id', async () => {
      const site = await serve(await makeStore())
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const first = browser.cookies.get('koa.sid')
      await sql(fixture.url, `update session set expiry = now()`)
      // A change made past the store is known as soon as its notification is there.
      await until(async () => (await browser.copy().get(`${site.url}/`)).text === 'nobody')
      expect((await browser.get(`${site.url}/visit`)).text).to.equal('1')
      expect((await browser.get(`${site.url}/`)).text).to.equal('nobody')
      expect(browser.cookies.get('koa.sid')).to.be.a('string').and.not.equal(first)
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
      const { session } = await onlyRow()
      expect(session?.name).to.equal('ann')
      expect(session?.visits).to.be.within(1, 10)
    })

    it('gives two first requests at once of one browser a session each', async () => {
      const site = await serve(closing(new PgStore(fixture.url)))
      const browsers = [new Browser(), new Browser()]
      await Promise.all(browsers.map((browser, n) => browser.get(`${site.url}/sign-in?name=${n}`)))
      for (const [n, browser] of browsers.entries())
        expect((await browser.get(`${site.url}/`)).text).to.equal(String(n))
    })
  })

  describe('its options', () => {
    it('defer: asks for a session only when a request uses it', async () => {
      const pool = new pg.Pool({ connectionString: fixture.url })
      fixture.ends.push(() => pool.end())
      let asked = 0
      const store = closing(
        new PgStore((text, values) => {
          asked++
          return pool.query(text, values)
        }),
      )
      const site = await serve(store, { defer: true })
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      asked = 0
      expect((await browser.get(`${site.url}/idle`)).text).to.equal('done')
      expect(asked).to.equal(0)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      expect(asked).to.equal(1)
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
      expect((await copy.get(`${site.url}/`)).text).to.equal('nobody')
      expect((await onlyRow()).session).to.equal(null)
    })

    it('rolling: saves an unchanged session anew, for its whole time, and renews the cookie', async () => {
      const still = await serve(await makeStore(), { rolling: false })
      const rolling = await serve(await makeStore(), { rolling: true })
      const browser = new Browser()
      await browser.get(`${still.url}/sign-in?name=ann`)
      await hurry()
      await browser.get(`${still.url}/`)
      expect((await onlyRow()).left).to.be.within(1, 100)
      const { setCookie } = await browser.get(`${rolling.url}/`)
      expect(setCookie[0]).to.match(/^koa\.sid=.+expires=/)
      expect((await onlyRow()).left).to.be.within(day / 1000 - 60, day / 1000)
    })

    it('allowEmpty: keeps a session for a visitor who stores nothing', async () => {
      const site = await serve(await makeStore(), { allowEmpty: true })
      const browser = new Browser()
      await browser.get(`${site.url}/`)
      expect((await onlyRow()).id).to.equal(storedId(browser.cookies.get('koa.sid')))
    })

    it('prefix: keeps the sessions of two applications apart in one table, and may be empty', async () => {
      const store = await makeStore()
      const one = await serve(store, { prefix: 'one:' })
      const two = await serve(store, { prefix: '' })
      const browser = new Browser()
      await browser.get(`${one.url}/sign-in?name=ann`)
      const sid = browser.cookies.get('koa.sid')
      expect((await onlyRow()).id).to.equal(storedId(sid, 'one:'))
      expect((await browser.copy().get(`${two.url}/`)).text).to.equal('nobody')
      const other = new Browser()
      await other.get(`${two.url}/sign-in?name=bob`)
      expect((await rows())[1]?.id).to.equal(storedId(other.cookies.get('koa.sid'), ''))
      expect((await other.get(`${two.url}/`)).text).to.equal('bob')
      expect((await browser.get(`${one.url}/`)).text).to.equal('ann')
    })

    it('ttl: a number of milliseconds, whatever the cookie says', async () => {
      const site = await serve(await makeStore(), { ttl: hour, cookie: { maxAge: 2 * day } })
      await new Browser().get(`${site.url}/sign-in?name=ann`)
      expect((await onlyRow()).left).to.be.within(3540, 3600)
    })

    it('ttl: a function of the session; where it answers none, the cookie decides', async () => {
      const site = await serve(await makeStore(), {
        ttl: ({ name }) => (name === 'ann' ? 2 * hour : undefined),
        cookie: { maxAge: 3 * hour },
      })
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await onlyRow()).left).to.be.within(7140, 7200)
      await browser.get(`${site.url}/sign-in?name=bob`)
      expect((await onlyRow()).left).to.be.within(10_740, 10_800)
    })

    for (const [kind, genSid] of Object.entries({
      synchronous: () => `own-${Math.random()}`,
      asynchronous: async () => `own-${Math.random()}`,
    }))
      it(`genSid: ids of one's own, ${kind}`, async () => {
        const site = await serve(await makeStore(), { genSid })
        const browser = new Browser()
        await browser.get(`${site.url}/sign-in?name=ann`)
        expect(browser.cookies.get('koa.sid')).to.match(/^own-0\.\d+$/)
        expect((await onlyRow()).id).to.equal(storedId(browser.cookies.get('koa.sid')))
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
      expect((await onlyRow()).id).to.equal(storedId(token['x-session']))
      expect((await client.get(`${site.url}/`, token)).text).to.equal('ann')
      expect((await client.get(`${site.url}/`)).text).to.equal('nobody')
      expect((await client.get(`${site.url}/sign-out`, token)).headers.get('x-session')).to.equal('none')
      expect((await client.get(`${site.url}/`, token)).text).to.equal('nobody')
    })

    it('cookie.maxAge null: a cookie for as long as the browser runs, a session for the ttl of the store', async () => {
      const site = await serve(await makeStore({ ttl: 5 * hour }), { cookie: { maxAge: null } })
      const browser = new Browser()
      const { setCookie } = await browser.get(`${site.url}/sign-in?name=ann`)
      expect(setCookie[0]).not.to.include('expires')
      expect((await onlyRow()).left).to.be.within(17_940, 18_000)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })

    it('cookie.maxAge 0: a session that is over at once', async () => {
      const site = await serve(await makeStore(), { cookie: { maxAge: 0 } })
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await onlyRow()).left).to.be.at.most(0)
      expect((await browser.get(`${site.url}/`)).text).to.equal('nobody')
    })

    it('cookie.expires: a session until then, also when it is saved a second time', async () => {
      const expires = new Date(Date.now() + 7 * day)
      const site = await serve(await makeStore(), { cookie: { expires } })
      const browser = new Browser()
      await browser.get(`${site.url}/visit`)
      await hurry()
      expect((await browser.get(`${site.url}/visit`)).text).to.equal('2')
      expect((await onlyRow()).left).to.be.within((7 * day) / 1000 - 60, (7 * day) / 1000)
      expect((await onlyRow()).session?.cookie?.expires).to.equal(expires.toISOString())
    })

    it('cookie.expires in the past: a session that is over at once', async () => {
      const site = await serve(await makeStore(), { cookie: { expires: new Date(0) } })
      await new Browser().get(`${site.url}/sign-in?name=ann`)
      expect((await onlyRow()).left).to.be.at.most(0)
    })

    it('a cookie of one session alone: a person who is to be remembered longer', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/remember': async (ctx) => {
            const { cookie } = await attributes(ctx)
            if (cookie) cookie.maxAge = 30 * day
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      await browser.get(`${site.url}/remember`)
      expect((await onlyRow()).left).to.be.within((30 * day) / 1000 - 60, (30 * day) / 1000)
      await hurry()
      await browser.get(`${site.url}/visit`)
      expect((await onlyRow()).left).to.be.within((30 * day) / 1000 - 60, (30 * day) / 1000)
    })

    it('valid and beforeSave: what they are given is the session as it is stored', async () => {
      const saved: unknown[] = []
      const site = await serve(await makeStore(), {
        valid: (_, kept) => Reflect.get(kept, 'name') !== 'banned',
        beforeSave: (_, kept) => {
          saved.push(Reflect.get(kept, 'name'))
          Reflect.set(kept, 'stamped', true)
        },
      })
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await onlyRow()).session).to.include({ name: 'ann', stamped: true })
      await browser.get(`${site.url}/sign-in?name=banned`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('nobody')
      expect(saved).to.deep.equal(['ann', 'banned'])
    })
  })

  describe('what a request may ask of it', () => {
    for (const defer of [false, true]) {
      it(`regenerateSession, with defer ${defer}: goes on under another id, and the old one is dead`, async () => {
        const site = await serve(
          await makeStore(),
          { defer },
          {
            '/regenerate': async (ctx) => {
              const { name } = await attributes(ctx)
              await ctx.regenerateSession()
              // The middleware takes a session that holds what the old one held for unchanged, and doesn't save it.
              Object.assign(await attributes(ctx), { name, regenerated: true })
            },
          },
        )
        const browser = new Browser()
        await browser.get(`${site.url}/sign-in?name=ann`)
        const old = browser.copy()
        await browser.get(`${site.url}/regenerate`)
        expect(browser.cookies.get('koa.sid')).not.to.equal(old.cookies.get('koa.sid'))
        expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
        expect((await old.copy().get(`${site.url}/`)).text).to.equal('nobody')
        const all = await rows()
        expect(all.map(({ id }) => id)).to.deep.equal([
          storedId(old.cookies.get('koa.sid')),
          storedId(browser.cookies.get('koa.sid')),
        ])
        expect(all[0]?.session).to.equal(null)
        expect(all[1]?.session).to.deep.include({ name: 'ann' })
      })
    }

    it('saveSession: the session is in the table before the request goes on', async () => {
      const found: Row[][] = []
      const site = await serve(
        await makeStore(),
        {},
        {
          '/save': async (ctx) => {
            const kept = await attributes(ctx)
            kept.visits = (kept.visits ?? 0) + 1
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

    it('saveSession with defer, where the middleware saves a promise: refused, and the session stays as it was', async () => {
      const site = await serve(
        await makeStore(),
        { defer: true },
        {
          '/save': (ctx) => ctx.saveSession(),
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const answer = await browser.get(`${site.url}/save`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      expect(answer.status).to.equal(500)
      expect(answer.text).to.match(/session must be an object; received a promise/)
    })

    it('sessionSave = false: nothing of the request is stored, and nobody else sees it', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/pretend': async (ctx) => {
            Object.assign(await attributes(ctx), { name: 'bob' })
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

    it('sessionSave = true: an unchanged session is stored for its whole time', async () => {
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
      await hurry()
      await browser.get(`${site.url}/force`)
      expect((await onlyRow()).left).to.be.within(day / 1000 - 60, day / 1000)
    })

    it('an error after a change: the change is stored nevertheless', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/fail': async (ctx) => {
            Object.assign(await attributes(ctx), { visits: 41 })
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

  describe('when the store fails', () => {
    it('passes the connect event of the store on, once the table is there', async () => {
      const connected: unknown[] = []
      const site = await serve(
        closing(new PgStore(fixture.url)),
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

    it('answers errors during an outage, signs nobody out, and goes on when it is over', async () => {
      const server = await ownServer()
      fixture.ends.push(() => server.stop())
      fixture.url = server.url
      const store = await makeStore()
      const handled: [string, Error][] = []
      const disconnects: string[] = []
      // As the middleware itself listens, whatever the store's types say.
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
        const answer = await browser.get(`${site.url}${path}`)
        expect(answer.status).to.equal(500)
        expect(answer.setCookie).to.deep.equal([])
      }
      expect(handled.map(([type]) => type)).to.deep.equal(['get', 'get', 'get', 'get'])
      const stranger = new Browser()
      expect((await stranger.get(`${site.url}/`)).text).to.equal('nobody')
      const refused = await stranger.get(`${site.url}/sign-in?name=bob`)
      expect(refused.status).to.equal(500)
      expect(refused.setCookie).to.deep.equal([])
      expect(handled[4]?.[0]).to.equal('set')
      for (const [, error] of handled) expect(error).to.be.instanceOf(DatabaseError)

      await server.start()
      expect([...browser.cookies]).to.deep.equal(cookies)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      await stranger.get(`${site.url}/sign-in?name=bob`)
      expect((await stranger.get(`${site.url}/`)).text).to.equal('bob')
      expect(disconnects).to.deep.equal([])
    })

    /** A person who is signed in, and a site whose store has lost the database's socket. */
    async function withoutSocket(broken: PgStore) {
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

    it('signs nobody out when the unix socket was never there (ENOENT)', async () => {
      const broken = closing(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' }))
      const { good, bad, handled, browser } = await withoutSocket(broken)
      const answer = await browser.get(`${bad.url}/`)
      expect(answer.status).to.equal(500)
      expect(answer.setCookie).to.deep.equal([])
      expect(handled).to.have.length(1)
      expect(handled[0]?.[0]).to.equal('get')
      expect(handled[0]?.[1]).to.be.instanceOf(SetupError)
      expect(handled[0]?.[1].cause).to.include({ code: 'ENOENT' })
      expect((await browser.get(`${good.url}/`)).text).to.equal('ann')
    })

    it('signs nobody out when the unix socket goes away (ENOENT)', async () => {
      const { hostname, port, username, password, pathname } = new URL(fixture.url)
      const pool = new pg.Pool({
        host: hostname,
        port: Number(port),
        user: username,
        password,
        database: pathname.slice(1),
        // Each use takes a connection of its own.
        maxUses: 1,
      })
      fixture.ends.push(() => pool.end())
      const broken = closing(new PgStore(pool, { cache: false }))
      await broken.setup()
      const { good, bad, handled, browser } = await withoutSocket(broken)
      expect((await browser.get(`${bad.url}/`)).text).to.equal('ann')
      pool.options.host = '/nowhere'
      const answer = await browser.get(`${bad.url}/`)
      expect(answer.status).to.equal(500)
      expect(answer.setCookie).to.deep.equal([])
      expect(handled).to.have.length(1)
      expect(handled[0]?.[0]).to.equal('get')
      expect(handled[0]?.[1]).to.be.instanceOf(DatabaseError)
      expect(handled[0]?.[1].cause).to.include({ code: 'ENOENT' })
      expect((await browser.get(`${good.url}/`)).text).to.equal('ann')
    })

    it('throws the store’s error, and sets no cookie, without an errorHandler of the application', async () => {
      const good = await serve(await makeStore())
      const bad = await serve(
        closing(new PgStore({ host: '/nowhere', user: 'postgres', database: 'postgres' })),
      )
      const browser = new Browser()
      await browser.get(`${good.url}/sign-in?name=ann`)
      for (const answer of [
        await browser.get(`${bad.url}/`),
        await new Browser().get(`${bad.url}/sign-in?name=bob`),
      ]) {
        expect(answer.status).to.equal(500)
        expect(answer.setCookie).to.deep.equal([])
      }
      expect(bad.errors.map(({ name }) => name)).to.deep.equal([
        'koa-generic-session get error',
        'koa-generic-session set error',
      ])
    })
  })

  describe('what nobody should send or store', () => {
    const circle: Record<string, unknown> = {}
    circle.self = circle
    const unstorable: [string, unknown, RegExp][] = [
      ['a BigInt', { name: 'bob', big: 10n }, /attribute "big" can't be stored as JSON: .*BigInt/],
      ['a circle', { name: 'bob', circle }, /attribute "circle" can't be stored as JSON: .*circular/],
      ['a function', () => 'bob', /session must be an object; received function/],
      ['an array', ['bob'], /session must be an object; received an array/],
      ['a string', 'bob', /session must be an object; received string/],
      ['an object that becomes text', { toJSON: () => 'bob' }, /must become a JSON object/],
      ['two megabytes', { name: 'x'.repeat(2 ** 21) }, /2097163 bytes of JSON; maxBytes allows 1048576/],
    ]
    for (const [what, value, message] of unstorable)
      it(`refuses ${what} for a session, and the stored one stays as it was`, async () => {
        const site = await serve(
          await makeStore(),
          {},
          {
            '/break': (ctx) => {
              ctx.session = value as Kept
              // Otherwise the middleware stumbles over some of them before the store sees them.
              ctx.sessionSave = true
            },
          },
        )
        const browser = new Browser()
        await browser.get(`${site.url}/sign-in?name=ann`)
        const before = await onlyRow()
        const answer = await browser.get(`${site.url}/break`)
        expect(answer.status).to.equal(500)
        expect(answer.text).to.match(message)
        expect(answer.setCookie).to.deep.equal([])
        expect(site.errors[0]).to.be.instanceOf(what === 'two megabytes' ? SessionTooLargeError : TypeError)
        const after = await onlyRow()
        expect([after.session, after.version]).to.deep.equal([before.session, before.version])
        expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      })

    for (const [what, value] of [
      ['a BigInt', 10n],
      ['a circle', circle],
    ])
      it(`refuses ${what} in a session, and the stored one stays as it was`, async () => {
        const site = await serve(
          await makeStore(),
          {},
          {
            '/break': async (ctx) => {
              Object.assign(await attributes(ctx), { name: 'bob', value })
            },
          },
        )
        const browser = new Browser()
        await browser.get(`${site.url}/sign-in?name=ann`)
        expect((await browser.get(`${site.url}/break`)).status).to.equal(500)
        expect(site.errors[0]).to.be.instanceOf(TypeError)
        expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
      })

    it('leaves out functions and undefined among the attributes, as JSON does', async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/odd': async (ctx) => {
            Object.assign(await attributes(ctx), { name: 'bob', f() {}, nothing: undefined })
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/odd`)
      expect((await browser.get(`${site.url}/`)).text).to.equal('bob')
      expect(Object.keys((await onlyRow()).session ?? {})).to.have.members(['cookie', 'name'])
    })

    const strangeIds = [
      `'; drop table session; --`,
      `" or 1=1`,
      '\\',
      '$1',
      '%00',
      '__proto__',
      'constructor',
      'undefined',
      'null',
      '😀',
      'é\u{10ffff}',
      'x'.repeat(10_000),
      '%',
      '../../etc/passwd',
    ]
    for (const hashIds of [true, false]) {
      it(`takes any unsigned cookie for nobody, and never as the id of a session, with hashIds ${hashIds}`, async () => {
        const site = await serve(await makeStore({ hashIds }), { cookie: { signed: false } })
        for (const [n, id] of strangeIds.entries()) {
          // On the wire, a header is bytes.
          const sent = Buffer.from(id).toString('latin1')
          const cookie = `koa.sid=${sent}`
          const answer = await new Browser().get(`${site.url}/`, { cookie })
          expect([answer.status, answer.text], id).to.deep.equal([200, 'nobody'])
          const browser = new Browser([['koa.sid', sent]])
          expect((await browser.get(`${site.url}/sign-in?name=ann`)).status, id).to.equal(200)
          expect(browser.cookies.get('koa.sid')).to.match(/^[\w-]{32}$/)
          expect(await rows()).to.have.length(n + 1)
        }
        expect(site.errors).to.deep.equal([])
      })

      it(`takes any id that comes from elsewhere for nobody's, with hashIds ${hashIds}`, async () => {
        const site = await serve(await makeStore({ hashIds }), {
          prefix: '',
          sessionIdStore: {
            get() {
              return this.query.sid as string | undefined
            },
            set() {},
            reset() {},
          },
        })
        const digest = storedId('x')
        for (const id of [...strangeIds, '\0', 'a\0b', `${'x'.repeat(2_000)}\0`, ' ', '\n', digest]) {
          const sid = encodeURIComponent(id)
          const answer = await new Browser().get(`${site.url}/?sid=${sid}`)
          expect([answer.status, answer.text], id).to.deep.equal([200, 'nobody'])
        }
        expect(await rows()).to.deep.equal([])
        expect(site.errors).to.deep.equal([])
      })
    }

    it('opens nothing for what the table holds, presented as a cookie', async () => {
      const site = await serve(await makeStore(), { prefix: '', cookie: { signed: false } })
      const ann = new Browser()
      await ann.get(`${site.url}/sign-in?name=ann`)
      const { id } = await onlyRow()
      for (const stolen of [id, id.slice('sha256:'.length)]) {
        const thief = new Browser([['koa.sid', stolen]])
        expect((await thief.get(`${site.url}/`)).text).to.equal('nobody')
      }
      expect((await ann.get(`${site.url}/`)).text).to.equal('ann')
    })
  })
})
