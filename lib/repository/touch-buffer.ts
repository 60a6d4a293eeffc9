// Buffers touches, the only deferred writes: later expiries and last accesses, many sessions in one statement.

import { QuickLru } from '../cache/quick-lru.js'
import { messageOf } from '../util/driver-errors.js'

/** What one touch writes: the last access and, if it changes, the expiry. */
export interface Touch {
  readonly id: string
  /** From now; `null`: keep the expiry. */
  readonly ttlMs: number | null
  /** How long ago the session was last accessed. */
  readonly ageMs: number
}

export interface TouchBufferOptions {
  /** The minimum time between two touches of a session; 0: every touch is written at once. */
  readonly intervalMs: number
  /** The maximum number of sessions in one statement. */
  readonly batchSize: number
  /** Whether sessions expire when they aren't used. */
  readonly countsIdleness: boolean
  readonly write: (touches: Touch[]) => Promise<void>
  /** Runs the write of a batch of deferred touches. */
  readonly flush?: (batchSize: number, write: () => Promise<void>) => Promise<void>
  readonly warn: (error: Error) => void
  /** The number of sessions whose expiry is remembered. */
  readonly maxExpiries: number
}

/** Times are by the monotonic clock. */
interface PendingTouch {
  readonly id: string
  /** `undefined`: only the last access changes. */
  readonly expiresAt: number | undefined
  lastAccessedAt: number
  readonly dueAt: number
}

/** A touch waits for at most this share of the session's remaining life, so that a failed write can be retried in time. */
const maxTtlShare = 1 / 4

/** A flush includes touches that are due within this share of the interval. */
const flushAheadShare = 1 / 10

/** With this many pending touches they are flushed early, to bound the memory. */
const maxPendingTouches = 100_000

/** How soon a failed write is retried, unless the interval is shorter. */
const retryDelayMs = 5_000

/** Keyed by digest. */
export class TouchBuffer {
  readonly #options: TouchBufferOptions
  readonly #pending = new Map<string, PendingTouch>()
  /** When sessions expire, as far as the database has said. */
  readonly #expiries: QuickLru<{ expiresAt: number }>
  #timer: NodeJS.Timeout | undefined
  #timerDueAt = Number.POSITIVE_INFINITY
  #stopped = false
  #flushing: Promise<void> = Promise.resolve()

  constructor(options: TouchBufferOptions) {
    this.#options = options
    this.#expiries = new QuickLru(options.maxExpiries)
  }

  /** The number of touches that have not been written. */
  get pendingCount(): number {
    return this.#pending.size
  }

  /** Records that the database gives a session `ttlMs` to live. */
  recordExpiry(digest: string, ttlMs: number): void {
    this.#setExpiry(digest, performance.now() + ttlMs)
  }

  /** Records a read: an access, and that the database gives the session `ttlMs` to live. */
  recordRead(digest: string, id: string, ttlMs: number): void {
    this.recordExpiry(digest, ttlMs)
    this.recordAccess(digest, id)
  }

