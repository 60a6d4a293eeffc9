// The page "where you are signed in" of an application: which row is this device, what each device is, and signing out the others.
import { expect } from 'chai'
import Koa from 'koa'
import genericSession from 'koa-generic-session'
import koaSession from 'koa-session'
import { encrypted, type PgStore, type PgStoreOptions } from '../../lib/index.js'
import { Browser, listen, type RunningApp } from '../helpers/http.js'
import { trusted } from '../helpers/instance.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

type Context = Koa.Context & { session: { user?: { id: string }; n?: number } | null; sessionId?: string }

/** Returns what the option `device` gets of both middlewares: koa-session's context, or Koa's own for the current request. */
const deviceOf =
  (app: Koa): NonNullable<PgStoreOptions['device']> =>
  (ctx = app.currentContext as Koa.Context | undefined) =>
    ctx && { ip: ctx.ip, browser: ctx.get('user-agent') }

const middlewares = {
  'koa-generic-session': (app: Koa, store: PgStore) => app.use(genericSession({ store })),
  'koa-generic-session with a prefix of its own': (app: Koa, store: PgStore) =>
    app.use(genericSession({ store, prefix: 'app:' })),
  'koa-session': (app: Koa, store: PgStore) => app.use(koaSession({ store }, app)),
  'koa-session with a prefix': (app: Koa, store: PgStore) =>
    app.use(koaSession({ store, prefix: 'app:' }, app)),
}

