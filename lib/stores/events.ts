// The events of a PgStore.
import type {
  Conflict,
  CreatedSession,
  DestroyedSession,
  ExpiredSession,
  SweepResult,
} from '../types/results.js'
import type { Session } from '../types/session-store.js'

/** The events of a `PgStore`, and what their listeners receive. An error that a listener throws becomes a `warning`. */
export interface PgStoreEvents<T extends object = Session> {
  /** The table has been set up. */
  connect: []
  /** The cache is used from now on. */
  trust: []
  /** The cache is bypassed, as notifications don't arrive. */
  distrust: []
  /** A save found the session changed by another request. */
  conflict: [Conflict]
  /** This instance has deleted expired sessions. */
  sweep: [SweepResult]
  /** A session has expired and is about to be deleted. */
  expire: [ExpiredSession<T>]
  /** This instance has saved a new session. */
  create: [CreatedSession]
  /** A session has ended by a `destroy()`, or was found expired by a sweep. */
  destroy: [DestroyedSession]
  /** This instance has ended a session from outside its requests. */
  revoke: [DestroyedSession]
  /** An error that no call can reject with. Without a listener, Node prints each kind once. */
  warning: [Error]
}
