// FallbackStore: takes sessions over from an old store, each when it is first used.
import { EventEmitter } from 'node:events'
import { ttlInside, withKoaCookie } from '../session/other-stores.js'
import { assertSessionId, createId } from '../session/session-id.js'
import type {
  Session,
  SessionCache,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from '../types/session-store.js'
import { withTimeout } from '../util/timeout.js'
import { assertBoolean, assertDuration, describe, invalidType, withDefaults } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'

/** Options of `FallbackStore`, checked by its constructor. All durations are in milliseconds. */
export interface FallbackStoreOptions {
  /**
   * Leave sessions in the old store when they have been copied, because processes without a `FallbackStore` still use it.
   * Without such processes, set it to `false`: a session that is destroyed by its user or handle, or that expires, could
   * otherwise be copied again.
   * @default false
   */
  keep?: boolean | undefined
  /**
   * Returns how long a session of the old store may still live, in ms; -1 or `undefined` means the store's own
   * `ttl`. For Redis: `(sid) => redis.pttl(sid)`.
   * @default what `old.getWithTtl` returns, or what koa-session, koa-generic-session or express-session wrote into the session
   */
  ttl?: ((sid: string, session: Session) => Ttl | PromiseLike<Ttl>) | undefined
  /**
   * How long a call of the old store may take, in ms.
   * @default 5_000
   */
  timeout?: number | undefined
}

/** A `SessionStore` that can take a session over: `PgStore`. */
interface AddingStore extends SessionStore {
  add(sid: string, session: object, ttl?: Ttl): Promise<boolean>
}

/** The old store: any `SessionStore`, `koa-redis`, or an object with these two methods. */
interface OldStore extends Pick<SessionCache, 'get' | 'destroy'> {
  getWithTtl?: SessionStore['getWithTtl']
}

const defaults = { keep: false, ttl: undefined as FallbackStoreOptions['ttl'], timeout: 5_000 }

/**
 * Replaces a store by another one while the application runs. A session that is missing in the store is read from the old
 * store once and copied, unless it was destroyed or has come into the store in the meantime; then the old store's copy is
 * destroyed. Everything is saved in the store alone. `destroy` destroys the session in both.
 *
 * While the old store can't be reached, sessions of the store itself are served, and `get` rejects for others: it can't know
 * whether they exist. The event `warning` reports a copied session that the old store could not destroy. Methods that aren't
 * here, such as `destroySessionsOf`, are the store's own and don't reach sessions that are only in the old one.
 *
 * @example
 * const old = new RedisStore({ url: redisUrl })
 * const store = new FallbackStore(new PgStore(url), old, { ttl: (sid) => old.client.pttl(sid) })
 * app.use(session({ store }))
 */
export class FallbackStore extends EventEmitter<{ warning: [Error] }> implements SessionStore {
  readonly #store: AddingStore
  readonly #old: OldStore
  readonly #keep: boolean
  readonly #ttl: FallbackStoreOptions['ttl']
  readonly #timeout: number

  /**
   * @throws {TypeError} if `store` or `old` lacks a method, or an option is unknown or of the wrong type
   * @throws {RangeError} if `timeout` is out of range
   */
  constructor(store: AddingStore, old: OldStore, options: FallbackStoreOptions = {}) {
    super()
    assertMethods('store', store, ['get', 'set', 'touch', 'destroy', 'add'])
    assertMethods('old', old, ['get', 'destroy'])
    const { keep, ttl, timeout } = withDefaults('options', defaults, options)
    assertBoolean('keep', keep)
    if (ttl !== undefined && typeof ttl !== 'function') invalidType('ttl', 'a function', ttl)
    assertDuration('timeout', timeout)
    this.#store = store
    this.#old = old
    this.#keep = keep
    this.#ttl = ttl
    this.#timeout = timeout
  }

  /**
   * Returns the session, copied from the old store if it was there, or `undefined`. Passes the middlewares' further arguments
   * on to the store. Rejects if a store does that has to be asked.
   */
  get<T extends object = Session>(sid: string, ...context: unknown[]): Yieldable<T | undefined> {
    const read = async () => (await this.#store.get(sid, ...context)) as T | undefined
    return yieldable(this.#find(sid, read))
  }

  /** Returns the session and its remaining life in ms; 0 if the store doesn't say. */
  getWithTtl(sid: string, ...context: unknown[]): Promise<SessionWithTtl | undefined> {
    return this.#find(sid, async () => {
      if (this.#store.getWithTtl !== undefined) return this.#store.getWithTtl(sid, ...context)
      const session = await this.#store.get(sid, ...context)
      return session && { session, ttl: 0 }
    })
  }

  async #find<T>(sid: string, read: () => Promise<T | undefined>): Promise<T | undefined> {
    assertSessionId(sid)
    const found = await read()
    if (found !== undefined) return found
    await this.#copy(sid)
    // Also if the old store had nothing: another instance may have taken the session over since the first read.
    return read()
  }

  /** Copies a session from the old store, if it is there. */
  async #copy(sid: string): Promise<void> {
    const found = await this.#callOld(this.#readOld(sid))
    if (found === undefined) return
    await this.#store.add(sid, withKoaCookie(found.session), found.ttl)
    if (!this.#keep)
      await this.#callOld(this.#old.destroy(sid)).catch((error: Error) => {
        this.emit('warning', new Error(`the old store still has a copied session: ${error.message}`))
      })
  }

  async #readOld(sid: string): Promise<{ session: Session; ttl: Ttl } | undefined> {
    if (this.#ttl === undefined && this.#old.getWithTtl !== undefined) return this.#old.getWithTtl(sid)
    const session = (await this.#old.get(sid)) as Session | null | undefined
    if (typeof session !== 'object' || session === null) return undefined
    if (this.#ttl === undefined) return { session, ttl: ttlInside(session) }
    const ttl = await this.#ttl(sid, session)
    return { session, ttl: ttl === -1 ? undefined : ttl }
  }

  #callOld<T>(call: PromiseLike<T>): Promise<T> {
    return withTimeout(call, this.#timeout, 'the old store did not answer')
  }

  /** Saves a session in the store. Rejects as the store does. */
  set(sid: string, session: object, ttl?: Ttl, ...context: unknown[]): Yieldable<void> {
    return yieldable(this.#store.set(sid, session, ttl, ...context))
  }

  /** Destroys a session in both stores. If one of them fails, it is destroyed in the other one, and the call rejects. */
  destroy(sid: string, ...context: unknown[]): Yieldable<void> {
    return yieldable(this.#destroy(sid, context))
  }

  async #destroy(sid: string, context: unknown[]): Promise<void> {
    assertSessionId(sid)
    try {
      // Copied first if it isn't here yet: what the store has destroyed can't be copied again by a request in flight.
      if ((await this.#store.get(sid)) === undefined) await this.#copy(sid)
      await this.#store.destroy(sid, ...context)
    } finally {
      await this.#callOld(this.#old.destroy(sid))
    }
  }

  /** Moves the session's expiry in the store. */
  async touch(sid: string, ttl?: Ttl): Promise<void> {
    await this.#store.touch?.(sid, ttl)
  }

  /** Saves a new session in the store and resolves with its id of 192 random bits. */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.#store.set(sid, session, ttl)
    return sid
  }
}

function assertMethods(name: string, value: unknown, methods: readonly string[]): void {
  for (const method of methods)
    if (typeof Object(value)[method] !== 'function')
      throw new TypeError(`${name} must have the methods ${methods.join(', ')}; received ${describe(value)}`)
}
