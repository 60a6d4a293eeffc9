// CachedStore: any store behind any cache.
import { EventEmitter } from 'node:events'
import { parse, serialize } from '../session/json.js'
import { assertSessionId, createId } from '../session/session-id.js'
import { fromStored, toStored } from '../session/stored-session.js'
import type {
  Session,
  SessionCache,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from '../types/session-store.js'
import { assertDuration, describe, withDefaults } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'
import { GuardedCache } from './guarded-cache.js'

/** Options of `CachedStore`; each is checked when the store is made. All durations are in milliseconds. */
export interface CachedStoreOptions {
  /** How long the cache answers for a session at most before the store is asked again. Default a minute. */
  ttl?: number | undefined
  /** How long a call waits for the cache before it goes on without. Default a second. */
  timeout?: number | undefined
}

interface LoadedSession {
  readonly session: Session
  /** Milliseconds that it has to live at least; `undefined`: the store can't say. */
  readonly ttl: number | undefined
}

const defaults = { ttl: 60_000, timeout: 1_000 }

/**
 * Puts a cache in front of a store: `new CachedStore(new PgStore(url), new RedisStore(…))`.
 *
 * The store decides. A `set` or `destroy` goes to it first and then out of the cache; a `get` that the cache can't answer
 * asks the store and fills the cache, unless a change of the session overtook it. A cache that fails or doesn't answer is
 * passed over, and reported by the event `warning`; what it might know wrongly after that isn't asked of it until it has
 * forgotten it. So within one instance every promise of the store holds.
 *
 * It can't promise that for several instances, whether each has a cache or all share one: nothing tells an instance what
 * another has changed, and a fill may cross another instance's change. There, a session that was changed or destroyed may
 * be answered as it was for up to `ttl`. (`PgStore` has a cache of its own that hears of changes: prefer that to a
 * `MemoryStore` in front of it.) A store that has no `getWithTtl` can't say how long a session has to live; an
 * expired one may then be answered for up to `ttl` more.
 */
export class CachedStore extends EventEmitter<{ warning: [Error] }> implements SessionStore {
  readonly #store: SessionStore
  readonly #cache: GuardedCache
  readonly #ttl: number

  /** Throws a `TypeError` or a `RangeError`, naming what it received, for what it can't use. `now` is a monotonic clock in ms. */
  constructor(
    store: SessionStore,
    cache: SessionCache,
    options: CachedStoreOptions = {},
    now: () => number = () => performance.now(),
  ) {
    super()
    for (const [name, value] of Object.entries({ store, cache }))
      for (const method of ['get', 'set', 'destroy'])
        if (typeof Object(value)[method] !== 'function')
          throw new TypeError(
            `${name} must have the methods get, set and destroy; received ${describe(value)}`,
          )
    const { ttl, timeout } = withDefaults('options', defaults, options)
    assertDuration('ttl', ttl)
    assertDuration('timeout', timeout)
    this.#store = store
    this.#ttl = ttl
    const warn = (error: Error): void => void this.emit('warning', error)
    this.#cache = new GuardedCache({ cache, ttl, timeout, warn, now })
  }

  /**
   * The session under this id, from the cache or the store, or `undefined`; an object of the caller's own. Rejects as the
   * store does. The middlewares' further arguments go to the store.
   */
  get<T extends object = Session>(sid: string, ...context: unknown[]): Yieldable<T | undefined> {
    return yieldable(this.#find(sid, context).then((found) => found?.session as T | undefined))
  }

  /** The session, with the ms that it has to live at least; 0 where the store doesn't say. */
  async getWithTtl(sid: string, ...context: unknown[]): Promise<SessionWithTtl | undefined> {
    const found = await this.#find(sid, context)
    return found && { session: found.session, ttl: found.ttl ?? 0 }
  }

  async #find(sid: string, context: unknown[]): Promise<LoadedSession | undefined> {
    assertSessionId(sid)
    const reading = this.#cache.read(sid)
    try {
      const kept = await reading.find()
      const session = kept && parse(kept.json)
      if (kept !== undefined && session !== undefined) {
        const left = kept.ttlMs ?? undefined
        // Since then up to `life` ms have gone by. For koa-session that is no matter: it must not think a session over
        // that is alive.
        return { session: fromStored(session, left), ttl: left === undefined ? left : left - kept.cacheTtlMs }
      }
      const found = await this.#ask(sid, context)
      if (found !== undefined) {
        // A cache may count in whole seconds, and must not know a session for longer than it lives.
        const life = Math.min(this.#ttl, Math.floor((found.ttl ?? this.#ttl) / 1000) * 1000)
        const json = toStored(serialize(found.session))
        if (life > 0) reading.fill({ json, ttlMs: found.ttl ?? null, cacheTtlMs: life })
      }
      return found
    } finally {
      reading.end()
    }
  }

  async #ask(sid: string, context: unknown[]): Promise<LoadedSession | undefined> {
    if (this.#store.getWithTtl !== undefined) return this.#store.getWithTtl(sid, ...context)
    const session = await this.#store.get(sid, ...context)
    // Other people's stores answer null.
    return session ? { session, ttl: undefined } : undefined
  }

  /** Saves a session in the store, as that does it; the cache forgets it. */
  set(sid: string, session: object, ttl?: Ttl, ...context: unknown[]): Yieldable<void> {
    return yieldable(this.#set(sid, session, ttl, context))
  }

  async #set(sid: string, session: object, ttl: Ttl, context: unknown[]): Promise<void> {
    assertSessionId(sid)
    // What came of it only the store knows: it may have been merged with another, or refused as destroyed.
    await this.#cache.change(sid, 'forget', () => this.#store.set(sid, session, ttl, ...context))
  }

  /** Ends a session in the store, and then in the cache. */
  destroy(sid: string, ...context: unknown[]): Yieldable<void> {
    return yieldable(this.#destroy(sid, context))
  }

  async #destroy(sid: string, context: unknown[]): Promise<void> {
    assertSessionId(sid)
    await this.#cache.change(sid, 'destroy', () => this.#store.destroy(sid, ...context))
  }

  /** Moves the expiry in the store, which rejects if it can't. */
  async touch(sid: string, ttl?: Ttl): Promise<void> {
    assertSessionId(sid)
    if (this.#store.touch === undefined) throw new TypeError('the store behind the cache has no method touch')
    await this.#store.touch(sid, ttl)
  }

  /** Saves a new session in the store under an id of 192 random bits and answers the id. */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.#set(sid, session, ttl, [])
    return sid
  }
}
