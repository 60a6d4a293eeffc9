// What a user of the package, and TypeScript, call things.

import type { ClientConfig, Pool, PoolConfig } from 'pg'
import type { Codec } from '../codec/codec.js'

/** A session: a plain object whose attributes JSON can hold. */
export type Session = Record<string, unknown>

/** A row as the database answers it. */
export type Row = Record<string, unknown>

/**
 * Runs one statement with its values (`$1`, `$2`, …) and answers the rows, bare or as `{ rows }` as `pg` does.
 * Each call may run on another connection.
 */
export type QueryFunction = (
  text: string,
  values: unknown[],
) => PromiseLike<readonly Row[] | { readonly rows: readonly Row[] }>

/**
 * Where the database is: a connection string, a configuration as `pg.Pool` takes it, a `pg.Pool` of yours (used, never
 * ended), or a function that runs a statement.
 */
export type ConnectionSource = string | PoolConfig | Pool | QueryFunction

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

/** Options of `PgStore`; each is checked when the store is made. All durations are in milliseconds. */
export interface PgStoreOptions {
  /** The schema of the session table. Default `'public'`. */
  schema?: string | undefined
  /** The name of the session table. Default `'session'`. */
  table?: string | undefined
  /** Create or upgrade schema and table at setup; `false`: use what is there. Default `true`. */
  create?: boolean | undefined
  /** How long a session lives when the middleware doesn't say. Default a day. */
  ttl?: number | undefined
  /** Expire a session this long after its creation, whatever happens. Default: no such limit. */
  maxLifetime?: number | undefined
  /** Expire a session neither read nor written for this long. Default: no such limit. */
  idleTimeout?: number | undefined
  /**
   * How often a session's later expiry and last access are written at most, and how many in one statement. Default
   * `{ interval: 60_000, batchSize: 5_000 }`; an interval of 0 writes each at once. What waits is written before a quarter
   * of the session's remaining life is over, and by `close()`.
   */
  touch?: { interval?: number | undefined; batchSize?: number | undefined } | undefined
  /**
   * What becomes of a save when somebody else has changed the session since it was loaded. `'merge'`, the default: each
   * attribute that the save changed is saved, the others stay as they are there. `'last-write'`: the session is replaced.
   * `'reject'`: the save rejects with a `ConflictError`. A session that didn't come from `get`, as after
   * `ctx.session = { … }`, replaces whatever is there.
   */
  concurrency?: 'merge' | 'last-write' | 'reject' | undefined
  /**
   * Whose a session is: a string or number, or `undefined`. Default: its `userId`, `user.id` or `passport.user`, the first
   * that is one. Called at each save; what it throws, the save rejects with.
   */
  userId?: ((session: Session) => string | number | null | undefined) | undefined
  /**
   * How many sessions a user may have. When another comes to belong to a user who has so many, the longest unused are
   * destroyed. Default: no such limit.
   */
  maxSessionsPerUser?: number | undefined
  /**
   * When to delete what has expired, one instance of all at a time: a cron expression, `false` (only `sweep()` does), or
   * an object. Default: every 15 minutes.
   */
  cleanup?: string | false | CleanupOptions | undefined
  /** Instead of a cron expression: sweep every so many ms, as `koa-pg-session` does. */
  cleanupTime?: number | undefined
  /** The largest session, in bytes of its JSON in UTF-8. Default 1 MiB. */
  maxBytes?: number | undefined
  /** The largest attribute of a session, in bytes of its JSON in UTF-8. Default: no limit of its own. */
  maxAttributeBytes?: number | undefined
  /**
   * Keep SHA-256 digests of session ids in the table, so that who reads it can't take a session over. Default `true`;
   * `false` for a table that older software shares.
   */
  hashIds?: boolean | undefined
  /**
   * Answer sessions from memory while what other processes change is heard at once; `false`: ask the database every time.
   * What can't hear (a query function, `listen: false`, a pooler that swallows notifications) asks the database every
   * time too, unless a `ttl` is given here: then that is the only bound on how old an answer may be.
   */
  cache?: CacheOptions | false | undefined
  /**
   * A connection for LISTEN where `connection` goes through a pooler; `false`: none. Default: one of its own as
   * `connection` says.
   */
  listen?: string | ClientConfig | false | undefined
  /**
   * What stands between a session and its column: `encrypted`, `compressed` or a codec of your own, or several, from the
   * session to the column. The user id and the times stay readable to SQL. Default: none, the column holds the session.
   */
  codec?: Codec | readonly Codec[] | undefined
  /**
   * Use named prepared statements, which spare PostgreSQL the parsing and planning. Default `true`: where a pooler turns
   * out not to keep them, the store goes on without. `false`: don't try.
   */
  prepare?: boolean | undefined
}

