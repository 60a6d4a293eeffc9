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

/** A store in whose way a test can stand: it counts calls, lets them wait, and lets them fail. */
class Steered implements SessionStore {
  readonly inner: MemoryStore
  readonly calls: Call[] = []
  readonly #gates = new Map<Call, Promise<void>>()
  /** Calls that wait behind a gate. */
  waiting = 0
  broken: false | 'before' | 'after' = false

  constructor(inner = new MemoryStore()) {
    this.inner = inner
  }

  /** The next such call waits: a read with its answer, a change before it does anything. Answers what lets it go on. */
  hold(call: Call): () => void {
    let open = () => {}
    this.#gates.set(call, new Promise((resolve) => (open = resolve)))
    return () => open()
  }

  async #run<T>(call: Call, work: () => Promise<T>): Promise<T> {
    this.calls.push(call)
    if (this.broken === 'before') throw Object.assign(new Error(`down: ${sid}`), { command: [sid] })
    // A read has looked, and its answer is under way; a change has not been made.
    const isRead = call === 'get'
    const looked = isRead ? await work() : undefined
    const gate = this.#gates.get(call)
    if (gate !== undefined) {
      this.#gates.delete(call)
      this.waiting++
      await gate
      this.waiting--
    }
    const answer = isRead ? (looked as T) : await work()
    if (this.broken === 'after') throw new Error('no answer')
    return answer
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
    return this.calls.filter((made) => made === call).length
  }
}

