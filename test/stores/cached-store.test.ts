import { inspect } from 'node:util'
import { expect } from 'chai'
import RedisStore from 'koa-redis'
import { CachedStore, MemoryStore, type SessionCache, type SessionStore } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { until } from '../helpers/until.js'
import { hasRedis, startRedis } from '../support/redis.js'

const minute = 60_000
const sid = 'OpenSesame-OpenSesame'

type Call = 'get' | 'set' | 'destroy'

/** A store that counts its calls and can be told to delay or fail them. */
class ControlledStore implements SessionStore {
  readonly inner: MemoryStore
  readonly calls: Call[] = []
  readonly #gates = new Map<Call, Promise<void>>()
  /** The number of calls that wait. */
  waiting = 0
  broken: false | 'before' | 'after' = false

  constructor(inner = new MemoryStore()) {
    this.inner = inner
  }

  /** Makes the next such call wait: a read after it has read, a change before it changes. Returns a function that resumes it. */
  hold(call: Call): () => void {
    let open = () => {}
    this.#gates.set(call, new Promise((resolve) => (open = resolve)))
    return () => open()
  }

  async #run<T>(call: Call, work: () => Promise<T>): Promise<T> {
    this.calls.push(call)
    if (this.broken === 'before') throw Object.assign(new Error(`down: ${sid}`), { command: [sid] })
    // A read waits with its result; a change waits before it is made.
    const isRead = call === 'get'
    const read = isRead ? await work() : undefined
    const gate = this.#gates.get(call)
    if (gate !== undefined) {
      this.#gates.delete(call)
      this.waiting++
      await gate
      this.waiting--
    }
    const result = isRead ? (read as T) : await work()
    if (this.broken === 'after') throw new Error('no answer')
    return result
  }

  get(sid: string) {
    return this.#run('get', async () => this.inner.get(sid))
  }
  getWithTtl(sid: string) {
    return this.#run('get', () => this.inner.getWithTtl(sid))
  }
  set(sid: string, session: object, ttl?: number) {
    return this.#run('set', async () => this.inner.set(sid, session, ttl))
  }
  destroy(sid: string) {
    return this.#run('destroy', async () => this.inner.destroy(sid))
  }
  touch(sid: string, ttl?: number) {
    return this.inner.touch(sid, ttl)
  }

  count(call: Call): number {
    return this.calls.filter((one) => one === call).length
  }
}

