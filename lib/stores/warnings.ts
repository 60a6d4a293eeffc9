// Passes warnings to the listeners of the event `warning` or, where there is none, to `process.emitWarning`.
import type { EventEmitter } from 'node:events'
import { SetupError } from '../types/errors.js'
import { redact } from '../util/driver-errors.js'
import type { PgStoreEvents } from './events.js'

/** The kinds of warnings, by the codes that `process.emitWarning` receives. `ended` is what to say when one no longer applies. */
const kinds = {
  options: { code: 'KOA_PG_STORE_OPTIONS', ended: undefined },
  listener: { code: 'KOA_PG_STORE_LISTENER', ended: undefined },
  connection: { code: 'KOA_PG_STORE_CONNECTION', ended: undefined },
  table: { code: 'KOA_PG_STORE_TABLE', ended: 'the session table has everything that the store needs' },
  ids: { code: 'KOA_PG_STORE_IDS', ended: undefined },
  index: { code: 'KOA_PG_STORE_INDEX', ended: undefined },
  cache: {
    code: 'KOA_PG_STORE_CACHE',
    ended: 'notifications arrive again; sessions are served from the cache',
  },
  queue: { code: 'KOA_PG_STORE_QUEUE', ended: "the server's queue of notifications has room again" },
  touch: { code: 'KOA_PG_STORE_TOUCH', ended: 'touches are written again' },
  sweep: { code: 'KOA_PG_STORE_SWEEP', ended: 'expired sessions are deleted again' },
  onExpired: { code: 'KOA_PG_STORE_ON_EXPIRED', ended: undefined },
} as const

export type WarningKind = keyof typeof kinds

/** What to do, where the warning itself doesn't say. */
const advice: Partial<Record<WarningKind, string>> = {
  touch: 'Until then, sessions may expire earlier than they should. Run koa-pg-store doctor.',
  sweep: 'Until then, expired sessions stay in the table; they are never returned. Run koa-pg-store doctor.',
}

const detail =
  'Each kind of warning is printed once, and again when it has ended. To handle warnings yourself: store.on("warning", …)'

/** A kind that begins and ends all the time is printed once in this time. */
const minIntervalMs = 3_600_000

export class Warnings {
  readonly #events: EventEmitter<PgStoreEvents>
  readonly #now: () => number
  #hasPrinted = false
  /** When a kind was last printed. */
  readonly #printedAt = new Map<WarningKind, number>()
  /** The kinds that were printed and have not ended. */
  readonly #current = new Set<WarningKind>()

  /** `now` is a monotonic clock in ms, which tests replace. */
  constructor(events: EventEmitter<PgStoreEvents>, now: () => number = () => performance.now()) {
    this.#events = events
    this.#now = now
  }

  /** Returns a function that warns of one kind. */
  of(kind: WarningKind): (error: Error) => void {
    return (error) => this.warn(kind, error)
  }

  warn(kind: WarningKind, error: Error): void {
    const safe = error instanceof SetupError ? error : redact(error)
    if (this.#events.emit('warning', safe)) return
    const last = this.#printedAt.get(kind)
    if (last !== undefined && this.#now() - last < minIntervalMs) return
    this.#printedAt.set(kind, this.#now())
    this.#current.add(kind)
    const help = advice[kind]
    this.#print(kind, help === undefined ? safe.message : `${safe.message}. ${help}`)
  }

  /** To be called whenever something works: says so if it was printed that it doesn't. */
  end(kind: WarningKind): void {
    const { ended } = kinds[kind]
    if (this.#current.delete(kind) && ended !== undefined) this.#print(kind, ended)
  }

  #print(kind: WarningKind, message: string): void {
    process.emitWarning(`koa-pg-store: ${message}`, {
      type: 'PgStoreWarning',
      code: kinds[kind].code,
      ...(!this.#hasPrinted && { detail }),
    })
    this.#hasPrinted = true
  }
}
