// The contract of a session store, and the types in its signatures.

/** A session: a plain object whose attributes JSON can hold. */
export type Session = Record<string, unknown>

/**
 * A time to live in milliseconds. `undefined`, `null`, `NaN` and koa-session's `'session'`, which the middlewares pass when
 * they know none, mean the store's own `ttl`. 0 or less means already expired, and more than 100 years means 100 years.
 */
export type Ttl = number | 'session' | null | undefined

/**
 * A promise that generators may also `yield`, or delegate to with `yield*`, as `koa-generic-session` 1 and applications
 * written for `koa-pg-session` do.
 */
export type Yieldable<T> = Promise<T> & { [Symbol.iterator](): Generator<Promise<T>, T, unknown> }

/**
 * A session store, as `koa-generic-session` and `koa-session` use it: `PgStore`, `MemoryStore`, `CachedStore`, or your own.
 * Every store keeps these rules:
 *
 * - `get` resolves with `undefined` for a session that doesn't exist or has expired. If it can't find out, it rejects: a
 *   failure must not look like a missing session, because that would sign the user out.
 * - When `set` or `destroy` resolves, the change is made, and every later `get` in this process sees it. A `set` replaces the
 *   whole session or nothing of it; a session that it refuses leaves the stored one unchanged.
 * - `get` resolves with an object of the caller's own, as JSON would restore it. The object passed to `set` may be changed as
 *   soon as the call has returned.
 * - A session expires `ttl` ms after its last `set`. A `touch` moves the expiry later, never earlier. A `set` with a `ttl` of 0
 *   or less leaves no session.
 * - Destroying or touching a session that doesn't exist is a no-op. Logout wins: for an hour after `destroy`, a `set` or
 *   `touch` of that id resolves without doing anything, whether it was called before or after.
 * - An empty session id or one that isn't a string, a session that isn't an object or that JSON can't hold, and an invalid
 *   `ttl` are rejected with a `TypeError`. Errors and events contain neither session ids nor session data.
 *
 * The tests in test/stores/contract.ts check these rules against every store of this package.
 */
export interface SessionStore {
  /** Resolves with the session, or `undefined`. A store may use or ignore what the middlewares pass besides the id. */
  get(sid: string, ...context: unknown[]): Promise<Session | undefined>
  /** Saves a session, to expire in `ttl` ms. */
  set(sid: string, session: object, ttl?: Ttl, ...context: unknown[]): Promise<void>
  /** Destroys a session. */
  destroy(sid: string, ...context: unknown[]): Promise<void>
  /** Optional: moves the expiry of an existing session to `ttl` ms from now, never earlier. */
  touch?(sid: string, ttl?: Ttl): Promise<void>
  /** Optional: resolves with the session and its remaining life. A `CachedStore` uses it to expire sessions on time. */
  getWithTtl?(sid: string, ...context: unknown[]): Promise<SessionWithTtl | undefined>
}

/** A session and its remaining life. */
export interface SessionWithTtl {
  readonly session: Session
  /** The time until the session expires, in ms. It may expire later, but not earlier unless it is changed. */
  readonly ttl: number
}

/**
 * What `CachedStore` requires of its cache, which is less than a store guarantees: it may fail, drop entries, or resolve with
 * `null`. Any `SessionStore` fits, and so does `koa-redis`.
 */
export interface SessionCache {
  get(sid: string): PromiseLike<object | null | undefined>
  set(sid: string, session: object, ttl: number): PromiseLike<unknown>
  destroy(sid: string): PromiseLike<unknown>
}

/**
 * Options of a single `get`.
 *
 * @example
 * await store.get(sid, { fresh: true })
 */
export interface GetOptions {
  /**
   * Read from the database even if the session is cached.
   * @default false
   */
  fresh?: boolean | undefined
}
