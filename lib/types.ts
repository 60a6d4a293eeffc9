// What a user of the package, and TypeScript, call things.
import type { Pool, PoolConfig } from 'pg'

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
  /** The largest session, in bytes of its JSON in UTF-8. Default 1 MiB. */
  maxBytes?: number | undefined
  /**
   * Keep SHA-256 digests of session ids in the table, so that who reads it can't take a session over. Default `true`;
   * `false` for a table that older software shares.
   */
  hashIds?: boolean | undefined
}
