// Buffers touches, the only deferred writes: later expiries and last accesses, many sessions in one statement.

import { setTimeout as sleep } from 'node:timers/promises'
import { QuickLru } from '../cache/quick-lru.js'
import { messageOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'

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
  /** Writes touches, and resolves with the ids of those whose rows were locked: they are to be written later. */
  readonly write: (touches: Touch[]) => Promise<ReadonlySet<string>>
  /** Writes one touch, and waits for the row if it is locked. */
  readonly writeOne: (touch: Touch) => Promise<void>
  /** Runs the write of a batch of deferred touches. */
  readonly flush?: <T>(batchSize: number, write: () => Promise<T>) => Promise<T>
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

/** How soon a failed write is retried, at the latest and, for a session with little left of its life, at the earliest. */
const maxRetryDelayMs = 5_000
const minRetryDelayMs = 500

/** How soon `stop` tries again. */
const stopRetryMs = 200

/** Keyed by digest. */
export class TouchBuffer {
  readonly #options: TouchBufferOptions
  readonly #pending = new Map<string, PendingTouch>()
  /** Touches that are being written. */
  readonly #writing = new Map<string, PendingTouch>()
  /** When sessions expire, as far as the database has said. */
  readonly #expiries: QuickLru<{ expiresAt: number }>
  #timer: NodeJS.Timeout | undefined
  #timerDueAt = Number.POSITIVE_INFINITY
  #stopped = false
  #flushing: Promise<Error | undefined> = Promise.resolve(undefined)
  /** The flush that begins when the running one has ended; several callers share it. */
  #nextFlush: Promise<Error | undefined> | undefined
  /** The number of touches that were not written before `stop` ended. */
  lost = 0

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
    this.#writing.delete(digest)
    this.#expiries.delete(digest)
  }

  /** Drops the pending touch of a session that was saved since, with an expiry that may be an earlier one. */
  dropBefore(digest: string, savedAt: number): void {
    const pending = this.#pending.get(digest)
    if (pending !== undefined && pending.lastAccessedAt <= savedAt) this.#pending.delete(digest)
  }

  /** Whether a touch of this session is not known to be written. */
  isPending(digest: string): boolean {
    return this.#pending.has(digest) || this.#writing.has(digest)
  }

  /** Writes the pending touch of a session now. Rejects if that fails; the touch stays pending. */
  async writeNow(digest: string): Promise<void> {
    const [pending, writing] = [this.#pending.get(digest), this.#writing.get(digest)]
    const touch = pending && writing ? latest(pending, writing) : (pending ?? writing)
    if (touch === undefined) return
    await this.#options.writeOne(toTouch(touch, performance.now()))
    if (this.#pending.get(digest) === pending) this.#pending.delete(digest)
  }

  /**
   * Records an access and, if given, the ms from now that the session is to live. Resolves when the touch is written or
   * deferred. It is written at once if the expiry isn't known: the session could expire before a deferred write.
   */
  async touch(digest: string, id: string, ttlMs?: number): Promise<void> {
    const now = performance.now()
    const remainingMs = (this.#expiries.get(digest)?.expiresAt ?? 0) - now
    if (this.#options.intervalMs === 0 || remainingMs <= 0 || this.#stopped) {
      // Without the earlier touch, the session may have expired for this one.
      if (this.isPending(digest)) await this.writeNow(digest)
      await this.#options.writeOne({ id, ttlMs: ttlMs ?? null, ageMs: 0 })
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
   * Writes the pending touches, all or those that are due. Resolves when writes that were already in progress are done, too,
   * with the error if some could not be written: these stay pending.
   */
  flush(all = true): Promise<Error | undefined> {
    if (all && this.#nextFlush !== undefined) return this.#nextFlush
    this.#flushing = this.#flushing.then(() => {
      if (all) this.#nextFlush = undefined
      return this.#flush(all)
    })
    if (all) this.#nextFlush = this.#flushing
    return this.#flushing
  }

  async #flush(all: boolean): Promise<Error | undefined> {
    const { intervalMs, batchSize } = this.#options
    const dueBefore = all ? Number.POSITIVE_INFINITY : performance.now() + intervalMs * flushAheadShare
    const due = [...this.#pending].filter(([, { dueAt }]) => dueAt <= dueBefore)
    for (const [digest, touch] of due) {
      this.#pending.delete(digest)
      this.#writing.set(digest, touch)
    }
    let failure: Error | undefined
    for (let i = 0; i < due.length; i += batchSize)
      failure = (await this.#write(due.slice(i, i + batchSize))) ?? failure
    this.#timerDueAt = Number.POSITIVE_INFINITY
    for (const { dueAt } of this.#pending.values()) this.#wakeAt(dueAt)
    return failure
  }

  /**
   * Writes the pending touches, and defers none from now on. In an outage it tries again until `timeoutMs` have passed, and
   * then warns of the touches that are lost.
   */
  async stop(timeoutMs: number): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const remainingMs = deadline - performance.now()
      const flushed = withTimeout(this.flush(), Math.max(0, remainingMs), 'touches were not written')
      await flushed.catch(() => undefined)
      if (this.#pending.size === 0 || performance.now() + stopRetryMs > deadline) break
      await sleep(stopRetryMs)
    }
    const lost = new Set([...this.#pending.keys(), ...this.#writing.keys()]).size
    if (lost === 0) return
    this.lost += lost
    this.#options.warn(
      new Error(
        `${lost} touches could not be written before the store was closed: these sessions may expire early`,
      ),
    )
  }

  async #write(batch: [string, PendingTouch][]): Promise<Error | undefined> {
    const now = performance.now()
    let failure: Error | undefined
    try {
      const write = (): Promise<ReadonlySet<string>> =>
        this.#options.write(batch.map(([, touch]) => toTouch(touch, now)))
      const locked = await (this.#options.flush?.(batch.length, write) ?? write())
      for (const [digest, touch] of batch) {
        const { id, expiresAt } = touch
        // A row that is locked isn't swept either.
        if (locked.has(id)) this.#retry(digest, touch)
        else if (expiresAt !== undefined)
          this.#setExpiry(digest, Math.max(expiresAt, this.#expiries.get(digest)?.expiresAt ?? 0))
      }
    } catch (error) {
      failure = new Error(
        `deferred touches could not be written yet, and are tried again: ${messageOf(error)}`,
      )
      this.#options.warn(failure)
      for (const [digest, touch] of batch) this.#retry(digest, touch)
    }
    for (const [digest, touch] of batch) if (this.#writing.get(digest) === touch) this.#writing.delete(digest)
    return failure
  }

  /** Not if the session was destroyed meanwhile. */
  #retry(digest: string, touch: PendingTouch): void {
    if (this.#writing.get(digest) !== touch) return
    const newer = this.#pending.get(digest)
    if (newer !== undefined) {
      this.#pending.set(digest, latest(newer, touch))
      return
    }
    const now = performance.now()
    const remainingMs = (this.#expiries.get(digest)?.expiresAt ?? 0) - now
    const delayMs = Math.min(maxRetryDelayMs, Math.max(minRetryDelayMs, remainingMs * maxTtlShare))
    this.#pending.set(digest, { ...touch, dueAt: now + Math.min(this.#options.intervalMs, delayMs) })
  }

  #wakeAt(dueAt: number): void {
    if (dueAt >= this.#timerDueAt || this.#stopped) return
    clearTimeout(this.#timer)
    this.#timerDueAt = dueAt
    this.#timer = setTimeout(() => void this.flush(false), dueAt - performance.now())
    this.#timer.unref()
  }
}

function toTouch({ id, expiresAt, lastAccessedAt }: PendingTouch, now: number): Touch {
  return { id, ttlMs: expiresAt === undefined ? null : expiresAt - now, ageMs: now - lastAccessedAt }
}

/** Both touches of a session in one, due when the first argument is. */
function latest(a: PendingTouch, b: PendingTouch): PendingTouch {
  return {
    ...a,
    expiresAt: Math.max(a.expiresAt ?? 0, b.expiresAt ?? 0) || undefined,
    lastAccessedAt: Math.max(a.lastAccessedAt, b.lastAccessedAt),
  }
}
