// The events of a PgStore.
import type {
  Conflict,
  CreatedSession,
  DestroyedSession,
  ExpiredSession,
  SweepResult,
} from '../types/results.js'
import type { Session } from '../types/session-store.js'

/** The events of a PgStore, and what their listeners receive. */
export interface PgStoreEvents<T extends object = Session> {
  connect: []
  trust: []
  distrust: []
  conflict: [Conflict]
  sweep: [SweepResult]
  expire: [ExpiredSession<T>]
  create: [CreatedSession]
  destroy: [DestroyedSession]
  revoke: [DestroyedSession]
  warning: [Error]
}
