// What the methods and events of PgStore return: sessions in lists, sweeps, conflicts, statistics.
import type { DatabaseErrorCode, DecodeError } from './errors.js'
import type { Session } from './session-store.js'

/** An expired session, without its id, as `onExpired` and the event `expire` receive it. A column that the table lacks is `undefined`. */
export interface ExpiredSession<T extends object = Session> {
  /** Identifies the session, as in lists. */
  readonly handle: string
  readonly session: T
  readonly userId: string | undefined
  readonly createdAt: Date | undefined
  /** Accurate to `touch.interval`. */
  readonly lastAccessedAt: Date | undefined
  readonly expiresAt: Date
}

/** What a sweep did; all 0 if another instance was sweeping. */
export interface SweepResult {
  /** The number of deleted rows: expired sessions, and tombstones of sessions destroyed more than an hour ago. */
  readonly deleted: number
  /** The number of statements that deleted them. */
  readonly batches: number
  /** The duration in ms. */
  readonly ms: number
}

/** Two requests changed one session, as the event `conflict` reports it: names of attributes, never their values. */
export interface Conflict {
  readonly outcome: 'merged' | 'rejected'
  /** The attributes that both requests changed to different values; the later save's value is stored. */
  readonly overwritten: readonly string[]
}

/** A new session, as the event `create` reports it. */
export interface CreatedSession {
  /** Identifies the session, as in lists. */
  readonly handle: string
  /** The user that the session belongs to from the start; `undefined` if it was created before a sign-in. */
  readonly userId: string | undefined
}

/** A session that has ended, as the events `destroy` and `revoke` report it. */
export interface DestroyedSession {
  /** Identifies the session, as in lists. */
  readonly handle: string
  readonly userId: string | undefined
  /**
   * `destroy`: `'logout'`, by the application's or the middleware's call of `destroy()`, or `'expired'`, found by a sweep.
   * `revoke`: `'revoked'`, by `revoke()`, `destroySessionsOf()` or `destroyAll()`, or `'limit'`, by `maxSessionsPerUser`.
   */
  readonly reason: 'logout' | 'expired' | 'revoked' | 'limit'
}

/** A session in a list, as `sessions()` and `sessionsOf()` return it. */
export interface SessionInfo<T extends object = Session> {
  /** Identifies the session in lists and in `revoke()`. It is not the session id and cannot be used as a cookie. */
  readonly handle: string
  readonly userId: string | undefined
  /** `undefined` if the session can't be decoded; `error` says why. */
  readonly session: T | undefined
  readonly error: DecodeError | undefined
  /** What the option `device` returned at the session's last save with a context; `undefined` without the option. */
  readonly device: unknown
  readonly createdAt: Date | undefined
  /** Accurate to `touch.interval`. */
  readonly lastAccessedAt: Date | undefined
  /** The session may expire earlier by `idleTimeout`. */
  readonly expiresAt: Date
}

/** What `stats()` resolves with. Counters start at 0 with each store. */
export interface Stats {
  /** `false` if the option `cache` is. */
  readonly cache: false | CacheStats
  readonly notifications: {
    /** The number of changes of which this store notified other instances. */
    readonly sent: number
    /** The number of notifications received, including this store's own. */
    readonly received: number
    /** How full the server's notification queue is, from 0 to 1; see the warning `KOA_PG_STORE_QUEUE`. `undefined` in an outage. */
    readonly queueUsage: number | undefined
  }
  /** The calls that didn't end in the cache, by method. A read that the cache serves is one of `cache.hits` instead. */
  readonly calls: {
    readonly get: CallStats
    readonly set: CallStats
    readonly touch: CallStats
    readonly destroy: CallStats
  }
  /** How many calls, of any method, rejected with a `DatabaseError`, by its code. A code that has not occurred is missing. */
  readonly errors: Partial<Readonly<Record<DatabaseErrorCode, number>>>
  readonly queue: {
    /** The number of calls that have not settled. From 20,000 on, further ones are refused. */
    readonly calls: number
    /** How long the oldest call that waits for those before it has waited, in ms. */
    readonly oldestWait: number
  }
  /** The sweeps of this instance, and the rows that they deleted. */
  readonly sweeps: { readonly count: number; readonly deleted: number }
  /** The number of saves that found the session changed by another request. */
  readonly conflicts: number
  readonly touches: {
    /** The number of touches that have not been written. */
    readonly pending: number
    /** The number of touches that had not been written when the store was closed. */
    readonly lost: number
  }
  /** The number of times that the LISTEN connection was lost or could not be opened. */
  readonly reconnects: number
  /**
   * Whether the table has the triggers of sql/006-notify.sql, which send notifications for changes made outside the store.
   * `undefined` before the first use.
   */
  readonly triggers: boolean | undefined
}

/** The calls of one method in `stats()`. */
export interface CallStats {
  /** The number of calls that have ended. */
  readonly count: number
  /** How many of them rejected. */
  readonly errors: number
  /** How many batches they were joined into. */
  readonly batches: number
  /** How long they took, from the call to its result. */
  readonly latency: {
    /** The number of calls that took up to `le` ms. Cumulative; the last bucket's `le` is `Infinity`. */
    readonly buckets: readonly { readonly le: number; readonly count: number }[]
    /** The sum of their durations, in ms. */
    readonly sum: number
  }
}

/** The cache in `stats()`. */
export interface CacheStats {
  readonly hits: number
  readonly misses: number
  /** The number of cached sessions. */
  readonly size: number
  /** The size of the cached sessions, in characters of their JSON. */
  readonly bytes: number
  /** Whether sessions are served from the cache now. */
  readonly trusted: boolean
  /** The age of the last heartbeat that the LISTEN connection received, in ms; `undefined` if there was none. */
  readonly lastHeartbeatAge: number | undefined
}

/** What `health()` resolves with. */
export interface Health {
  /** Whether sessions can be read and saved: the database answered, and the table can be used. */
  readonly healthy: boolean
  readonly database: {
    readonly reachable: boolean
    /** How long the database took to answer, in ms; `undefined` if it didn't. */
    readonly ms: number | undefined
  }
  readonly table: {
    /** Whether the table was found, and has the columns and privileges that the store needs. */
    readonly usable: boolean
  }
  /** `false` if the option `cache` is. */
  readonly cache:
    | false
    | {
        /** Whether sessions are served from the cache now. A store whose cache isn't trusted works, but more slowly. */
        readonly trusted: boolean
        /** The age of the last heartbeat that the LISTEN connection received, in ms; `undefined` if there was none. */
        readonly lastHeartbeatAge: number | undefined
      }
  readonly queues: {
    /** The number of calls that have not settled. */
    readonly calls: number
    /** The number of touches that have not been written. */
    readonly touches: number
    /** How full the server's notification queue is, from 0 to 1. `undefined` if the database can't be reached. */
    readonly notifications: number | undefined
  }
  /** Why the store isn't healthy. Contains no password and no session. */
  readonly error: Error | undefined
}
