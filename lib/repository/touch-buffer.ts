// The deferred writes: later expiries and last accesses, many in one statement and each session's seldom.

import { Recent } from '../cache/quick-lru.js'
import { messageOf } from '../util/driver-errors.js'

/** What is to be written of a session: how much longer it is to live, if that changes, and how long ago it was used. */
export interface Touch {
  readonly id: string
  /** Milliseconds from now; `null`: as it is. */
  readonly ttl: number | null
  /** Milliseconds ago. */
  readonly age: number
}

export interface TouchesOptions {
  /** How often, in ms, a session is written at most; 0: every time. */
  readonly interval: number
  /** How many sessions one statement writes. */
  readonly batchSize: number
  /** Whether sessions end by not being used. */
  readonly countsIdleness: boolean
  readonly write: (touches: Touch[]) => Promise<void>
  readonly warn: (error: Error) => void
  /** How many sessions' ends are remembered. */
  readonly max: number
}

interface Waiting {
  readonly id: string
  /** When the session is to end, by the monotonic clock. */
  end: number | undefined
  used: number
  readonly due: number
}

/** After this share of a session's life its touch is written, whatever the interval: one failure may not lose it. */
const share = 1 / 4

/** What is due soon goes along. */
const soon = 1 / 10

/** More than these are written early, for the memory's sake. */
const mostWaiting = 100_000

export class Touches {
  readonly #options: TouchesOptions
  readonly #waiting = new Map<string, Waiting>()
  /** When sessions end, by name, as far as the database has said. */
  readonly #ends: Recent<{ at: number }>
  #timer: NodeJS.Timeout | undefined
  #timerDue = Number.POSITIVE_INFINITY
  #stopped = false
  #flushing: Promise<void> = Promise.resolve()

  constructor(options: TouchesOptions) {
    this.#options = options
    this.#ends = new Recent(options.max)
  }

  /** The database said that a session has `left` ms to live. */
  seen(name: string, left: number): void {
    this.#end(name, performance.now() + left)
  }

  /** Changes what is there: a new number for each read is work for the garbage collector. */
  #end(name: string, at: number): void {
    const end = this.#ends.get(name)
    if (end === undefined) this.#ends.set(name, { at })
    else end.at = at
  }

  /** Somebody changed a session, or all of them may have been changed: when they end isn't known any more. */
  doubt(name?: string): void {
    if (name === undefined) this.#ends.clear()
    else this.#ends.delete(name)
  }

  /** For how many ms a session lives as far as is known here, with what is still to be written; below 0: not known. */
  left(name: string): number {
    return Math.max(this.#ends.get(name)?.at ?? 0, this.#waiting.get(name)?.end ?? 0) - performance.now()
  }

  /** A session is over: nothing of it is written any more. */
  forget(name: string): void {
    this.#waiting.delete(name)
    this.#ends.delete(name)
  }

  /**
   * A session was used, and is to live for `ttl` ms from now if given. Resolves when that is written or will be: at once
   * where nobody knows how long the session still lives, so that it may not be over before.
   */
  async touch(name: string, id: string, ttl?: number): Promise<void> {
    const now = performance.now()
    const left = (this.#ends.get(name)?.at ?? 0) - now
    if (this.#options.interval === 0 || left <= 0 || this.#stopped) {
      await this.#options.write([{ id, ttl: ttl ?? null, age: 0 }])
      if (ttl !== undefined && left < ttl) this.seen(name, ttl)
      return
    }
    const there = this.#waiting.get(name)
    const due = there?.due ?? now + Math.min(this.#options.interval, left * share)
    const end = ttl === undefined ? there?.end : Math.max(now + ttl, there?.end ?? 0)
    this.#waiting.set(name, { id, end, used: now, due })
    if (this.#waiting.size >= mostWaiting) void this.flush()
    else this.#wake(due)
  }

  /** A session was used; its last access is written in time. With an interval of 0, and no limit on idleness, it isn't. */
  use(name: string, id: string): void {
    if (this.#options.interval === 0 && !this.#options.countsIdleness) return
    const waiting = this.#waiting.get(name)
    if (waiting !== undefined) waiting.used = performance.now()
    else
      this.touch(name, id).catch((error) =>
        this.#options.warn(new Error(`a last access could not be written: ${messageOf(error)}`)),
      )
  }

  /**
   * Writes what is waiting, all of it or what is due; resolves when what was being written is there too. Never rejects:
   * what couldn't be written waits on.
   */
  async flush(all = true): Promise<void> {
    // One after another: who waits for the last has waited for each.
    this.#flushing = this.#flushing.then(() => this.#flush(all))
    await this.#flushing
  }

  async #flush(all: boolean): Promise<void> {
    const now = performance.now()
    const until = all ? Number.POSITIVE_INFINITY : now + this.#options.interval * soon
    const due = [...this.#waiting].filter(([, waiting]) => waiting.due <= until)
    for (const [name] of due) this.#waiting.delete(name)
    for (let i = 0; i < due.length; i += this.#options.batchSize)
      await this.#write(due.slice(i, i + this.#options.batchSize))
    this.#timerDue = Number.POSITIVE_INFINITY
    for (const { due } of this.#waiting.values()) this.#wake(due)
  }

  /** Writes what is waiting, and from now on defers nothing. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.flush()
    clearTimeout(this.#timer)
  }

  async #write(batch: [string, Waiting][]): Promise<void> {
    const now = performance.now()
    const touches = batch.map(([, { id, end, used }]) => ({
      id,
      ttl: end === undefined ? null : end - now,
      age: now - used,
    }))
    try {
      await this.#options.write(touches)
      for (const [name, { end }] of batch)
        if (end !== undefined) this.#end(name, Math.max(end, this.#ends.get(name)?.at ?? 0))
    } catch (error) {
      this.#options.warn(new Error(`later expiries could not be written and wait: ${messageOf(error)}`))
      if (this.#stopped) return
      for (const [name, { id, end, used }] of batch) {
        const newer = this.#waiting.get(name)
        const later = Math.max(end ?? 0, newer?.end ?? 0) || undefined
        const due = newer?.due ?? now + Math.min(this.#options.interval, 5_000)
        this.#waiting.set(name, { id, end: later, used: Math.max(used, newer?.used ?? 0), due })
      }
    }
  }

  #wake(due: number): void {
    if (due >= this.#timerDue || this.#stopped) return
    clearTimeout(this.#timer)
    this.#timerDue = due
    this.#timer = setTimeout(() => void this.flush(false), due - performance.now())
    this.#timer.unref()
  }
}
