// The options of PgStore, and the interfaces that a user implements for them.
import type { ClientConfig, Pool, PoolConfig } from 'pg'
import type { ExpiredSession } from './results.js'
import type { Session } from './session-store.js'

/** A row as the database returns it. */
export type Row = Record<string, unknown>

/**
 * Runs one statement with its values (`$1`, `$2`, …) and resolves with the rows, either as an array or as `{ rows }`, like
 * `pg` does. Each call may use another connection.
 *
 * @example
 * new PgStore((text, values) => client.query(text, values), { cache: { ttl: 5_000 } })
 */
export type QueryFunction = (
  text: string,
  values: unknown[],
) => PromiseLike<readonly Row[] | { readonly rows: readonly Row[] }>

/**
 * How to reach the database: a connection string, a configuration object as `pg.Pool` takes it, an existing `pg.Pool` (never
 * closed by the store), or a function that runs a statement. Without any, `DATABASE_URL` or, if that isn't set, libpq's
 * variables (`PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`) say where it is.
 */
export type ConnectionSource = string | PoolConfig | Pool | QueryFunction

/**
 * Options of `PgStore`, checked by its constructor. All durations are in milliseconds.
 *
 * @example
 * new PgStore(url, { ttl: 7 * 24 * 60 * 60 * 1000, maxSessionsPerUser: 5, cleanup: '0 3 * * *' })
 */
export interface PgStoreOptions<T extends object = Session> {
  /**
   * The schema of the session table.
   * @default 'public'
   */
  schema?: string | undefined
  /**
   * The name of the session table.
   * @default 'session'
   */
  table?: string | undefined
  /**
   * Create or upgrade the schema and the table during setup. `false`: use the table as it is.
   * @default true
   */
  create?: boolean | undefined
  /**
   * The lifetime of a session, in ms, when the middleware passes none.
   * @default 86_400_000 (1 day)
   */
  ttl?: number | undefined
  /**
   * Expire a session this many ms after its creation, however often it is used. At most 100 years.
   * @default undefined (no limit)
   */
  maxLifetime?: number | undefined
  /**
   * Expire a session that was neither read nor written for this many ms. At most 100 years.
   * @default undefined (no limit)
   */
  idleTimeout?: number | undefined
  /**
   * How touches are written. A session's new expiry and last access are written at most once per `interval` ms (at most a
   * day; 0: immediately), and one statement updates up to `batchSize` sessions. A pending touch is written before a quarter
   * of the session's remaining life has passed, and by `close()`.
   * @default { interval: 60_000, batchSize: 5_000 }
   */
  touch?: { interval?: number | undefined; batchSize?: number | undefined } | undefined
  /**
   * What to do when another request changed the session since it was loaded. `'merge'` saves the attributes that this
   * request changed and keeps the others. `'last-write'` replaces the whole session. `'reject'` makes the save reject with a
   * `ConflictError`. An object that was not loaded by `get`, as after `ctx.session = { … }`, always replaces the session.
   * @default 'merge'
   */
  concurrency?: 'merge' | 'last-write' | 'reject' | undefined
  /**
   * Returns the user that a session belongs to, or `undefined`. Called by each save, which rejects with whatever the function
   * throws.
   * @default the first of `userId`, `user.id` and `passport.user` that is a string or a number
   * @example
   * userId: (session) => session.account?.email
   */
  userId?: ((session: T) => string | number | null | undefined) | undefined
  /**
   * The maximum number of sessions of one user. When a sign-in exceeds it, the user's least recently used sessions are
   * destroyed.
   * @default undefined (no limit)
   */
  maxSessionsPerUser?: number | undefined
  /**
   * When to delete expired sessions: a cron expression, `false` (only when `sweep()` is called) or an object. One instance
   * sweeps at a time.
   * @default '*\/15 * * * *' (every 15 minutes)
   * @example
   * cleanup: { cron: '0 3 * * *', timezone: 'Europe/Berlin' }
   */
  cleanup?: string | false | CleanupOptions<T> | undefined
  /**
   * Sweep every this many ms, instead of by a cron expression; the name is `koa-pg-session`'s. Less than 2^31.
   * @default undefined
   */
  cleanupTime?: number | undefined
  /**
   * The maximum size of a session, in bytes of its JSON in UTF-8. A larger one is rejected with a `SessionTooLargeError`.
   * @default 1_048_576 (1 MiB)
   */
  maxBytes?: number | undefined
  /**
   * The maximum size of each attribute of a session, in bytes of its JSON in UTF-8.
   * @default undefined (no limit besides `maxBytes`)
   */
  maxAttributeBytes?: number | undefined
  /**
   * Store SHA-256 digests of session ids, so that whoever reads the table can't take over a session. Use `false` for a table
   * that `koa-pg-session` uses as well. Stores with either find all sessions of a table. On a table of digests, `false` has no
   * effect.
   * @default true
   */
  hashIds?: boolean | undefined
  /**
   * Keep sessions in memory, and drop those that another process changes. `false`: read from the database every time.
   *
   * Where notifications can't be received (a query function, `listen: false`, a pooler in transaction mode) nothing is cached,
   * unless a `ttl` is given here: then reads may be stale for up to `ttl` ms.
   * @default { max: 10_000, maxBytes: 67_108_864, ttl: 60_000, propagate: 'invalidate', maxStaleness: 5_000 }
   */
  cache?: CacheOptions | false | undefined
  /**
   * A direct connection for LISTEN, needed where `connection` goes through a pooler in transaction mode or is a query
   * function. `false`: don't listen.
   * @default a separate connection to the server that `connection` names
   */
  listen?: string | ClientConfig | false | undefined
  /**
   * Transforms a session before it is stored, and back: `encrypted`, `compressed` or a codec of your own, or several of them,
   * applied in this order. The user id and the times stay readable in SQL.
   * @default undefined (the column holds the session's JSON)
   * @example
   * codec: [compressed(), encrypted({ keys: [{ id: '2026', key: process.env.SESSION_KEY_2026 }] })]
   */
  codec?: Codec | readonly Codec[] | undefined
  /**
   * Use named prepared statements, which save PostgreSQL parsing and planning, until a pooler rejects them. `false`: never.
   * @default true
   */
  prepare?: boolean | undefined
}

