// FallbackStore: a PgStore that takes sessions over from an old store while the application runs.
import { expect } from 'chai'
import KoaRedis from 'koa-redis'
import { FallbackStore, MemoryStore, type PgStore, type SessionStore } from '../../lib/index.js'
import { Fixture, storedId } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { rejection } from '../helpers/rejection.js'
import { serveGenericSession } from '../middleware/sites/generic-session.js'
import { serveKoaSession } from '../middleware/sites/koa-session.js'
import { hasRedis, startRedis } from '../support/redis.js'

const sid = 'OpenSesame-OpenSesame'

/** An old store that counts its reads and can be told to wait or to fail. */
class OldStore {
  readonly sessions = new Map<string, object>()
  reads = 0
  failing: 'get' | 'destroy' | 'both' | undefined
  /** Awaited after a session was read. */
  gate: Promise<void> = Promise.resolve()

  async get(id: string): Promise<object | null> {
    this.reads++
    if (this.failing === 'get' || this.failing === 'both') throw new Error('old store is down')
    const session = this.sessions.get(id) ?? null
    await this.gate
    return session
  }

  async destroy(id: string): Promise<void> {
    if (this.failing === 'destroy' || this.failing === 'both') throw new Error('old store is down')
    this.sessions.delete(id)
  }
}

