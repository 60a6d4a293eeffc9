// The deferred writes: later expiries and last accesses, many in one statement and each session's seldom.

import { QuickLru } from '../cache/quick-lru.js'
import { messageOf } from '../util/driver-errors.js'

/** What is to be written of a session: how much longer it is to live, if that changes, and how long ago it was used. */
export interface Touch {
  readonly id: string
  /** Milliseconds from now; `null`: as it is. */
  readonly ttl: number | null
  /** Milliseconds ago. */
  readonly ageMs: number
}

export interface TouchBufferOptions {
  /** How often, in ms, a session is written at most; 0: every time. */
  readonly intervalMs: number
  /** How many sessions one statement writes. */
  readonly batchSize: number
  /** Whether sessions end by not being used. */
  readonly countsIdleness: boolean
  readonly write: (touches: Touch[]) => Promise<void>
  readonly warn: (error: Error) => void
  /** How many sessions' ends are remembered. */
  readonly maxExpiries: number
}

interface PendingTouch {
  readonly id: string
  /** When the session is to end, by the monotonic clock. */
  expiresAt: number | undefined
  lastAccessedAt: number
  readonly dueAt: number
}

/** After this share of a session's life its touch is written, whatever the interval: one failure may not lose it. */
const maxTtlShare = 1 / 4

/** What is due soon goes along. */
const earlyShare = 1 / 10

/** More than these are written early, for the memory's sake. */
const maxPending = 100_000

export class TouchBuffer {
  readonly #options: TouchBufferOptions
  readonly #pending = new Map<string, PendingTouch>()
  /** When sessions end, by name, as far as the database has said. */
  readonly #expiries: QuickLru<{ at: number }>
  #timer: NodeJS.Timeout | undefined
  #timerDue = Number.POSITIVE_INFINITY
  #stopped = false
  #flushing: Promise<void> = Promise.resolve()

  constructor(options: TouchBufferOptions) {
    this.#options = options
    this.#expiries = new QuickLru(options.maxExpiries)
  }

  /** The database said that a session has `left` ms to live. */
  recordExpiry(name: string, ttlMs: number): void {
    this.#setExpiry(name, performance.now() + ttlMs)
  }

  /** Changes what is there: a new number for each read is work for the garbage collector. */
  #setExpiry(name: string, at: number): void {
    const end = this.#expiries.get(name)
    if (end === undefined) this.#expiries.set(name, { at })
    else end.at = at
  }

  /** Somebody changed a session, or all of them may have been changed: when they end isn't known any more. */
  forgetExpiry(name?: string): void {
    if (name === undefined) this.#expiries.clear()
    else this.#expiries.delete(name)
  }

  /** For how many ms a session lives as far as is known here, with what is still to be written; below 0: not known. */
  getRemainingTtl(name: string): number {
    return (
      Math.max(this.#expiries.get(name)?.at ?? 0, this.#pending.get(name)?.expiresAt ?? 0) - performance.now()
    )
  }

  /** A session is over: nothing of it is written any more. */
  cancel(name: string): void {
    this.#pending.delete(name)
    this.#expiries.delete(name)
  }

  /**
   * A session was used, and is to live for `ttl` ms from now if given. Resolves when that is written or will be: at once
   * where nobody knows how long the session still lives, so that it may not be over before.
   */
  async touch(name: string, id: string, ttl?: number): Promise<void> {
    const now = performance.now()
    const left = (this.#expiries.get(name)?.at ?? 0) - now
    if (this.#options.intervalMs === 0 || left <= 0 || this.#stopped) {
      await this.#options.write([{ id, ttl: ttl ?? null, ageMs: 0 }])
      if (ttl !== undefined && left < ttl) this.recordExpiry(name, ttl)
      return
    }
    const there = this.#pending.get(name)
    const due = there?.dueAt ?? now + Math.min(this.#options.intervalMs, left * maxTtlShare)
    const end = ttl === undefined ? there?.expiresAt : Math.max(now + ttl, there?.expiresAt ?? 0)
    this.#pending.set(name, { id, expiresAt: end, lastAccessedAt: now, dueAt: due })
    if (this.#pending.size >= maxPending) void this.flush()
    else this.#wake(due)
  }

  /** A session was used; its last access is written in time. With an interval of 0, and no limit on idleness, it isn't. */
  recordAccess(name: string, id: string): void {
    if (this.#options.intervalMs === 0 && !this.#options.countsIdleness) return
    const waiting = this.#pending.get(name)
    if (waiting !== undefined) waiting.lastAccessedAt = performance.now()
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
    const until = all ? Number.POSITIVE_INFINITY : now + this.#options.intervalMs * earlyShare
    const due = [...this.#pending].filter(([, waiting]) => waiting.dueAt <= until)
    for (const [name] of due) this.#pending.delete(name)
    for (let i = 0; i < due.length; i += this.#options.batchSize)
      await this.#write(due.slice(i, i + this.#options.batchSize))
    this.#timerDue = Number.POSITIVE_INFINITY
    for (const { dueAt: due } of this.#pending.values()) this.#wake(due)
  }

  /** Writes what is waiting, and from now on defers nothing. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.flush()
    clearTimeout(this.#timer)
  }

  async #write(batch: [string, PendingTouch][]): Promise<void> {
    const now = performance.now()
    const touches = batch.map(([, { id, expiresAt, lastAccessedAt }]) => ({
      id,
      ttl: expiresAt === undefined ? null : expiresAt - now,
      ageMs: now - lastAccessedAt,
    }))
    try {
      await this.#options.write(touches)
      for (const [digest, { expiresAt }] of batch)
        if (expiresAt !== undefined)
          this.#setExpiry(digest, Math.max(expiresAt, this.#expiries.get(digest)?.at ?? 0))
    } catch (error) {
      this.#options.warn(new Error(`later expiries could not be written and wait: ${messageOf(error)}`))
      if (this.#stopped) return
      for (const [digest, { id, expiresAt, lastAccessedAt }] of batch) {
        const newer = this.#pending.get(digest)
        this.#pending.set(digest, {
          id,
          expiresAt: Math.max(expiresAt ?? 0, newer?.expiresAt ?? 0) || undefined,
          lastAccessedAt: Math.max(lastAccessedAt, newer?.lastAccessedAt ?? 0),
          dueAt: newer?.dueAt ?? now + Math.min(this.#options.intervalMs, 5_000),
        })
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