export interface CacheOptions {
  /** How many sessions at most. Default 10,000. */
  max?: number | undefined
  /** How many characters of JSON at most. Default 64 Mi. */
  maxBytes?: number | undefined
  /** How long a session may be answered from memory; 0: not at all. Default a minute. */
  ttl?: number | undefined
  /** What to do with a cached session that another process changed: drop it, or read it again. Default `'invalidate'`. */
  propagate?: 'invalidate' | 'update' | undefined
  /**
   * How old an answer may be in trouble: a cache whose listener has not proved itself for so long isn't used. In health
   * it hears of a change within milliseconds. Default 5 seconds.
   */
  maxStaleness?: number | undefined
}

export interface CleanupOptions {
  /** Five fields, or six with seconds first. Default every 15 minutes; `false`: only `sweep()` sweeps. */
  cron?: string | false | undefined
  /** The time zone of the expression, such as `'Europe/Berlin'`. Default the process's. */
  timezone?: string | undefined
  /** How many sessions one statement deletes, about. Default 5,000. */
  batchSize?: number | undefined
  /** How long, in ms, a session stays in the table after it has expired. Default 0. */
  grace?: number | undefined
  /**
   * Gets each expired session before it is deleted, one after the other, and is awaited. One for which it throws or
   * rejects stays for the next sweep. May get a session twice, if the process or the database fails in between.
   */
  onExpired?: ((session: ExpiredSession) => unknown) | undefined
}

/** A session that has expired, without its id. What the table has no column for is `undefined`. */
export interface ExpiredSession {
  readonly session: Session
  readonly userId: string | undefined
  readonly createdAt: Date | undefined
  /** Written now and then; see the option `touch`. */
  readonly lastAccess: Date | undefined
  readonly expiry: Date
}

/** What a sweep did. */
export interface SweepResult {
  /** Rows: sessions, and the marks of those destroyed more than an hour ago. */
  readonly deleted: number
  readonly batches: number
  readonly ms: number
}

/** How one call of `get` differs from others. */
export interface GetOptions {
  /** Ask the database, whatever is cached. */
  fresh?: boolean | undefined
}

/** Two changes of one session met; the event `conflict`. Names attributes, never their content. */
export interface Conflict {
  readonly outcome: 'merged' | 'rejected'
  /** Attributes that both had changed, each to something else: the later save's value is there now. */
  readonly overwritten: readonly string[]
}

/** A session as its user, or an operator, is told of it. */
export interface SessionInfo {
  /** Names the session to `revoke`, and opens nothing: it isn't the session's id. */
  readonly handle: string
  readonly userId: string | undefined
  readonly session: Session
  readonly createdAt: Date | undefined
  /** Written now and then; see the option `touch`. */
  readonly lastAccess: Date | undefined
  /** `idleTimeout` may end it earlier. */
  readonly expiry: Date
}

/** What the store did and knows; numbers count from the store's beginning. */
export interface Stats {
  /** `false` where nothing is cached. */
  readonly cache: false | CacheStats
  /**
   * Notifications of changes, by this store and to it, and how full the server's queue of them is (0 to 1; full, it
   * fails commits; `undefined` where the database doesn't answer).
   */
  readonly notifications: {
    readonly sent: number
    readonly received: number
    readonly queueUsage: number | undefined
  }
  /** How often a save met somebody else's change of the session. */
  readonly conflicts: number
  /** How often the listener lost its connection or couldn't get one. */
  readonly reconnects: number
  /**
   * Whether changes made past the store are heard of: the table has the triggers of sql/006-notify.sql. `undefined` before
   * the first use.
   */
  readonly triggers: boolean | undefined
}

export interface CacheStats {
  readonly hits: number
  readonly misses: number
  /** Sessions held. */
  readonly size: number
  /** Characters of JSON held. */
  readonly bytes: number
  /** Whether it is answered from now. */
  readonly trusted: boolean
  /** How long ago, in ms, the listener last proved itself; `undefined` if it has not, or there is none. */
  readonly proofAge: number | undefined
}
