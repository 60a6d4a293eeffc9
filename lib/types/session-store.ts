// The contract of a session store, and the types in its signatures.
/** A session: a plain object whose attributes JSON can hold. */
export type Session = Record<string, unknown>

/**
 * A time to live in milliseconds. What the middlewares send when they know none (`undefined`, `null`, `NaN`,
 * koa-session's `'session'`) means the option `ttl`; 0 and less, expired at once; more than 100 years, 100 years.
 */
export type Ttl = number | 'session' | null | undefined

/**
 * A promise that generators may `yield` and, by its iterator, delegate to with `yield*`: the calling conventions of
 * `koa-generic-session` 1 and of `koa-pg-session`.
 */
export type Yieldable<T> = Promise<T> & { [Symbol.iterator](): Generator<Promise<T>, T, unknown> }

/**
 * A session store, as `koa-generic-session` and `koa-session` use one: `PgStore`, `MemoryStore`, `CachedStore`, or yours.
 * What every store keeps:
 *
 * - A session that isn't there, or has expired, is `undefined`. A `get` that can't know rejects: it never says that there
 *   is none because something failed, for that would sign a person out.
 * - When `set` or `destroy` resolves, it is done, and every later `get` of this process sees it. A `set` replaces all of
 *   the session, or rejects and leaves what was there.
 * - What `get` answers is the caller's own, as JSON would give it back; what `set` was given may be changed as soon as it
 *   has returned.
 * - A session lives for `ttl` ms from its last `set`; a `touch` makes that later, never earlier. Of a `set` with a `ttl` of
 *   0 or less nothing is left. What `Ttl` calls unknown (`undefined`, `null`, `NaN`, `'session'`) is the store's own ttl.
 * - To destroy or touch what isn't there is a no-op. Logout wins: for an hour after it was destroyed, no `set` or `touch`
 *   brings a session back, whether it was under way or comes late; they resolve and do nothing.
 * - A session id that isn't a string or is empty, a session that isn't an object or that JSON can't hold, and a `ttl` that
 *   is no `Ttl` are a `TypeError`. Neither ids nor what is in a session are in errors and events.
 *
 * The contract's tests are run against every store of this package (test/stores/contract.ts).
 */
export interface SessionStore {
  /** The session, or `undefined`. What the middlewares pass beyond the id is for the store to use or to ignore. */
  get(sid: string, ...context: unknown[]): Promise<Session | undefined>
  /** Saves a session for `ttl` ms from now. */
  set(sid: string, session: object, ttl?: Ttl, ...context: unknown[]): Promise<void>
  /** Ends a session. */
  destroy(sid: string, ...context: unknown[]): Promise<void>
  /** Optional: moves the expiry of a session that is there to `ttl` ms from now, never back. */
  touch?(sid: string, ttl?: Ttl): Promise<void>
  /** Optional: the session with how long it has to live. A `CachedStore` needs it to forget no later than the store. */
  getWithTtl?(sid: string, ...context: unknown[]): Promise<SessionWithTtl | undefined>
}

export interface SessionWithTtl {
  readonly session: Session
  /** Milliseconds that it has to live at least, unless somebody changes it. */
  readonly ttl: number
}

/**
 * What a `CachedStore` asks of its cache, which is less than of a store: it may fail, forget, or answer `null`. Any
 * `SessionStore` will do, and so will `koa-redis`.
 */
export interface SessionCache {
  get(sid: string): PromiseLike<object | null | undefined>
  set(sid: string, session: object, ttl: number): PromiseLike<unknown>
  destroy(sid: string): PromiseLike<unknown>
}

/** How one call of `get` differs from others. */
export interface GetOptions {
  /** Ask the database, whatever is cached. */
  fresh?: boolean | undefined
}
