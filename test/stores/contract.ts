// The contract of SessionStore (lib/types/session-store.ts), as tests that run against every store.
import { expect } from 'chai'
import co from 'co'
import fc from 'fast-check'
import Koa from 'koa'
import genericSession from 'koa-generic-session'
import genericSession1 from 'koa-generic-session1'
import koaSession from 'koa-session'
import Koa1 from 'koa1'
import type { SessionStore } from '../../lib/index.js'
import { Browser, listen } from '../helpers/http.js'
import { rejection } from '../helpers/rejection.js'
import { until } from '../helpers/until.js'

/** A new store for a test; `close` ends what was opened for it. */
interface CreatedStore {
  readonly store: SessionStore
  close?(): Promise<unknown>
}

/** `ttl` is the store's own, for sessions set without one. */
export type MakeStore = (options: { ttl?: number }) => Promise<CreatedStore> | CreatedStore

const minute = 60_000

/** Runs the contract against a store. */
export function contract(name: string, makeStore: MakeStore): void {
  describe(`the contract of stores, kept by ${name}`, () => {
    const created: CreatedStore[] = []
    let store: SessionStore

    async function create(options: { ttl?: number } = {}): Promise<SessionStore> {
      const one = await makeStore(options)
      created.push(one)
      return one.store
    }

    before(async () => {
      store = await create()
    })
    after(async () => {
      for (const one of created.splice(0).reverse()) await one.close?.()
    })

    /** Reads twice: the second time, a cache may serve the session. */
    async function expectBoth(sid: string, session: object | undefined): Promise<void> {
      for (let n = 0; n < 2; n++) expect(await store.get(sid)).to.deep.equal(session)
    }

    it('returns what was set, and undefined for what was not', async () => {
      await store.set('a', { user: 'ann', cart: [1, { n: 2 }] }, minute)
      await expectBoth('a', { user: 'ann', cart: [1, { n: 2 }] })
      await expectBoth('missing', undefined)
    })

    it('replaces all of a session, and the next get of this process sees it', async () => {
      for (let n = 0; n < 20; n++) {
        await store.set('replaced', { [`n${n}`]: n }, minute)
        await expectBoth('replaced', { [`n${n}`]: n })
      }
    })

    it('returns an object of the caller’s own', async () => {
      await store.set('own', { list: [1] }, minute)
      for (let n = 0; n < 3; n++) {
        const session = (await store.get('own')) as { list: number[]; more?: number }
        expect(session).to.deep.equal({ list: [1] })
        session.list.push(n)
        session.more = n
      }
    })

    it('keeps no reference to the object that it was given', async () => {
      const mine = { list: [1] }
      const saved = store.set('mine', mine, minute)
      mine.list.push(2)
      await saved
      mine.list.push(3)
      await expectBoth('mine', { list: [1] })
    })

    it('restores any JSON value as JSON does', async () => {
      const value = fc.jsonValue({ maxDepth: 4, stringUnit: 'binary' })
      const key = fc.oneof(
        fc.string({ unit: 'binary' }),
        fc.constantFrom('__proto__', '\u0000', '\ud800', ''),
      )
      const session = fc.dictionary(key, fc.oneof(value, fc.double(), fc.date({ noInvalidDate: true })), {
        noNullPrototype: true,
      })
      let n = 0
      await fc.assert(
        fc.asyncProperty(session, async (data) => {
          const sid = `any ${n++}`
          await store.set(sid, data, minute)
          await expectBoth(sid, JSON.parse(JSON.stringify(data)) as object)
        }),
        { numRuns: 50 },
      )
    })

    it('accepts any string as an id', async () => {
      const ids = ['a b', `'; drop table session --`, '$1', '😀', '__proto__', 'sess:ü', 'x'.repeat(300)]
      for (const id of ids) await store.set(id, { id }, minute)
      for (const id of ids) await expectBoth(id, { id })
    })

    it('keeps many sessions apart that are used at the same time', async () => {
      const ids = Array.from({ length: 200 }, (_, n) => `many ${n}`)
      await Promise.all(ids.map((id) => store.set(id, { id }, minute)))
      const results = await Promise.all([...ids, ...ids].map((id) => store.get(id)))
      expect(results).to.deep.equal([...ids, ...ids].map((id) => ({ id })))
    })

    it('destroys a session for good', async () => {
      await store.set('gone', { a: 1 }, minute)
      await expectBoth('gone', { a: 1 })
      await store.destroy('gone')
      await expectBoth('gone', undefined)
      await store.set('gone', { a: 2 }, minute)
      await expectBoth('gone', undefined)
      await store.touch?.('gone', minute)
      await expectBoth('gone', undefined)
    })

    it('keeps the order of changes that are not awaited', async () => {
      const sids = Array.from({ length: 50 }, (_, n) => `${n}`)
      const changes = sids.flatMap((sid) => [
        store.set(sid, { n: 1 }, minute),
        store.set(sid, { n: 2 }, minute),
        ...(Number(sid) % 2 ? [store.destroy(sid)] : []),
      ])
      await Promise.all(changes)
      for (const sid of sids)
        expect(await store.get(sid)).to.deep.equal(Number(sid) % 2 ? undefined : { n: 2 })
    })

    it('ignores the destroy and the touch of a missing session', async () => {
      await store.destroy('never was')
      await store.touch?.('never was', minute)
      await expectBoth('never was', undefined)
      await store.set('never was', { a: 1 }, minute)
      await expectBoth('never was', { a: 1 })
      await store.destroy('never was')
      await store.destroy('never was')
      await expectBoth('never was', undefined)
    })

    it('lets no save, touch or read in progress bring a destroyed session back', async () => {
      for (let n = 0; n < 20; n++) {
        const sid = `in progress ${n}`
        await store.set(sid, { n }, minute)
        const calls = [
          () => store.get(sid),
          () => store.set(sid, { late: n }, minute),
          () => store.touch?.(sid, minute),
          () => store.get(sid),
        ]
        // The destroy comes before, between and after the others.
        calls.splice(n % 5, 0, () => store.destroy(sid))
        await Promise.all(calls.map((call) => call()))
        await expectBoth(sid, undefined)
      }
    })

    it('expires a session by itself', async () => {
      await store.set('short', { a: 1 }, 300)
      expect(await store.get('short')).to.deep.equal({ a: 1 })
      await until(async () => (await store.get('short')) === undefined)
      await store.touch?.('short', minute)
      await expectBoth('short', undefined)
    })

    it('stores nothing that is set with a ttl of 0 or less', async () => {
      for (const ttl of [0, -1, Number.NEGATIVE_INFINITY]) {
        await store.set('expired', { a: 1 }, minute)
        await store.set('expired', { a: 2 }, ttl)
        await expectBoth('expired', undefined)
      }
    })

    it('uses its own ttl where the middleware passes none', async () => {
      const unknown = [undefined, null, Number.NaN, 'session'] as const
      const short = await create({ ttl: 400 })
      await Promise.all(unknown.map((ttl) => short.set(`default ${ttl}`, { a: 1 }, ttl)))
      for (const ttl of unknown) await until(async () => (await short.get(`default ${ttl}`)) === undefined)
      for (const ttl of unknown) {
        await store.set(`default ${ttl}`, { a: 1 }, ttl)
        await store.touch?.(`default ${ttl}`, ttl)
        await expectBoth(`default ${ttl}`, { a: 1 })
      }
    })

    it('keeps a session longer that is touched, or saved unchanged', async () => {
      const { touch } = store
      const sids = touch === undefined ? ['saved'] : ['touched', 'saved']
      for (const sid of [...sids, 'neither']) await store.set(sid, { a: 1 }, 500)
      await store.touch?.('touched', minute)
      await store.touch?.('touched', 1)
      await store.set('saved', { a: 1 }, minute)
      await until(async () => (await store.get('neither')) === undefined)
      for (const sid of sids) await expectBoth(sid, { a: 1 })
    })

    it('rejects invalid session ids and ttls', async () => {
      for (const sid of [undefined, null, 1, {}, '']) {
        const calls = [
          () => store.get(sid as string),
          () => store.set(sid as string, {}, minute),
          () => store.destroy(sid as string),
          () => store.touch?.(sid as string, minute) ?? Promise.reject(new TypeError('session id')),
        ]
        for (const call of calls) {
          const error = await rejection(call())
          expect(error).to.be.instanceOf(TypeError)
          expect(error.message).to.match(/^session id must/)
        }
      }
      const error = await rejection(store.set('a', { a: 2 }, '1 day' as unknown as number))
      expect(error).to.be.instanceOf(TypeError)
      expect(error.message).to.equal('ttl must be a number of milliseconds; received "1 day" (a string)')
    })

    it('rejects what JSON cannot hold, without its id or content, and leaves the stored session unchanged', async () => {
      const sid = 'OpenSesame-OpenSesame'
      await store.set(sid, { a: 1 }, minute)
      const circle: Record<string, unknown> = {}
      circle.self = circle
      for (const value of ['Xyzzy', null, undefined, ['Xyzzy'], Promise.resolve({})]) {
        const error = await rejection(store.set(sid, value as unknown as object, minute))
        expect(error).to.be.instanceOf(TypeError)
        expect(error.message)
          .to.match(/^session must/)
          .and.not.match(/Xyzzy|Sesame/)
      }
      for (const value of [10n, circle]) {
        const error = await rejection(store.set(sid, { secret: 'Xyzzy', value }, minute))
        expect(error).to.be.instanceOf(TypeError)
        expect(error.message)
          .to.include('"value"')
          .and.not.match(/Xyzzy|Sesame/)
      }
      await expectBoth(sid, { a: 1 })
    })

    it('returns promises that generators may yield and delegate to', async () => {
      const session = await co(function* () {
        yield store.set('yielded', { a: 1 }, minute)
        const first: unknown = yield store.get('yielded')
        const second: unknown = yield* store.get('yielded') as unknown as Generator
        yield store.destroy('yielded')
        return [first, second, yield store.get('yielded')]
      })
      expect(session).to.deep.equal([{ a: 1 }, { a: 1 }, undefined])
    })

    it('reports no more than the remaining life, if it reports that', async () => {
      if (store.getWithTtl === undefined) return
      await store.set('remaining', { a: 1 }, minute)
      for (let n = 0; n < 2; n++) {
        const { session, ttl } = (await store.getWithTtl('remaining')) ?? {}
        expect(session).to.deep.equal({ a: 1 })
        expect(ttl).to.be.within(0, minute)
      }
      expect(await store.getWithTtl('missing')).to.equal(undefined)
    })

    for (const [middleware, serve] of Object.entries(middlewares))
      it(`keeps users signed in, and signs them out, with ${middleware}`, async () => {
        const site = await listen(serve(store))
        try {
          const ann = new Browser()
          const bob = new Browser()
          expect((await ann.get(site.url)).text).to.equal('1')
          expect((await ann.get(site.url)).text).to.equal('2')
          expect((await bob.get(site.url)).text).to.equal('1')
          expect((await ann.get(site.url)).text).to.equal('3')
          const copy = ann.copy()
          await ann.get(`${site.url}/sign-out`)
          expect((await copy.get(site.url)).text).to.equal('1')
          expect((await bob.get(site.url)).text).to.equal('2')
        } finally {
          await site.stop()
        }
      })
  })
}

