// koa-pg-store import from a real Redis: sessions of koa-redis and connect-redis, and their cookies over HTTP.
import { createHmac, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { RedisStore as ConnectRedis } from 'connect-redis'
import expressSession from 'express-session'
import { Redis } from 'ioredis'
import KoaRedis from 'koa-redis'
import { createClient } from 'redis'
import { Command, run } from '../helpers/command.js'
import { Fixture, storedId } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { serveGenericSession } from '../middleware/sites/generic-session.js'
import { serveKoaSession } from '../middleware/sites/koa-session.js'
import { hasRedis, type RedisServer, startRedis } from '../support/redis.js'

const count = 10_000
const visitors = 300
/** The key of the fixture's applications, and the secret of Express's. */
const key = 'the key of all these applications'
const day = 86_400_000

/** From seconds to a century, also with milliseconds that Redis rounds up. `undefined`: forever. */
const ttls = [undefined, 120_000, 600_001, 3_600_000, day, 30 * day, 36_500 * day]

const generic = (n: number): string => `koa:sess:${`id-${n}`.padEnd(24, 'x')}`

/** A browser with a signed cookie of Koa. */
function koaBrowser(name: string, sid: string): Browser {
  const signature = createHmac('sha1', key).update(`${name}=${sid}`).digest('base64url')
  return new Browser([
    [name, sid],
    [`${name}.sig`, signature],
  ])
}

const expressCookie = (sid: string): string =>
  `s:${sid}.${createHmac('sha256', key).update(sid).digest('base64').replace(/=+$/, '')}`

/** Visits a site with each browser, and expects it to count on from `visits`. */
async function expectVisits(url: string, browsers: readonly Browser[], visits: number): Promise<void> {
  for (const browser of browsers) {
    expect((await browser.get(`${url}/visit`)).text).to.equal(`${visits + 1}`)
    expect((await browser.get(`${url}/visit`)).text).to.equal(`${visits + 2}`)
  }
}

async function inBatches(calls: readonly (() => Promise<unknown>)[]): Promise<void> {
  for (let n = 0; n < calls.length; n += 500) await Promise.all(calls.slice(n, n + 500).map((call) => call()))
}

if (hasRedis())
  describe('koa-pg-store import from Redis', () => {
    const fixture = new Fixture()
    let server: RedisServer
    let database = 0
    let redisUrl = ''
    let redis: Redis

    before(async () => {
      server = (await startRedis()) as RedisServer
    })
    beforeEach(() => {
      redisUrl = server.url(database++)
      redis = new Redis(redisUrl)
    })
    afterEach(() => redis.quit())
    after(() => server.stop())

    const importFrom = (...args: string[]) =>
      run(fixture.url, 'import', '--json', '--from', redisUrl, ...args)

    /** Compares the times that keys live in Redis with those in the table. */
    async function expectTtls(idOf: (redisKey: string) => string): Promise<void> {
      const rows = new Map((await fixture.rows()).map((row) => [row.id, row.ttlSeconds]))
      const keys = await redis.keys('*')
      const pttls = await Promise.all(keys.map((name) => redis.pttl(name)))
      keys.forEach((name, index) => {
        const pttl = pttls[index] as number
        const expected = pttl === -1 ? 7 * 86_400 : pttl / 1000
        // Both run on while the test reads them.
        expect(rows.get(storedId(idOf(name)))).to.be.closeTo(expected, pttl === -1 ? 60 : 5)
      })
    }

    it('brings all 10,000 sessions of koa-redis, of both middlewares and all kinds of ttl, and their cookies', async () => {
      const old = new KoaRedis({ url: redisUrl })
      const uuids = Array.from({ length: count / 2 }, () => randomUUID())
      await inBatches(
        uuids.flatMap((uuid, n) => {
          const ttl = ttls[n % ttls.length]
          const cookie = { httpOnly: true, path: '/', overwrite: true, signed: true, maxAge: ttl ?? null }
          const maxAge = ttl ?? day
          const koaSession = { visits: n, user: { id: n }, _expire: Date.now() + maxAge, _maxAge: maxAge }
          return [
            () => old.set(generic(n), { cookie, visits: n, user: { id: n } }, ttl as number),
            () => old.set(uuid, koaSession, (ttl === undefined ? ttl : ttl + 10_000) as number),
          ]
        }),
      )
      // And some that the middlewares made themselves.
      const browsers = [new Browser(), new Browser()] as const
      const [oldGeneric, oldKoa] = [
        await serveGenericSession(fixture, old),
        await serveKoaSession(fixture, { store: old as never }),
      ]
      for (let visit = 1; visit <= 3; visit++) {
        expect((await browsers[0].get(`${oldGeneric.url}/visit`)).text).to.equal(`${visit}`)
        expect((await browsers[1].get(`${oldKoa.url}/visit`)).text).to.equal(`${visit}`)
      }

      const first = JSON.parse((await importFrom()).out)
      expect(first).to.include({ imported: count / 2 + 1, existing: 0, expired: 0, invalid: 0 })
      const others = await importFrom('--prefix', '', '--ttl', `${7 * day}`)
      expect(JSON.parse(others.out), others.errors).to.include({ imported: count / 2 + 1, invalid: 0 })
      expect(others.status).to.equal(0)

      const store = await fixture.makeStore()
      await inBatches(
        uuids.flatMap((uuid, n) => [
          async () => expect(await store.get(generic(n))).to.deep.include({ visits: n, user: { id: n } }),
          async () => expect(await store.get(uuid)).to.deep.include({ visits: n, user: { id: n } }),
        ]),
      )
      expect(await store.count()).to.equal(count + 2)
      expect(await store.sessionsOf(77)).to.have.length(2)

      const newGeneric = await serveGenericSession(fixture, store)
      const newKoa = await serveKoaSession(fixture, { store })
      await expectVisits(newGeneric.url, [browsers[0]], 3)
      await expectVisits(newKoa.url, [browsers[1]], 3)
      for (let n = 0; n < visitors; n++) {
        await expectVisits(newGeneric.url, [koaBrowser('koa.sid', generic(n).slice('koa:sess:'.length))], n)
        await expectVisits(newKoa.url, [koaBrowser('koa.sess', uuids[n] as string)], n)
      }
      await old.quit()
    }).timeout(180_000)

    it('keeps the time that each session still lives', async () => {
      const old = new KoaRedis({ url: redisUrl })
      await inBatches(ttls.map((ttl, n) => () => old.set(generic(n), { n }, ttl as number)))
      await redis.set('koa:sess:in-ms', '{"n":1}', 'PX', 61_500)
      expect((await importFrom('--ttl', `${7 * day}`)).status).to.equal(0)
      await expectTtls((name) => name)
      await old.quit()
    })

    it('brings all 10,000 sessions of connect-redis and their cookies', async () => {
      const client = createClient({ url: redisUrl })
      await client.connect()
      const stores = [
        new ConnectRedis({ client }),
        new ConnectRedis({ client, ttl: 600 }),
        new ConnectRedis({ client, disableTTL: true }),
      ]
      await inBatches(
        Array.from({ length: count }, (_, n) => () => {
          const ttl = ttls[n % ttls.length]
          const expires = ttl === undefined ? null : new Date(Date.now() + ttl)
          const cookie = { originalMaxAge: ttl ?? null, expires, httpOnly: true, path: '/' }
          const session = { cookie, visits: n, passport: { user: `u${n}` } }
          return (stores[n % stores.length] as ConnectRedis).set(`id-${n}`, session as never)
        }),
      )
      // And one that express-session made itself.
      const middleware = expressSession({
        store: stores[0] as ConnectRedis,
        secret: key,
        resave: false,
        saveUninitialized: false,
        cookie: { maxAge: day },
      })
      const express = createServer((req, res) => {
        Object.assign(req, { originalUrl: req.url })
        middleware(req, res, () => {
          const { session } = req as IncomingMessage & { session: { visits?: number } }
          session.visits = (session.visits ?? 0) + 1
          res.end(`${session.visits}`)
        })
      }).listen(0, '127.0.0.1')
      await once(express, 'listening')
      const browser = new Browser()
      const expressUrl = `http://127.0.0.1:${(express.address() as AddressInfo).port}`
      await expectVisits(expressUrl, [browser], 0)
      express.close()
      express.closeAllConnections()

      const result = await importFrom('--format', 'connect-redis', '--id-prefix', 'koa:sess:')
      expect(JSON.parse(result.out), result.errors).to.include({
        imported: count + 1,
        existing: 0,
        invalid: 0,
      })

      const store = await fixture.makeStore()
      await inBatches(
        Array.from({ length: count }, (_, n) => async () => {
          const session = await store.get(`koa:sess:id-${n}`)
          expect(session).to.deep.include({ visits: n, passport: { user: `u${n}` } })
          expect(session?.cookie).to.deep.equal({
            httpOnly: true,
            path: '/',
            overwrite: true,
            signed: true,
            maxAge: ttls[n % ttls.length] ?? null,
          })
        }),
      )
      const site = await serveGenericSession(fixture, store, {
        sessionIdStore: {
          get(this: { cookies: { get(name: string, options: object): string | undefined } }) {
            const cookie = decodeURIComponent(this.cookies.get('connect.sid', { signed: false }) ?? '')
            const [, sid = ''] = /^s:(.*)\.[^.]*$/.exec(cookie) ?? []
            return cookie === expressCookie(sid) ? sid : undefined
          },
          set() {},
          reset() {},
        },
      } as never)
      await expectVisits(site.url, [browser], 2)
      for (let n = 0; n < visitors; n++)
        await expectVisits(
          site.url,
          [new Browser([['connect.sid', encodeURIComponent(expressCookie(`id-${n}`))]])],
          n,
        )
      await client.close()
    }).timeout(180_000)

    it('leaves sessions alone that were changed or destroyed in the table', async () => {
      await redis.mset(generic(1), '{"n":"old"}', generic(2), '{"n":"old"}', generic(3), '{"n":"old"}')
      const store = await fixture.makeStore()
      await store.set(generic(1), { n: 'new' })
      await store.set(generic(2), { n: 'new' })
      await store.destroy(generic(2))
      expect(JSON.parse((await importFrom('--dry-run')).out)).to.include({ imported: 1, existing: 2 })
      expect(await store.get(generic(3))).to.equal(undefined)
      expect(JSON.parse((await importFrom()).out)).to.include({ imported: 1, existing: 2 })
      const found = await Promise.all([1, 2, 3].map((n) => store.get(generic(n))))
      expect(found).to.deep.equal([{ n: 'new' }, undefined, { n: 'old' }])
    })

    it('goes on after it was killed', async () => {
      await redis.mset(Array.from({ length: 20_000 }, (_, n) => [generic(n), `{"n":${n}}`]).flat())
      await fixture.makeStore()
      const killed = new Command(['import', '--from', redisUrl], { DATABASE_URL: fixture.url })
      const countRows = async () =>
        (await sql<{ n: number }>(fixture.url, 'select count(*)::int as n from session'))[0]?.n ?? 0
      await until(async () => (await countRows()) > 0)
      killed.child.kill('SIGKILL')
      await killed.ended
      const before = await countRows()
      expect(before).to.be.within(1, 19_999)
      const result = await importFrom()
      expect(JSON.parse(result.out).imported, result.errors).to.be.within(1, 20_000 - before)
      expect(await countRows()).to.equal(20_000)
    })

    it('stops after its batch on SIGTERM', async () => {
      await redis.mset(Array.from({ length: 20_000 }, (_, n) => [generic(n), `{"n":${n}}`]).flat())
      await fixture.makeStore()
      const { child, ended } = new Command(['import', '--from', redisUrl], { DATABASE_URL: fixture.url })
      await until(async () => (await fixture.rows()).length > 0)
      child.kill('SIGTERM')
      const { status, errors } = await ended
      expect(status).to.equal(1)
      expect(errors).to.equal('Interrupted: run it again to continue.\n')
    })

    it('passes over what is no session, and says why without quoting it', async () => {
      await redis.mset('koa:sess:list', '["OpenSesame"]', 'koa:sess:text', 'OpenSesame', 'koa:sess:ok', '{}')
      await redis.rpush('koa:sess:other', 'OpenSesame')
      await redis.set('other', '{"OpenSesame":1}')
      const { status, out, errors } = await run(fixture.url, 'import', '--from', redisUrl)
      expect(out).to.equal('1 session was imported into "public"."session".\n')
      // Redis returns keys in an order of its own.
      expect(errors).to.match(
        /^2 could not be imported: (it is not a JSON object; it is not JSON|it is not JSON; it is not a JSON object)\.\n$/,
      )
      expect(status).to.equal(1)
    })

    it('takes a prefix literally', async () => {
      await redis.mset('a*[b]?\\:1', '{}', 'axxb:2', '{}')
      const result = await importFrom('--prefix', 'a*[b]?\\:', '--id-prefix', 'x:')
      expect(JSON.parse(result.out)).to.include({ read: 1, imported: 1 })
      expect((await fixture.onlyRow()).id).to.equal(storedId('x:1'))
    })

    it('deletes with --move what is in the table, and nothing else', async () => {
      await redis.mset(generic(1), '{}', generic(2), '{}', 'koa:sess:text', 'text', 'other', '{}')
      const store = await fixture.makeStore()
      await store.set(generic(2), { n: 'new' })
      expect(JSON.parse((await importFrom('--move')).out)).to.include({
        imported: 1,
        existing: 1,
        invalid: 1,
      })
      expect(await redis.keys('*')).to.have.members(['koa:sess:text', 'other'])
    })

    it('uses the package redis where the application has that', async () => {
      await redis.set(generic(1), '{"n":1}', 'EX', 100)
      const folder = mkdtempSync(join(tmpdir(), 'koa-pg-store-'))
      mkdirSync(join(folder, 'node_modules'))
      const installed = fileURLToPath(new URL('../../../node_modules/redis', import.meta.url))
      symlinkSync(installed, join(folder, 'node_modules', 'redis'))
      try {
        const args = ['import', '--json', '--from', redisUrl]
        const result = await new Command(args, { DATABASE_URL: fixture.url }, folder).ended
        expect(JSON.parse(result.out), result.errors).to.include({ imported: 1 })
        expect((await fixture.onlyRow()).ttlSeconds).to.be.within(1, 100)
      } finally {
        rmSync(folder, { recursive: true })
      }
    })
  })