describe('CachedStore', () => {
  let time = 0
  let store: ControlledStore
  let cache: ControlledStore
  let cached: CachedStore
  let warnings: Error[]

  beforeEach(() => {
    const clock = () => time
    store = new ControlledStore(new MemoryStore({}, clock))
    cache = new ControlledStore(new MemoryStore({}, clock))
    warnings = []
    cached = create(store, cache)
  })

  function create(store: SessionStore, cache: SessionCache): CachedStore {
    const created = new CachedStore(store, cache, { ttl: minute, timeout: 60_000 }, () => time)
    created.on('warning', (error) => warnings.push(error))
    return created
  }

  /** Saves a session in the store and, by a read, in the cache. */
  async function warm(session: object = { a: 1 }): Promise<void> {
    await cached.set(sid, session, 10 * minute)
    await cached.get(sid)
    await until(async () => (await cache.inner.get(sid))?.json !== undefined)
  }

  /** Whether the session is in the cache. */
  async function isCached(): Promise<boolean> {
    return (await cache.inner.get(sid))?.json !== undefined
  }

  it('serves from the cache what was read before, and reads from the store again after ttl', async () => {
    await warm()
    const reads = store.count('get')
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(store.count('get')).to.equal(reads)
    time += minute
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(store.count('get')).to.equal(reads + 1)
  })

  it('never serves a session after its expiry', async () => {
    await cached.set(sid, { a: 1 }, 10_500)
    await cached.get(sid)
    await until(isCached)
    time += 9_999
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    time += 501
    expect(await cached.get(sid)).to.equal(undefined)
  })

  it('changes the store first, and caches nothing that the store ignored', async () => {
    await warm()
    await store.inner.destroy(sid)
    await cached.set(sid, { a: 2 }, minute)
    expect(await cached.get(sid)).to.equal(undefined)
    expect(await isCached()).to.equal(false)
  })

  it('rejects a change that the store rejects, and then reads from the store', async () => {
    await warm()
    store.broken = 'after'
    for (const call of [() => cached.set(sid, { a: 2 }, minute), () => cached.destroy(sid)]) {
      expect((await rejection(call())).message).to.equal('no answer')
      expect(await isCached()).to.equal(false)
    }
    expect((await rejection(cached.get(sid))).message).to.equal('no answer')
    store.broken = false
    expect(await cached.get(sid)).to.equal(undefined)
  })

  it('never reports a missing session because the store failed', async () => {
    store.broken = 'before'
    expect((await rejection(cached.get(sid))).message).to.match(/^down/)
  })

  for (const [kind, change, after] of [
    ['save', () => cached.set(sid, { a: 2 }, minute), { a: 2 }],
    ['destroy', () => cached.destroy(sid), undefined],
  ] as const) {
    it(`rejects a fill that a ${kind} overtook`, async () => {
      await cached.set(sid, { a: 1 }, minute)
      const open = store.hold('get')
      const read = cached.get(sid)
      await until(() => store.waiting === 1)
      await change()
      open()
      expect(await read).to.deep.equal({ a: 1 })
      await new Promise(setImmediate)
      expect(await isCached()).to.equal(false)
      expect(await cached.get(sid)).to.deep.equal(after)
    })

    it(`after a ${kind}, also invalidates a fill that was in progress`, async () => {
      await cached.set(sid, { a: 1 }, minute)
      const open = cache.hold('set')
      await cached.get(sid)
      await until(() => cache.waiting === 1)
      const changed = change()
      await new Promise(setImmediate)
      open()
      await changed
      await new Promise(setImmediate)
      expect(await isCached()).to.equal(false)
      expect(await cached.get(sid)).to.deep.equal(after)
    })

    it(`does not serve the cached session to a read that a ${kind} overtook`, async () => {
      await warm()
      const open = cache.hold('get')
      const read = cached.get(sid)
      await until(() => cache.waiting === 1)
      await change()
      open()
      expect(await read).to.deep.equal(after)
    })

    it(`reads from the store while a ${kind} is in progress`, async () => {
      await warm()
      const open = store.hold(kind === 'save' ? 'set' : 'destroy')
      const changed = change()
      await until(() => store.waiting === 1)
      expect(await cached.get(sid)).to.deep.equal({ a: 1 })
      expect(cache.count('get')).to.equal(1)
      open()
      await changed
      expect(await cached.get(sid)).to.deep.equal(after)
    })

    it(`bypasses the cache after a ${kind} until a failed invalidation has succeeded`, async () => {
      await warm()
      cache.broken = 'before'
      await change()
      expect(await isCached()).to.equal(true)
      cache.broken = false
      // Bypassed for a second; after that the next call retries the invalidation, and itself reads from the store.
      for (let n = 0; n < 3; n++) expect(await cached.get(sid)).to.deep.equal(after)
      expect(await isCached()).to.equal(true)
      time += 1_000
      expect(await cached.get(sid)).to.deep.equal(after)
      await until(async () => !(await isCached()))
      expect(await cached.get(sid)).to.deep.equal(after)
    })

    it(`retries the invalidation of a ${kind} as soon as the cache answers any call`, async () => {
      await warm()
      cache.broken = 'before'
      await change()
      cache.broken = false
      time += 1_000
      await cached.get('another')
      await until(async () => !(await isCached()))
    })

    it(`waits no longer than timeout for a cache that does not answer a ${kind}`, async () => {
      const limited = new CachedStore(store, cache, { timeout: 50 })
      limited.on('warning', (error) => warnings.push(error))
      await limited.set(sid, { a: 1 }, minute)
      await limited.get(sid)
      await until(isCached)
      const open = cache.hold(kind === 'save' ? 'set' : 'destroy')
      await (kind === 'save' ? limited.set(sid, { a: 2 }, minute) : limited.destroy(sid))
      expect(warnings.map(({ message }) => message)).to.deep.equal(['cache bypassed: no answer within 50 ms'])
      expect(await isCached()).to.equal(true)
      expect(await limited.get(sid)).to.deep.equal(after)
      open()
      await until(async () => !(await isCached()))
      expect(await limited.get(sid)).to.deep.equal(after)
    })
  }

  it('bypasses a cache that fails, warns once, and uses it again later', async () => {
    await warm()
    cache.broken = 'before'
    for (let n = 0; n < 3; n++) expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(warnings.map(({ message }) => message)).to.deep.equal(['cache bypassed: down: …'])
    expect(cache.count('get')).to.equal(2)
    cache.broken = false
    time += 1_000
    const reads = store.count('get')
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(store.count('get')).to.equal(reads)
  })

  it('waits no longer than timeout for a cache that does not answer a read', async () => {
    const limited = new CachedStore(store, cache, { timeout: 50 })
    await limited.set(sid, { a: 1 }, minute)
    cache.hold('get')
    expect(await limited.get(sid)).to.deep.equal({ a: 1 })
    // The next read doesn't wait at all.
    const reads = cache.count('get')
    expect(await limited.get(sid)).to.deep.equal({ a: 1 })
    expect(cache.count('get')).to.equal(reads)
  })

  it('keeps little in memory while the cache hangs, and uses it again when it answers', async () => {
    const store = new MemoryStore({ max: 200_000 })
    const inner = new MemoryStore({ max: 200_000 })
    let hangs = true
    let calls = 0
    const answer = async <R>(work: () => PromiseLike<R>): Promise<R> => {
      calls++
      return hangs ? new Promise<never>(() => undefined) : work()
    }
    const cache: SessionCache = {
      get: (sid) => answer(async () => inner.get(sid)),
      set: (sid, session, ttl) => answer(async () => inner.set(sid, session, ttl)),
      destroy: (sid) => answer(async () => inner.destroy(sid)),
    }
    let now = 0
    const cached = new CachedStore(store, cache, { ttl: 1_000, timeout: 1 }, () => now)
    cached.on('warning', () => undefined)
    const used = (): number => {
      global.gc?.()
      return process.memoryUsage().heapUsed / 1024 ** 2
    }
    const count = 30_000
    const touchAll = async (session: object): Promise<void> => {
      for (let n = 0; n < count; n += 100) {
        await Promise.all(
          Array.from({ length: 100 }, async (_, k) => {
            await cached.set(`session ${n + k}`, session, 3_600_000)
            await cached.get(`session ${n + k}`)
          }),
        )
        now += 50
      }
    }
    for (let n = 0; n < count; n++) await store.set(`session ${n}`, { n: 0 }, 3_600_000)
    await touchAll({ n: 1 })
    const before = used()
    for (let round = 0; round < 3; round++) await touchAll({ n: 2 })
    expect(calls).to.be.below(20_000)
    expect(used() - before, 'MiB').to.be.below(20)
    const last = `session ${count - 1}`
    hangs = false
    now += 100_000
    await until(async () => {
      now += 1_100
      const reads = calls
      await cached.get(last)
      await cached.get(last)
      return calls > reads && (await inner.get(last)) !== undefined
    })
    expect(await cached.get(last)).to.deep.equal({ n: 2 })
    await cached.set(last, { n: 3 }, 3_600_000)
    expect(await cached.get(last)).to.deep.equal({ n: 3 })
  })

  it('puts no id and no content into a warning', async () => {
    await warm({ secret: 'Xyzzy' })
    cache.broken = 'before'
    await cached.get(sid)
    expect(warnings).to.have.length(1)
    expect(inspect(warnings, { showHidden: true, depth: 9 })).not.to.match(/OpenSesame|Xyzzy/)
  })

  it('bypasses the whole cache until its entries have expired, once too many invalidations have failed', async () => {
    await warm()
    cache.broken = 'before'
    await cached.destroy(sid)
    // More than the number of pending invalidations that are tracked.
    const ids = Array.from({ length: 10_001 }, (_, n) => `session ${n}`)
    await Promise.all(ids.map((id) => cached.destroy(id)))
    await new Promise(setImmediate)
    cache.broken = false
    const reads = cache.count('get')
    time += minute - 1
    expect(await isCached()).to.equal(true)
    expect(await cached.get(sid)).to.equal(undefined)
    expect(cache.count('get')).to.equal(reads)
    time += 1_001
    expect(await isCached()).to.equal(false)
    expect(await cached.get(sid)).to.equal(undefined)
    expect(cache.count('get')).to.equal(reads + 1)
  })

  it('ignores entries that other software wrote to the cache', async () => {
    await store.inner.set(sid, { a: 1 }, minute)
    for (const other of [{ user: 'bob' }, { json: 1 }, {}]) {
      await cache.inner.set(sid, other, minute)
      expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    }
  })

  it('passes the middleware’s further arguments on to the store', async () => {
    const received: unknown[][] = []
    const context = { ctx: {} }
    const record = async (...args: unknown[]) => {
      received.push(args)
      return undefined
    }
    const recording = { get: record, set: record, destroy: record } as unknown as SessionStore
    const passing = new CachedStore(recording, new MemoryStore())
    await passing.get(sid, minute, context)
    await passing.set(sid, { a: 1 }, minute, context)
    await passing.destroy(sid, context)
    expect(received).to.deep.equal([
      [sid, minute, context],
      [sid, { a: 1 }, minute, context],
      [sid, context],
    ])
    expect((await rejection(passing.touch(sid))).message).to.equal(
      'the store behind the cache has no method touch',
    )
  })

  it('touches the session in the store, which keeps it after its cache entry has expired', async () => {
    await cached.set(sid, { a: 1 }, 10_000)
    await cached.get(sid)
    await cached.touch(sid, 5 * minute)
    time += 4 * minute
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
  })

  it('serves a session that another instance destroyed for at most ttl, a documented limit', async () => {
    const otherInstance = create(store, new ControlledStore(new MemoryStore({}, () => time)))
    await warm()
    await otherInstance.destroy(sid)
    time += minute - 1
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    time += 1
    expect(await cached.get(sid)).to.equal(undefined)
  })

  // Needs a redis-server to stop.
  if (hasRedis())
    it('keeps working when koa-redis loses its server, and revives no destroyed session', async () => {
      const redis = await startRedis()
      const front = new RedisStore({ url: redis?.url(0) ?? '' })
      const behind = new CachedStore(store, front, { timeout: 200 })
      behind.on('warning', (error) => warnings.push(error))
      await behind.set(sid, { a: 1 }, minute)
      await behind.get(sid)
      await until(
        async () => (await front.get(sid)) !== null && Reflect.has((await front.get(sid)) ?? {}, 'json'),
      )
      const reads = store.count('get')
      expect(await behind.get(sid)).to.deep.equal({ a: 1 })
      expect(store.count('get')).to.equal(reads)
      await redis?.stop()
      expect(await behind.get(sid)).to.deep.equal({ a: 1 })
      await behind.destroy(sid)
      expect(await behind.get(sid)).to.equal(undefined)
      expect(await behind.get('another')).to.equal(undefined)
      expect(warnings.length).to.be.at.least(1)
      expect(warnings[0]?.message).to.match(/^cache bypassed: /)
      front.client.disconnect()
    })

  it('rejects an invalid store, cache or option by name', () => {
    const good = new MemoryStore()
    const create = (...args: unknown[]) =>
      new CachedStore(...(args as ConstructorParameters<typeof CachedStore>))
    expect(() => create(undefined, good)).to.throw(
      TypeError,
      'store must have the methods get, set and destroy; received undefined',
    )
    expect(() => create(good, {})).to.throw(
      TypeError,
      'cache must have the methods get, set and destroy; received an object',
    )
    expect(() => create(good, good, { ttl: 0 })).to.throw(RangeError, 'option "ttl"')
    expect(() => create(good, good, { timeout: '1s' })).to.throw(TypeError, 'option "timeout"')
    expect(() => create(good, good, { max: 1 })).to.throw(
      TypeError,
      'option "max" is unknown; known options: ttl, timeout',
    )
  })
})