for (const [name, use] of Object.entries(middlewares))
  describe(`the devices of a user, with ${name}`, () => {
    let url: string
    let store: PgStore
    let site: RunningApp
    beforeEach(async () => {
      url = await freshDatabase()
      const app = new Koa({ asyncLocalStorage: true })
      app.keys = ['a key']
      app.silent = true
      store = await trusted(url, { device: deviceOf(app) })
      use(app, store)
      app.use(async (context) => {
        const ctx = context as unknown as Context
        if (ctx.session === null) return
        if (ctx.path === '/sign-in') ctx.session.user = { id: 'ann' }
        if (ctx.path === '/change') ctx.session.n = (ctx.session.n ?? 0) + 1
        if (ctx.path === '/others') ctx.body = String(await store.destroySessionsOf('ann', { except: ctx }))
        else if (ctx.path === '/bare')
          ctx.body = (
            await rejection(store.destroySessionsOf('ann', { except: ctx.sessionId ?? 'x' }))
          ).message
        else if (ctx.path === '/devices') {
          const current = store.handleOf(ctx)
          const devices = await store.sessionsOf('ann')
          ctx.body = devices.map(({ handle, device }) => ({ device, isCurrent: handle === current }))
        } else ctx.body = ctx.session.user ? 'ann' : 'anonymous'
      })
      site = await listen(app)
    })
    afterEach(async () => {
      await site.stop()
      await store.close()
    })
    const signIn = async (...agents: string[]): Promise<Browser[]> => {
      const browsers = agents.map(() => new Browser())
      for (const [n, browser] of browsers.entries())
        await browser.get(`${site.url}/sign-in`, { 'user-agent': agents[n] ?? '' })
      return browsers
    }

    it('are listed with what they are, and the current one is marked', async () => {
      const [, tablet] = await signIn('Phone', 'Tablet', 'Laptop')
      const { text } = (await tablet?.get(`${site.url}/devices`)) ?? expect.fail()
      const devices = JSON.parse(text) as { device: { ip: string; browser: string }; isCurrent: boolean }[]
      expect(devices.map(({ device }) => device.browser).sort()).to.deep.equal(['Laptop', 'Phone', 'Tablet'])
      for (const { device, isCurrent } of devices) {
        expect(device.ip).to.match(/127\.0\.0\.1$/)
        expect(isCurrent).to.equal(device.browser === 'Tablet')
      }
    })

    it('are signed out except the current one, given the context', async () => {
      const browsers = await signIn('Phone', 'Tablet', 'Laptop')
      expect((await browsers[1]?.get(`${site.url}/others`))?.text).to.equal('2')
      const texts = []
      for (const browser of browsers) texts.push((await browser.get(site.url)).text)
      expect(texts).to.deep.equal(['anonymous', 'ann', 'anonymous'])
    })

    it('stay signed in if the session to except is given without its prefix', async () => {
      const browsers = await signIn('Phone', 'Tablet')
      const { text } = (await browsers[0]?.get(`${site.url}/bare`)) ?? expect.fail()
      expect(text).to.match(/^except must name one of the user's stored sessions: .*nothing was destroyed$/)
      for (const browser of browsers) expect((await browser.get(site.url)).text).to.equal('ann')
    })

    it('are remembered anew when a change is saved, and only then', async () => {
      const [browser] = await signIn('Phone 1')
      const version = async () => (await sql(url, 'select version from session'))[0]?.version
      const before = await version()
      await browser?.get(site.url, { 'user-agent': 'Phone 2' })
      expect(await version()).to.equal(before)
      await browser?.get(`${site.url}/change`, { 'user-agent': 'Phone 2' })
      const [info] = await store.sessionsOf('ann')
      expect(info?.device).to.include({ browser: 'Phone 2' })
      expect(info?.session).to.include({ n: 1 }).and.not.have.property('~device')
    })

    it('are not the device of a request without a session of the user', async () => {
      const [phone] = await signIn('Phone')
      const stranger = new Browser()
      // A new session is not stored yet, so it is none of the user's.
      expect((await stranger.get(`${site.url}/others`)).status).to.equal(500)
      expect((await phone?.get(site.url))?.text).to.equal('ann')
    })
  })

describe('the option device', () => {
  it('remembers nothing by default', async () => {
    await using store = await trusted(await freshDatabase())
    await store.create({ userId: 'ann' })
    const [info] = await store.sessionsOf('ann')
    expect(info?.device).to.equal(undefined)
    expect(info?.session).to.deep.equal({ userId: 'ann' })
  })

  it('keeps what is remembered if it returns undefined, and through a merge', async () => {
    let device: string | undefined = 'Phone'
    await using store = await trusted(await freshDatabase(), { device: () => device })
    const sid = await store.create({ userId: 'ann' })
    device = undefined
    const one = (await store.get(sid)) ?? expect.fail()
    const two = (await store.get(sid)) ?? expect.fail()
    await store.set(sid, { ...one, a: 1 })
    await store.set(sid, Object.assign(two, { b: 2 }))
    const [info] = await store.sessionsOf('ann')
    expect(info?.device).to.equal('Phone')
    expect(info?.session).to.include({ b: 2 })
  })

  it('is encrypted with the session', async () => {
    const url = await freshDatabase()
    const codec = encrypted({ keys: [{ id: '1', key: Buffer.alloc(32, 7) }] })
    await using store = await trusted(url, { codec, device: () => ({ browser: 'Phone' }) })
    await store.create({ userId: 'ann' })
    const [row] = await sql(url, 'select session::text as text from session where session is not null')
    expect(row?.text).not.to.include('Phone')
    expect((await store.sessionsOf('ann'))[0]?.device).to.deep.equal({ browser: 'Phone' })
  })

  for (const [what, result, error] of [
    ['a promise', Promise.resolve('Phone'), 'received a promise'],
    ['what JSON can’t hold', () => 'Phone', 'received function'],
    ['more than 2,048 characters', 'x'.repeat(3_000), 'at most 2048 characters of JSON; received 3002'],
  ] as const)
    it(`may not return ${what}`, async () => {
      await using store = await trusted(await freshDatabase(), { device: () => result })
      expect((await rejection(store.create({ userId: 'ann' }))).message).to.include(error)
    })

  it('must be a function', async () => {
    const make = () => trusted('postgres://localhost', { device: 'Phone' as never })
    expect((await rejection(make())).message).to.equal(
      'option "device" must be a function; received "Phone" (a string)',
    )
  })
})

describe('handleOf()', () => {
  it('returns the handle that lists show for a session id', async () => {
    for (const hashIds of [true, false]) {
      await using store = await trusted(await freshDatabase(), { hashIds })
      const sid = await store.create({ userId: 'ann' })
      const [info] = await store.sessionsOf('ann')
      expect(store.handleOf(sid)).to.equal(info?.handle)
    }
  })

  it('throws for what names no session, without repeating it', async () => {
    await using store = await trusted(await freshDatabase())
    const message = (value: unknown): string => {
      try {
        store.handleOf(value as string)
      } catch (error) {
        return (error as Error).message
      }
      return 'no error'
    }
    expect(message(undefined)).to.equal('session must be a session id or a Koa context; received undefined')
    expect(message(7)).to.equal('session must be a session id or a Koa context; received number')
    expect(message('')).to.equal('session id must not be empty')
    expect(message({ session: null })).to.match(
      /^session must be .* with a session; received an object without/,
    )
    // koa-generic-session with "defer": reading ctx.session would load it.
    const deferred = {
      sessionStore: {},
      get session() {
        return expect.fail('it was read')
      },
    }
    expect(message(deferred)).to.match(/^session must be .* await ctx\.session first$/)
  })
})
