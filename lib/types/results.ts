// What methods and events of PgStore return: sessions in lists, sweeps, conflicts, statistics.
import type { Session } from './session-store.js'

/** A session that has expired, without its id. What the table has no column for is `undefined`. */
export interface ExpiredSession {
  readonly session: Session
  readonly userId: string | undefined
  readonly createdAt: Date | undefined
  /** Written now and then; see the option `touch`. */
  readonly lastAccessedAt: Date | undefined
  readonly expiresAt: Date
}

/** What a sweep did. */
export interface SweepResult {
  /** Rows: sessions, and the marks of those destroyed more than an hour ago. */
  readonly deleted: number
  readonly batches: number
  readonly ms: number
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
  readonly lastAccessedAt: Date | undefined
  /** `idleTimeout` may end it earlier. */
  readonly expiresAt: Date
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
  readonly lastHeartbeatAge: number | undefined
}
