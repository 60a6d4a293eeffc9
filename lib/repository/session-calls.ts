// One object for each call of a store that concerns one session: what the batches run and settle.
import type { SessionRecord } from '../cache/session-records.js'
import type { SaveRequest } from './session-writer.js'

/** What a call of the store concerns. */
export interface SessionCall {
  readonly verb: 'read' | 'write' | 'destroy'
  /** The session id as the caller gave it: a secret. */
  readonly sid: string
  /** Its key in the cache and in notifications. */
  readonly digest: string
  /** What this process knows of the session. A read sets its `loadedAt`. */
  readonly record: SessionRecord
  /** Its id in the table. */
  readonly id: string
  /** By the monotonic clock; `undefined`: `stats()` doesn't count the call. */
  readonly startedAt: number | undefined
}

export interface ReadCall extends SessionCall {
  readonly verb: 'read'
  /** Reads from the database even if the session is cached. */
  readonly fresh: boolean
  /** koa-session's context, which is to remember the merge base. */
  readonly owner: object | undefined
}

/** Its base is the call's until the batch runs: then that of the session object or of its owner, if these have one. */
export interface WriteCall extends SessionCall, SaveRequest {
  readonly verb: 'write'
  readonly session: object | undefined
  readonly owner: object | undefined
}

export interface DestroyCall extends SessionCall {
  readonly verb: 'destroy'
  /** Called if there was a session. */
  readonly onDestroyed?: () => void
}