describe('CachedStore', () => {
  let time = 0
  let store: Steered
  let cache: Steered
  let cached: CachedStore
  let warnings: Error[]

  beforeEach(() => {
    const clock = () => time
    store = new Steered(new MemoryStore({}, clock))
    cache = new Steered(new MemoryStore({}, clock))
    warnings = []
    cached = make(store, cache)
  })

  function make(store: SessionStore, cache: SessionCache): CachedStore {
    const made = new CachedStore(store, cache, { ttl: minute, timeout: 60_000 }, () => time)
    made.on('warning', (error) => warnings.push(error))
    return made
  }

  /** Puts a session in the store and, by a read, in the cache. */
  async function warm(session: object = { a: 1 }): Promise<void> {
    await cached.set(sid, session, 10 * minute)
    await cached.get(sid)
    await until(async () => (await cache.inner.get(sid))?.json !== undefined)
  }

  /** Whether the cache has something to answer. */
  async function isCached(): Promise<boolean> {
    return (await cache.inner.get(sid))?.json !== undefined
  }

  it('answers from the cache what was read before, and asks the store again after ttl', async () => {
    await warm()
    const asked = store.count('get')
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(store.count('get')).to.equal(asked)
    time += minute
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(store.count('get')).to.equal(asked + 1)
  })

  it('never answers a session for longer than it lives', async () => {
    await cached.set(sid, { a: 1 }, 10_500)
    await cached.get(sid)
    await until(isCached)
    time += 9_999
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    time += 501
    expect(await cached.get(sid)).to.equal(undefined)
  })

  it('changes the store first, and what it refused is in no cache', async () => {
    await warm()
    await store.inner.destroy(sid)
    await cached.set(sid, { a: 2 }, minute)
    expect(await cached.get(sid)).to.equal(undefined)
    expect(await isCached()).to.equal(false)
  })

  it('says that a change failed when the store says so, and asks the store what came of it', async () => {
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

  it('never says that there is no session because the store failed', async () => {
    store.broken = 'before'
    expect((await rejection(cached.get(sid))).message).to.match(/^down/)
  })

  for (const [what, change, after] of [
    ['save', () => cached.set(sid, { a: 2 }, minute), { a: 2 }],
    ['destroy', () => cached.destroy(sid), undefined],
  ] as const) {
    it(`refuses a fill that a ${what} overtook`, async () => {
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

    it(`forgets, after a ${what}, also the fill that was on its way into the cache`, async () => {
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

    it(`does not answer what the cache knew before a ${what} to who asked meanwhile, once that is done`, async () => {
      await warm()
      const open = cache.hold('get')
      const read = cached.get(sid)
      await until(() => cache.waiting === 1)
      await change()
      open()
      expect(await read).to.deep.equal(after)
    })

    it(`asks the store while a ${what} is under way`, async () => {
      await warm()
      const open = store.hold(what === 'save' ? 'set' : 'destroy')
      const changed = change()
      await until(() => store.waiting === 1)
      expect(await cached.get(sid)).to.deep.equal({ a: 1 })
      expect(cache.count('get')).to.equal(1)
      open()
      await changed
      expect(await cached.get(sid)).to.deep.equal(after)
    })

    it(`does not ask the cache again after a ${what} that it could not be told, until it has forgotten`, async () => {
      await warm()
      cache.broken = 'before'
      await change()
      expect(await isCached()).to.equal(true)
      cache.broken = false
      // Left alone for a second; after that the next call has it forget, and goes to the store itself.
      for (let n = 0; n < 3; n++) expect(await cached.get(sid)).to.deep.equal(after)
      expect(await isCached()).to.equal(true)
      time += 1_000
      expect(await cached.get(sid)).to.deep.equal(after)
      await until(async () => !(await isCached()))
      expect(await cached.get(sid)).to.deep.equal(after)
    })

    it(`has the cache forget what a ${what} changed as soon as it answers anything again`, async () => {
      await warm()
      cache.broken = 'before'
      await change()
      cache.broken = false
      time += 1_000
      await cached.get('somebody else')
      await until(async () => !(await isCached()))
    })

    it(`waits no longer than timeout for a cache that does not answer a ${what}`, async () => {
      const impatient = new CachedStore(store, cache, { timeout: 50 })
      impatient.on('warning', (error) => warnings.push(error))
      await impatient.set(sid, { a: 1 }, minute)
      await impatient.get(sid)
      await until(isCached)
      const open = cache.hold(what === 'save' ? 'set' : 'destroy')
      await (what === 'save' ? impatient.set(sid, { a: 2 }, minute) : impatient.destroy(sid))
      expect(warnings.map(({ message }) => message)).to.deep.equal([
        'the cache is passed over: no answer within 50 ms',
      ])
      expect(await isCached()).to.equal(true)
      expect(await impatient.get(sid)).to.deep.equal(after)
      open()
      await until(async () => !(await isCached()))
      expect(await impatient.get(sid)).to.deep.equal(after)
    })
  }

  it('goes on without a cache that fails, says so once, and comes back to it', async () => {
    await warm()
    cache.broken = 'before'
    for (let n = 0; n < 3; n++) expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(warnings.map(({ message }) => message)).to.deep.equal(['the cache is passed over: down: …'])
    expect(cache.count('get')).to.equal(2)
    cache.broken = false
    time += 1_000
    const asked = store.count('get')
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    expect(store.count('get')).to.equal(asked)
  })

  it('waits no longer than timeout for a cache that does not answer a read', async () => {
    const impatient = new CachedStore(store, cache, { timeout: 50 })
    await impatient.set(sid, { a: 1 }, minute)
    cache.hold('get')
    expect(await impatient.get(sid)).to.deep.equal({ a: 1 })
    // And not at all right after that.
    const asked = cache.count('get')
    expect(await impatient.get(sid)).to.deep.equal({ a: 1 })
    expect(cache.count('get')).to.equal(asked)
  })

  it('says no id and no content in a warning', async () => {
    await warm({ secret: 'Xyzzy' })
    cache.broken = 'before'
    await cached.get(sid)
    expect(warnings).to.have.length(1)
    expect(inspect(warnings, { showHidden: true, depth: 9 })).not.to.match(/OpenSesame|Xyzzy/)
  })

  it('asks the cache nothing, for as long as it keeps anything, once it owes too much', async () => {
    await warm()
    cache.broken = 'before'
    await cached.destroy(sid)
    // More than it remembers one by one.
    const ids = Array.from({ length: 10_001 }, (_, n) => `session ${n}`)
    await Promise.all(ids.map((id) => cached.destroy(id)))
    await new Promise(setImmediate)
    cache.broken = false
    const asked = cache.count('get')
    time += minute - 1
    expect(await isCached()).to.equal(true)
    expect(await cached.get(sid)).to.equal(undefined)
    expect(cache.count('get')).to.equal(asked)
    time += 1_001
    expect(await isCached()).to.equal(false)
    expect(await cached.get(sid)).to.equal(undefined)
    expect(cache.count('get')).to.equal(asked + 1)
  })

  it('takes what the cache may hold of others for nothing', async () => {
    await store.inner.set(sid, { a: 1 }, minute)
    for (const other of [{ user: 'bob' }, { json: 1 }, {}]) {
      await cache.inner.set(sid, other, minute)
      expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    }
  })

  it('gives the middleware’s further arguments to the store', async () => {
    const seen: unknown[][] = []
    const context = { ctx: {} }
    const note = async (...args: unknown[]) => {
      seen.push(args)
      return undefined
    }
    const noting = { get: note, set: note, destroy: note } as unknown as SessionStore
    const passing = new CachedStore(noting, new MemoryStore())
    await passing.get(sid, minute, context)
    await passing.set(sid, { a: 1 }, minute, context)
    await passing.destroy(sid, context)
    expect(seen).to.deep.equal([
      [sid, minute, context],
      [sid, { a: 1 }, minute, context],
      [sid, context],
    ])
    expect((await rejection(passing.touch(sid))).message).to.equal(
      'the store behind the cache has no method touch',
    )
  })

  it('touches the store, and the session lives on when the cache has forgotten it', async () => {
    await cached.set(sid, { a: 1 }, 10_000)
    await cached.get(sid)
    await cached.touch(sid, 5 * minute)
    time += 4 * minute
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
  })

  it('answers what another instance destroyed for ttl at most: this it cannot promise away', async () => {
    const elsewhere = make(store, new Steered(new MemoryStore({}, () => time)))
    await warm()
    await elsewhere.destroy(sid)
    time += minute - 1
    expect(await cached.get(sid)).to.deep.equal({ a: 1 })
    time += 1
    expect(await cached.get(sid)).to.equal(undefined)
  })

  // Without a redis-server there is nothing to stop.
  if (hasRedis())
    it('goes on when the redis-server behind koa-redis is stopped, and brings nobody back', async () => {
      const redis = await startRedis()
      const front = new RedisStore({ url: redis?.url(0) ?? '' })
      const behind = new CachedStore(store, front, { timeout: 200 })
      behind.on('warning', (error) => warnings.push(error))
      await behind.set(sid, { a: 1 }, minute)
      await behind.get(sid)
      await until(
        async () => (await front.get(sid)) !== null && Reflect.has((await front.get(sid)) ?? {}, 'json'),
      )
      const asked = store.count('get')
      expect(await behind.get(sid)).to.deep.equal({ a: 1 })
      expect(store.count('get')).to.equal(asked)
      await redis?.stop()
      expect(await behind.get(sid)).to.deep.equal({ a: 1 })
      await behind.destroy(sid)
      expect(await behind.get(sid)).to.equal(undefined)
      expect(await behind.get('another')).to.equal(undefined)
      expect(warnings.length).to.be.at.least(1)
      expect(warnings[0]?.message).to.match(/^the cache is passed over: /)
      front.client.disconnect()
    })

  it('refuses what is no store, no cache and no option by name', () => {
    const good = new MemoryStore()
    const make = (...args: unknown[]) =>
      new CachedStore(...(args as ConstructorParameters<typeof CachedStore>))
    expect(() => make(undefined, good)).to.throw(
      TypeError,
      'store must have the methods get, set and destroy; received undefined',
    )
    expect(() => make(good, {})).to.throw(
      TypeError,
      'cache must have the methods get, set and destroy; received an object',
    )
    expect(() => make(good, good, { ttl: 0 })).to.throw(RangeError, 'option "ttl"')
    expect(() => make(good, good, { timeout: '1s' })).to.throw(TypeError, 'option "timeout"')
    expect(() => make(good, good, { max: 1 })).to.throw(
      TypeError,
      'option "max" is unknown; known are ttl, timeout',
    )
  })
})
