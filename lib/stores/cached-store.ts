// CachedStore: puts any cache in front of any store.
import { EventEmitter } from 'node:events'
import { parse } from '../session/json.js'
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

/** Options of `CachedStore`, checked by its constructor. All durations are in milliseconds. */
export interface CachedStoreOptions {
  /**
   * The longest time that a session is served from the cache before it is read from the store again, in ms.
   * @default 60_000
   */
  ttl?: number | undefined
  /**
   * How long a call waits for the cache before it continues without it, in ms.
   * @default 1_000
   */
  timeout?: number | undefined
}

interface LoadedSession {
  readonly session: Session
  /** The remaining life in ms; `undefined` if the store doesn't say. */
  readonly ttl: number | undefined
}

const defaults = { ttl: 60_000, timeout: 1_000 }

/**
 * Puts a cache in front of a store.
 *
 * The store is authoritative. `set` and `destroy` change the store first and then invalidate the cached session. A `get` that
 * misses the cache reads from the store and fills the cache, unless the session was changed in the meantime. A cache that
 * fails or times out is bypassed, and the event `warning` is emitted; a session whose invalidation failed is read from the
 * store until the invalidation succeeds. So within one process, all guarantees of the store hold.
 *
 * Across processes they don't, whether each has a cache or all share one: nothing notifies a cache of a change made by another
 * process, so a changed or destroyed session may be served for up to `ttl`. `PgStore` has its own cache, which is notified:
 * prefer it to a `MemoryStore` in front of a `PgStore`. With a store that has no `getWithTtl`, an expired session may also be
 * served for up to `ttl`.
 *
 * @example
 * const store = new CachedStore(new PgStore(url), new RedisStore({ url: redisUrl }), { ttl: 5_000 })
 * store.on('warning', (error) => console.error(error.message))
 */
export class CachedStore extends EventEmitter<{ warning: [Error] }> implements SessionStore {
  readonly #store: SessionStore
  readonly #cache: GuardedCache
  readonly #ttl: number

  /**
   * `now` is a monotonic clock in ms, which tests replace.
   * @throws {TypeError} if `store` or `cache` lacks a method, or an option is unknown or of the wrong type
   * @throws {RangeError} if an option is out of range
   */
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
   * Resolves with the session, from the cache or the store, or with `undefined`. The object is the caller's own. Passes the
   * middlewares' further arguments on to the store, and rejects as the store does.
   */
  get<T extends object = Session>(sid: string, ...context: unknown[]): Yieldable<T | undefined> {
    return yieldable(this.#find(sid, context).then((found) => found?.session as T | undefined))
  }

  /** Resolves with the session and its remaining life in ms, at least; 0 if the store doesn't say. */
  async getWithTtl(sid: string, ...context: unknown[]): Promise<SessionWithTtl | undefined> {
    const found = await this.#find(sid, context)
    return found && { session: found.session, ttl: found.ttl ?? 0 }
  }

  async #find(sid: string, context: unknown[]): Promise<LoadedSession | undefined> {
    assertSessionId(sid)
    const read = this.#cache.read(sid)
    try {
      const cached = await read.find()
      const session = cached && parse(cached.json)
      if (cached !== undefined && session !== undefined) {
        const ttlMs = cached.ttlMs ?? undefined
        // The entry may be up to cacheTtlMs old, so that is subtracted. koa-session gets the larger figure: it must not
        // treat an active session as expired.
        const ttl = ttlMs === undefined ? undefined : ttlMs - cached.cacheTtlMs
        return { session: fromStored(session, ttlMs), ttl }
      }
      const loaded = await this.#load(sid, context)
      if (loaded !== undefined) {
        // Rounded down, as a cache may count in whole seconds and must not keep a session after its expiry.
        const cacheTtlMs = Math.min(this.#ttl, Math.floor((loaded.ttl ?? this.#ttl) / 1000) * 1000)
        const json = toStored(loaded.session)
        if (cacheTtlMs > 0) read.fill({ json, ttlMs: loaded.ttl ?? null, cacheTtlMs })
      }
      return loaded
    } finally {
      read.end()
    }
  }

  async #load(sid: string, context: unknown[]): Promise<LoadedSession | undefined> {
    if (this.#store.getWithTtl !== undefined) return this.#store.getWithTtl(sid, ...context)
    const session = await this.#store.get(sid, ...context)
    // Stores of other packages may resolve with null.
    return session ? { session, ttl: undefined } : undefined
  }

  /** Saves a session in the store, and then invalidates the cached one. Rejects as the store does. */
  set(sid: string, session: object, ttl?: Ttl, ...context: unknown[]): Yieldable<void> {
    return yieldable(this.#set(sid, session, ttl, context))
  }

  async #set(sid: string, session: object, ttl: Ttl, context: unknown[]): Promise<void> {
    assertSessionId(sid)
    // Invalidated rather than updated: the store may have merged the session, or ignored the save of a destroyed one.
    await this.#cache.change(sid, 'forget', () => this.#store.set(sid, session, ttl, ...context))
  }

  /** Destroys a session in the store, and then in the cache. */
  destroy(sid: string, ...context: unknown[]): Yieldable<void> {
    return yieldable(this.#destroy(sid, context))
  }

  async #destroy(sid: string, context: unknown[]): Promise<void> {
    assertSessionId(sid)
    await this.#cache.change(sid, 'destroy', () => this.#store.destroy(sid, ...context))
  }

  /**
   * Moves the session's expiry in the store.
   * @throws {TypeError} if the store has no method `touch`
   */
  async touch(sid: string, ttl?: Ttl): Promise<void> {
    assertSessionId(sid)
    if (this.#store.touch === undefined) throw new TypeError('the store behind the cache has no method touch')
    await this.#store.touch(sid, ttl)
  }

  /** Saves a new session in the store and resolves with its id of 192 random bits. */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.#set(sid, session, ttl, [])
    return sid
  }
}
