// The options of PgStore, and the interfaces that a user implements for them.
import type { ClientConfig, Pool, PoolConfig } from 'pg'
import type { ExpiredSession } from './results.js'
import type { Session } from './session-store.js'

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

/** What a codec is told beside the value. */
export interface CodecContext {
  /**
   * The stored id: a digest of the session id. The same for every save of a session, another for every session, and not
   * a secret.
   */
  readonly id: string
}

/**
 * Turns a session into what its column is to hold, and back. Both are objects that JSON can hold; SQL sees the latter. May
 * answer a promise. What `decode` can't make a session of, it throws; it never answers another session instead.
 */
export interface Codec {
  encode(value: object, context: CodecContext): object | PromiseLike<object>
  decode(value: object, context: CodecContext): object | PromiseLike<object>
}