interface Visited {
  visits?: number
}

/** Applications that count a user's visits. */
const middlewares: Record<string, (store: SessionStore) => Parameters<typeof listen>[0]> = {
  'koa-generic-session 2': (store) => {
    const app = new Koa()
    app.keys = ['a key']
    app.use(genericSession({ store } as genericSession.SessionOptions))
    return app.use((ctx) => visit(ctx as unknown as Visit))
  },
  'koa-generic-session 1': (store) => {
    const app = new Koa1()
    app.keys = ['a key']
    app.use(genericSession1({ store }))
    // biome-ignore lint/correctness/useYield: Koa 1 middlewares are generators
    return app.use(function* () {
      visit(this as unknown as Visit)
    })
  },
  'koa-session': (store) => {
    const app = new Koa()
    app.keys = ['a key']
    app.use(koaSession({ store }, app))
    return app.use((ctx) => visit(ctx as unknown as Visit))
  },
}

interface Visit {
  path: string
  session: Visited | null
  body: unknown
}

function visit(ctx: Visit): void {
  if (ctx.path === '/sign-out' || ctx.session === null) {
    ctx.session = null
    ctx.body = 'bye'
    return
  }
  ctx.session.visits = (ctx.session.visits ?? 0) + 1
  ctx.body = String(ctx.session.visits)
}
