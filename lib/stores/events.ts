// The events of a PgStore.
import type { Conflict, ExpiredSession, SweepResult } from '../types/results.js'
import type { Session } from '../types/session-store.js'

/** The events of a PgStore, and what their listeners receive. */
export interface PgStoreEvents<T extends object = Session> {
  connect: []
  trust: []
  distrust: []
  conflict: [Conflict]
  sweep: [SweepResult]
  expire: [ExpiredSession<T>]
  warning: [Error]
}