describe('FallbackStore', () => {
  const fixture = new Fixture()
  let pgStore: PgStore
  let old: OldStore
  let store: FallbackStore
  let warnings: Error[]

  beforeEach(async () => {
    pgStore = await fixture.makeStore()
    old = new OldStore()
    store = new FallbackStore(pgStore, old)
    warnings = []
    store.on('warning', (error) => warnings.push(error))
  })

  it('reads a session from the old store once, copies it, and destroys it there', async () => {
    old.sessions.set(sid, { n: 1, userId: 'ann' })
    expect(await store.get(sid)).to.deep.equal({ n: 1, userId: 'ann' })
    expect(await store.get(sid)).to.deep.equal({ n: 1, userId: 'ann' })
    expect(old.reads).to.equal(1)
    expect(old.sessions.size).to.equal(0)
    expect(await pgStore.get(sid)).to.deep.equal({ n: 1, userId: 'ann' })
    expect(await pgStore.sessionsOf('ann')).to.have.length(1)
    expect((await store.getWithTtl(sid))?.session).to.deep.equal({ n: 1, userId: 'ann' })
  })

  it('leaves the session in the old store with keep, until it is destroyed', async () => {
    store = new FallbackStore(pgStore, old, { keep: true })
    old.sessions.set(sid, { n: 1 })
    await store.get(sid)
    expect(await store.get(sid)).to.deep.equal({ n: 1 })
    expect(old.reads).to.equal(1)
    expect(old.sessions.size).to.equal(1)
    await store.destroy(sid)
    expect(old.sessions.size).to.equal(0)
    expect(await store.get(sid)).to.equal(undefined)
  })

  it('saves only in the new store, and merges changes of a copied session', async () => {
    old.sessions.set(sid, { n: 1 })
    const [a, b] = [await store.get<{ a?: number }>(sid), await store.get<{ b?: number }>(sid)]
    await store.set(sid, Object.assign(a ?? {}, { a: 1 }))
    await store.set(sid, Object.assign(b ?? {}, { b: 1 }))
    expect(await store.get(sid)).to.deep.equal({ n: 1, a: 1, b: 1 })
    await store.set('another', { n: 2 })
    expect(old.sessions.size).to.equal(0)
  })

  it('never puts its copy over a change that another request made meanwhile', async () => {
    old.sessions.set(sid, { n: 'old' })
    let open = (): void => undefined
    old.gate = new Promise((resolve) => {
      open = resolve
    })
    const slow = store.get(sid)
    while (old.reads === 0) await new Promise(setImmediate)
    await pgStore.set(sid, { n: 'new' })
    open()
    expect(await slow).to.deep.equal({ n: 'new' })
    expect(await pgStore.get(sid, { fresh: true })).to.deep.equal({ n: 'new' })
  })

  it('copies a session once, however many requests and instances read it at the same time', async () => {
    old.sessions.set(sid, { n: 1 })
    const other = new FallbackStore(await fixture.makeStore(), old, { keep: true })
    const stores = [store, other]
    const found = await Promise.all(Array.from({ length: 40 }, (_, n) => stores[n % 2]?.get(sid)))
    for (const session of found) expect(session).to.deep.equal({ n: 1 })
    expect(await pgStore.count()).to.equal(1)
  })

  it('finds a session that another instance takes over between its two reads', async () => {
    old.sessions.set(sid, { n: 1 })
    const between = async (id: string) => {
      const session = await pgStore.get(id)
      if (old.sessions.has(sid)) await store.get(sid)
      return session
    }
    const slowStore = new Proxy(pgStore, {
      get: (target, name) => (name === 'get' ? between : Reflect.get(target, name, target).bind(target)),
    })
    expect(await new FallbackStore(slowStore, old).get(sid)).to.deep.equal({ n: 1 })
    expect(old.reads).to.equal(2)
  })

  it('destroys a session in both stores, and no read in flight, here or elsewhere, copies it again', async () => {
    old.sessions.set(sid, { n: 1 })
    const other = new FallbackStore(await fixture.makeStore(), old)
    let open = (): void => undefined
    old.gate = new Promise((resolve) => {
      open = resolve
    })
    const slow = [store.get(sid), other.get(sid)]
    while (old.reads < 2) await new Promise(setImmediate)
    old.gate = Promise.resolve()
    await store.destroy(sid)
    open()
    expect(await Promise.all(slow)).to.deep.equal([undefined, undefined])
    expect(await store.get(sid)).to.equal(undefined)
    expect(old.sessions.size).to.equal(0)
  })

  it('doesn’t copy a session again that was destroyed by its user', async () => {
    old.sessions.set(sid, { userId: 'ann' })
    await store.get(sid)
    await pgStore.destroySessionsOf('ann')
    expect(await store.get(sid)).to.equal(undefined)
  })

  it('rejects, and signs nobody out, while the old store can’t be asked; serves its own sessions', async () => {
    await store.set('own', { n: 1 })
    old.failing = 'both'
    expect((await rejection(store.get(sid))).message).to.equal('old store is down')
    expect(await store.get('own')).to.deep.equal({ n: 1 })
    expect((await rejection(store.destroy('own'))).message).to.equal('old store is down')
    expect(await pgStore.get('own')).to.equal(undefined)
    old.failing = undefined
    old.gate = new Promise(() => {})
    const impatient = new FallbackStore(pgStore, old, { timeout: 50 })
    expect((await rejection(impatient.get(sid))).message).to.equal(
      'the old store did not answer within 50 ms',
    )
  })

  it('reports a copied session that the old store could not destroy', async () => {
    old.sessions.set(sid, { n: 1 })
    old.failing = 'destroy'
    expect(await store.get(sid)).to.deep.equal({ n: 1 })
    expect(warnings.map(({ message }) => message)).to.deep.equal([
      'the old store still has a copied session: old store is down',
    ])
  })

  it('keeps the time that a session still lives, by the old store, by its content, or by the option ttl', async () => {
    const ttlOf = async (session: object, options = {}, from: object = old): Promise<number> => {
      const id = `${Math.random()}`
      old.sessions.set(id, session)
      await new FallbackStore(pgStore, from as OldStore, options).get(id)
      return (await fixture.rows()).find((row) => row.id === storedId(id))?.ttlSeconds ?? 0
    }
    const in5Minutes = Date.now() + 300_000
    expect(await ttlOf({ _expire: in5Minutes, _maxAge: 86_400_000 })).to.be.within(200, 310)
    expect(await ttlOf({ cookie: { maxAge: 300_000 } })).to.be.within(200, 300)
    expect(await ttlOf({ cookie: { maxAge: 9e9, expires: new Date(in5Minutes) } })).to.be.within(200, 300)
    expect(await ttlOf({ cookie: { originalMaxAge: 300_000 } })).to.be.within(200, 300)
    expect(await ttlOf({})).to.be.within(86_000, 86_400)
    expect(await ttlOf({}, { ttl: async () => 300_000 })).to.be.within(200, 300)
    expect(await ttlOf({}, { ttl: () => -1 })).to.be.within(86_000, 86_400)
    // Gone in the old store since it was read.
    expect(await ttlOf({}, { ttl: () => -2 })).to.equal(0)
    const getWithTtl: SessionStore['getWithTtl'] = async () => ({ session: {}, ttl: 300_000 })
    expect(await ttlOf({}, {}, { get: old.get, destroy: async () => {}, getWithTtl })).to.be.within(200, 300)
  })

  it('rejects an invalid store or option by name', () => {
    const create = (...args: unknown[]) =>
      new FallbackStore(...(args as ConstructorParameters<typeof FallbackStore>))
    expect(() => create(new MemoryStore(), old)).to.throw(
      TypeError,
      'store must have the methods get, set, touch, destroy, add; received an object',
    )
    expect(() => create(pgStore, {})).to.throw(TypeError, 'old must have the methods get, destroy; received')
    expect(() => create(pgStore, old, { ttl: 5 })).to.throw(
      TypeError,
      'option "ttl" must be a function; received 5',
    )
    expect(() => create(pgStore, old, { keep: 1 })).to.throw(TypeError, 'option "keep"')
    expect(() => create(pgStore, old, { timeout: 0 })).to.throw(RangeError, 'option "timeout"')
    expect(() => create(pgStore, old, { max: 1 })).to.throw(TypeError, 'option "max" is unknown')
  })

  if (hasRedis())
    it('replaces koa-redis while both middlewares’ applications run: every cookie goes on counting', async () => {
      const redis = await startRedis()
      const koaRedis = new KoaRedis({ url: redis?.url(0) ?? '' })
      const pttl = (id: string): Promise<number> =>
        (koaRedis.client as unknown as { pttl(id: string): Promise<number> }).pttl(id)
      store = new FallbackStore(pgStore, koaRedis, { ttl: pttl })
      const sites = [
        [await serveGenericSession(fixture, koaRedis), await serveGenericSession(fixture, store)],
        [
          await serveKoaSession(fixture, { store: koaRedis as never }),
          await serveKoaSession(fixture, { store: store as never }),
        ],
      ]
      for (const [before, after] of sites)
        for (let n = 1; n <= 10; n++) {
          const browser = new Browser()
          for (let visit = 1; visit <= n; visit++) await browser.get(`${before?.url}/visit`)
          for (let visit = n + 1; visit <= n + 3; visit++)
            expect((await browser.get(`${after?.url}/visit`)).text).to.equal(`${visit}`)
        }
      expect(await pgStore.count()).to.equal(20)
      await koaRedis.quit()
      await redis?.stop()
    })

  it('add leaves an existing session and a destroyed one as they are', async () => {
    await pgStore.set('a', { n: 'here' })
    await pgStore.set('b', {})
    await pgStore.destroy('b')
    expect(await pgStore.add('a', { n: 'added' })).to.equal(false)
    expect(await pgStore.add('b', { n: 'added' })).to.equal(false)
    expect(await pgStore.add('c', { n: 'added' }, 60_000)).to.equal(true)
    expect(await pgStore.add('d', { n: 'added' }, 0)).to.equal(false)
    const found = await Promise.all(['a', 'b', 'c', 'd'].map((id) => pgStore.get(id)))
    expect(found).to.deep.equal([{ n: 'here' }, undefined, { n: 'added' }, undefined])
    expect(await rejection(pgStore.add('', {}))).to.be.instanceOf(TypeError)
  })
})