/** The option `cache`. */
export interface CacheOptions {
  /**
   * The maximum number of cached sessions.
   * @default 10_000
   */
  max?: number | undefined
  /**
   * The maximum size of the cached sessions, in characters of their JSON: one byte each for Latin-1 text, two otherwise.
   * @default 67_108_864 (64 Mi)
   */
  maxBytes?: number | undefined
  /**
   * How long a session may be served from memory, in ms; 0 disables the cache. Where notifications can't be received, setting
   * it enables the cache and makes it the only bound on staleness.
   * @default 60_000
   */
  ttl?: number | undefined
  /**
   * What to do with a cached session that another process changed: drop it (`'invalidate'`) or load it again (`'update'`).
   * @default 'invalidate'
   */
  propagate?: 'invalidate' | 'update' | undefined
  /**
   * The maximum staleness, in ms, if the LISTEN connection fails: without a heartbeat for this long, the cache is bypassed.
   * While the connection works, changes arrive within milliseconds. Between 100 and 3,600,000.
   * @default 5_000
   */
  maxStaleness?: number | undefined
}

/** The option `cleanup`. */
export interface CleanupOptions<T extends object = Session> {
  /**
   * When to sweep: five fields, or six with seconds first. `false`: only when `sweep()` is called.
   * @default '*\/15 * * * *'
   */
  cron?: string | false | undefined
  /**
   * The time zone of `cron`, such as `'Europe/Berlin'`.
   * @default the time zone of the process
   */
  timezone?: string | undefined
  /**
   * About how many sessions one statement deletes.
   * @default 5_000
   */
  batchSize?: number | undefined
  /**
   * How long an expired session stays in the table, in ms. At most 100 years.
   * @default 0
   */
  grace?: number | undefined
  /**
   * Called with each expired session before it is deleted, one at a time, and awaited. If it throws or rejects, the session
   * stays until the next sweep. May receive a session twice if the process or the database fails in between.
   * @default undefined
   */
  onExpired?: ((session: ExpiredSession<T>) => unknown) | undefined
}

/** What a codec receives besides the value. */
export interface CodecContext {
  /** A digest of the session id: the same in every save of a session, different for every session, and not secret. */
  readonly id: string
}

/**
 * Converts a session to the object that is stored in its column, and back. Both are objects that JSON can hold, and SQL sees
 * the stored one. Both methods may return a promise. `decode` throws if it can't restore the session that was encoded.
 *
 * @example
 * const signed: Codec = {
 *   name: 'signed',
 *   encode: (value, { id }) => ({ value, signature: sign(value, id) }),
 *   decode: (stored, { id }) => verify(stored, id),
 * }
 */
export interface Codec {
  /**
   * Stored with each session that the codec changes, as `{ '~codec': name, value }`, so that a store without the codec doesn't
   * take it for a session. Needed for `decodeOnly`.
   * @default ''
   */
  readonly name?: string | undefined
  encode(value: object, context: CodecContext): object | PromiseLike<object>
  decode(value: object, context: CodecContext): object | PromiseLike<object>
}