  /** Updates the object in place: a new one for every read would be work for the garbage collector. */
  #setExpiry(digest: string, expiresAt: number): void {
    const expiry = this.#expiries.get(digest)
    if (expiry === undefined) this.#expiries.set(digest, { expiresAt })
    else expiry.expiresAt = expiresAt
  }

  /** Forgets the recorded expiry of one session, or of all, because another process may have changed it. */
  forgetExpiry(digest?: string): void {
    if (digest === undefined) this.#expiries.clear()
    else this.#expiries.delete(digest)
  }

  /** Returns how many ms a session has to live, pending touches included; below 0: unknown. */
  getRemainingTtl(digest: string): number {
    const recorded = this.#expiries.get(digest)?.expiresAt ?? 0
    return Math.max(recorded, this.#pending.get(digest)?.expiresAt ?? 0) - performance.now()
  }

  /** Drops the pending touch of a session that was destroyed. */
  cancel(digest: string): void {
    this.#pending.delete(digest)
    this.#expiries.delete(digest)
  }

  /**
   * Records an access and, if given, the ms from now that the session is to live. Resolves when the touch is written or
   * deferred. It is written at once if the expiry isn't known: the session could expire before a deferred write.
   */
  async touch(digest: string, id: string, ttlMs?: number): Promise<void> {
    const now = performance.now()
    const remainingMs = (this.#expiries.get(digest)?.expiresAt ?? 0) - now
    if (this.#options.intervalMs === 0 || remainingMs <= 0 || this.#stopped) {
      await this.#options.write([{ id, ttlMs: ttlMs ?? null, ageMs: 0 }])
      if (ttlMs !== undefined && remainingMs < ttlMs) this.recordExpiry(digest, ttlMs)
      return
    }
    const pending = this.#pending.get(digest)
    const dueAt = pending?.dueAt ?? now + Math.min(this.#options.intervalMs, remainingMs * maxTtlShare)
    const expiresAt =
      ttlMs === undefined ? pending?.expiresAt : Math.max(now + ttlMs, pending?.expiresAt ?? 0)
    this.#pending.set(digest, { id, expiresAt, lastAccessedAt: now, dueAt })
    if (this.#pending.size >= maxPendingTouches) void this.flush()
    else this.#wakeAt(dueAt)
  }

  /** Records an access; the write is deferred. With an interval of 0 it is only written if there is an idle timeout. */
  recordAccess(digest: string, id: string): void {
    if (this.#options.intervalMs === 0 && !this.#options.countsIdleness) return
    const pending = this.#pending.get(digest)
    if (pending !== undefined) pending.lastAccessedAt = performance.now()
    else
      this.touch(digest, id).catch((error) =>
        this.#options.warn(new Error(`could not write a session's last access: ${messageOf(error)}`)),
      )
  }

  /**
   * Writes the pending touches, all or those that are due. Resolves when writes that were already in progress are done, too.
   * Never rejects: touches that couldn't be written stay pending.
   */
  async flush(all = true): Promise<void> {
    this.#flushing = this.#flushing.then(() => this.#flush(all))
    await this.#flushing
  }

  async #flush(all: boolean): Promise<void> {
    const { intervalMs, batchSize } = this.#options
    const dueBefore = all ? Number.POSITIVE_INFINITY : performance.now() + intervalMs * flushAheadShare
    const due = [...this.#pending].filter(([, { dueAt }]) => dueAt <= dueBefore)
    for (const [digest] of due) this.#pending.delete(digest)
    for (let i = 0; i < due.length; i += batchSize) await this.#write(due.slice(i, i + batchSize))
    this.#timerDueAt = Number.POSITIVE_INFINITY
    for (const { dueAt } of this.#pending.values()) this.#wakeAt(dueAt)
  }

  /** Writes the pending touches, and defers none from now on. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.flush()
    clearTimeout(this.#timer)
  }

  async #write(batch: [string, PendingTouch][]): Promise<void> {
    const now = performance.now()
    const touches = batch.map(([, { id, expiresAt, lastAccessedAt }]) => ({
      id,
      ttlMs: expiresAt === undefined ? null : expiresAt - now,
      ageMs: now - lastAccessedAt,
    }))
    try {
      const write = (): Promise<void> => this.#options.write(touches)
      await (this.#options.flush?.(touches.length, write) ?? write())
      for (const [digest, { expiresAt }] of batch)
        if (expiresAt !== undefined)
          this.#setExpiry(digest, Math.max(expiresAt, this.#expiries.get(digest)?.expiresAt ?? 0))
    } catch (error) {
      this.#options.warn(new Error(`could not write deferred touches: ${messageOf(error)}`))
      const retryAt = now + Math.min(this.#options.intervalMs, retryDelayMs)
      if (!this.#stopped) for (const [digest, touch] of batch) this.#retryAt(retryAt, digest, touch)
    }
  }

  #retryAt(retryAt: number, digest: string, { id, expiresAt, lastAccessedAt }: PendingTouch): void {
    const newer = this.#pending.get(digest)
    this.#pending.set(digest, {
      id,
      expiresAt: Math.max(expiresAt ?? 0, newer?.expiresAt ?? 0) || undefined,
      lastAccessedAt: Math.max(lastAccessedAt, newer?.lastAccessedAt ?? 0),
      dueAt: newer?.dueAt ?? retryAt,
    })
  }

  #wakeAt(dueAt: number): void {
    if (dueAt >= this.#timerDueAt || this.#stopped) return
    clearTimeout(this.#timer)
    this.#timerDueAt = dueAt
    this.#timer = setTimeout(() => void this.flush(false), dueAt - performance.now())
    this.#timer.unref()
  }
}
