// Buffers touches, the only deferred writes: later expiries and last accesses, many sessions in one statement.
import { setTimeout as sleep } from 'node:timers/promises'
import type { PendingTouch, SessionRecord, SessionRecords } from '../cache/session-records.js'
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
  readonly records: SessionRecords
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

export class TouchBuffer {
  readonly #options: TouchBufferOptions
  /** Touches that wait to be written, by digest; each is also the `touch` of its record. */
  readonly #pending = new Map<string, PendingTouch>()
  /** Touches that are being written, by digest. */
  readonly #writing = new Map<string, PendingTouch>()
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
  }

  /** The number of touches that have not been written. */
  get pendingCount(): number {
    return this.#pending.size
  }

  /** Returns the record of a session whose touch is not known to be written. */
  findRecord(digest: string): SessionRecord | undefined {
    return (this.#pending.get(digest) ?? this.#writing.get(digest))?.record
  }

  /** Records that the database gives a session `ttlMs` to live. */
  recordExpiry(record: SessionRecord, ttlMs: number, now = performance.now()): void {
    record.expiresAt = now + ttlMs
  }

  /** Records a read: an access, and that the database gives the session `ttlMs` to live. */
  recordRead(record: SessionRecord, id: string, ttlMs: number, now: number): void {
    record.expiresAt = now + ttlMs
    this.recordAccess(record, id, now)
  }

  /** Forgets when all sessions expire, because other processes may have changed that. */
  forgetExpiries(): void {
    this.#options.records.forgetExpiries()
    for (const touches of [this.#pending, this.#writing])
      for (const { record } of touches.values()) record.expiresAt = 0
  }

  /** Returns how many ms a session has to live, pending touches included; below 0: unknown. */
  getRemainingTtl({ expiresAt, touch }: SessionRecord): number {
    return Math.max(expiresAt, touch?.expiresAt ?? 0) - performance.now()
  }

  /** Drops the pending touch of a session that was destroyed. */
  cancel(digest: string): void {
    this.#options.records.forgetExpiry(digest)
    const pending = this.#pending.get(digest)
    if (pending !== undefined) this.#remove(pending)
    this.#writing.delete(digest)
  }

  /** Drops the pending touch of a session that was saved since, with an expiry that may be an earlier one. */
  dropBefore({ touch }: SessionRecord, savedAt: number): void {
    if (touch !== undefined && touch.lastAccessedAt <= savedAt) this.#remove(touch)
  }

  #add(touch: PendingTouch): void {
    touch.record.touch = touch
    this.#pending.set(touch.record.digest, touch)
  }

  #remove(touch: PendingTouch): void {
    const { record } = touch
    if (record.touch === touch) record.touch = undefined
    if (this.#pending.get(record.digest) === touch) this.#pending.delete(record.digest)
  }

  /** Whether a touch of this session is not known to be written. */
  isPending({ digest }: SessionRecord): boolean {
    return this.#pending.has(digest) || this.#writing.has(digest)
  }

  /** Writes the pending touch of a session now. Rejects if that fails; the touch stays pending. */
  async writeNow({ digest }: SessionRecord): Promise<void> {
    const [pending, writing] = [this.#pending.get(digest), this.#writing.get(digest)]
    const touch = pending && writing ? latest(pending, writing) : (pending ?? writing)
    if (touch === undefined) return
    await this.#options.writeOne(toTouch(touch, performance.now()))
    if (pending !== undefined) this.#remove(pending)
  }

  /**
   * Records an access and, if given, the ms from now that the session is to live. Resolves when the touch is written or
   * deferred. It is written at once if the expiry isn't known: the session could expire before a deferred write.
   */
  async touch(record: SessionRecord, id: string, ttlMs?: number): Promise<void> {
    const now = performance.now()
    if (this.#mayDefer(record, now)) {
      this.#defer(record, id, ttlMs, now)
      return
    }
    const remainingMs = record.expiresAt - now
    // Without the earlier touch, the session may have expired for this one.
    if (this.isPending(record)) await this.writeNow(record)
    await this.#options.writeOne({ id, ttlMs: ttlMs ?? null, ageMs: 0 })
    if (ttlMs !== undefined && remainingMs < ttlMs) this.recordExpiry(record, ttlMs)
  }

  #mayDefer({ expiresAt }: SessionRecord, now: number): boolean {
    return this.#options.intervalMs > 0 && expiresAt > now && !this.#stopped
  }

  #defer(record: SessionRecord, id: string, ttlMs: number | undefined, now: number): void {
    // A record that was forgotten while a call was in flight has been made again.
    const pending = record.touch ?? this.#pending.get(record.digest)
    const delayMs = Math.min(this.#options.intervalMs, (record.expiresAt - now) * maxTtlShare)
    const dueAt = pending?.dueAt ?? now + delayMs
    const expiresAt =
      ttlMs === undefined ? pending?.expiresAt : Math.max(now + ttlMs, pending?.expiresAt ?? 0)
    this.#add({ record, id, expiresAt, lastAccessedAt: now, dueAt })
    if (this.#pending.size >= maxPendingTouches) void this.flush()
    else this.#wakeAt(dueAt)
  }

  /** Records an access; the write is deferred. With an interval of 0 it is only written if there is an idle timeout. */
  recordAccess(record: SessionRecord, id: string, now = performance.now()): void {
    if (record.touch !== undefined) record.touch.lastAccessedAt = now
    else if (this.#mayDefer(record, now)) this.#defer(record, id, undefined, now)
    else if (this.#options.intervalMs > 0 || this.#options.countsIdleness)
      this.touch(record, id).catch((error) =>
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
    const due = [...this.#pending.values()].filter(({ dueAt }) => dueAt <= dueBefore)
    for (const touch of due) {
      this.#remove(touch)
      this.#writing.set(touch.record.digest, touch)
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

  async #write(batch: readonly PendingTouch[]): Promise<Error | undefined> {
    const now = performance.now()
    let failure: Error | undefined
    try {
      const write = (): Promise<ReadonlySet<string>> =>
        this.#options.write(batch.map((touch) => toTouch(touch, now)))
      const locked = await (this.#options.flush?.(batch.length, write) ?? write())
      for (const touch of batch) {
        const { record, id, expiresAt } = touch
        // A row that is locked isn't swept either.
        if (locked.has(id)) this.#retry(touch)
        else if (expiresAt !== undefined) record.expiresAt = Math.max(expiresAt, record.expiresAt)
      }
    } catch (error) {
      failure = new Error(
        `deferred touches could not be written yet, and are tried again: ${messageOf(error)}`,
      )
      this.#options.warn(failure)
      for (const touch of batch) this.#retry(touch)
    }
    for (const touch of batch) {
      const { digest } = touch.record
      if (this.#writing.get(digest) === touch) this.#writing.delete(digest)
    }
    return failure
  }

  /** Not if the session was destroyed meanwhile. */
  #retry(touch: PendingTouch): void {
    const { record } = touch
    if (this.#writing.get(record.digest) !== touch) return
    // Its record may be another one: see `#defer`.
    const newer = this.#pending.get(record.digest)
    if (newer !== undefined) {
      this.#add(latest(newer, touch))
      return
    }
    const now = performance.now()
    const delayMs = Math.min(
      maxRetryDelayMs,
      Math.max(minRetryDelayMs, (record.expiresAt - now) * maxTtlShare),
    )
    this.#add({ ...touch, dueAt: now + Math.min(this.#options.intervalMs, delayMs) })
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
