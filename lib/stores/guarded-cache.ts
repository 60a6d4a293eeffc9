// A circuit breaker around CachedStore's cache: a slow or failing cache is bypassed, and so is an entry that may be stale.

import type { SessionCache } from '../types/session-store.js'
import { messageOf, redact } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'

export interface GuardedCacheOptions {
  readonly cache: SessionCache
  /** The longest time that the cache keeps an entry, in ms. */
  readonly ttl: number
  /** How long a call waits for the cache, in ms. */
  readonly timeout: number
  readonly warn: (error: Error) => void
  /** A monotonic clock in ms. */
  readonly now: () => number
}

/** What the cache holds for a session. */
interface CachedSession {
  readonly json: string
  /** The session's remaining life in ms when it was read from the store; `null` if the store didn't say. */
  readonly ttlMs: number | null
  /** How long the cache was asked to keep it, in ms. */
  readonly cacheTtlMs: number
}

/** What is known of a session id that is in use, or whose entry may be stale. */
interface State {
  /** The number of calls that use this state. */
  holders: number
  /** The number of changes of the session in progress. */
  changing: number
  /** Incremented when a change starts and when it ends: an older read must not fill the cache. */
  generation: number
  /** Invalidation that has not succeeded yet; the cache is bypassed for this id until it has. */
  pendingInvalidation: 'forget' | 'destroy' | undefined
  /** The last write to the cache; the next one waits for it, however long it takes. */
  lastWrite: Promise<unknown> | undefined
  /** An invalidation that waits for the last write. It serves all changes that end until it starts. */
  nextInvalidation: Promise<boolean> | undefined
}

/** How long the cache is bypassed after a failure. */
const resetTimeoutMs = 1_000

/** The maximum number of ids with a failed invalidation. */
const maxPending = 10_000

/** With so many calls that the cache has not answered, it gets one call in `resetTimeoutMs` until it answers again. */
const maxUnanswered = 5_000

/** The result of a cache operation that failed or timed out. */
const failed = Symbol('failed')

/**
 * Tracks for each session in use whether the cache may be read. It may not during a change, nor after one until the cache has
 * dropped its entry. A failed invalidation is retried after the next call that the cache answers. When too many have failed,
 * the whole cache is bypassed until all its entries have expired.
 */
export class GuardedCache {
  readonly #options: GuardedCacheOptions
  readonly #cache: SessionCache
  readonly #states = new Map<string, State>()
  /** The ids whose invalidation has failed. */
  readonly #pendingIds = new Set<string>()
  #openUntil = 0
  #isRetrying = false
  /** Calls that the cache has not answered, since it last was overloaded and answered again. */
  #unanswered = 0
  #recoveries = 0
  #nextTryAt = 0

  constructor(options: GuardedCacheOptions) {
    this.#options = options
    this.#cache = options.cache
  }

  /** Starts a read, before the cache and the store are asked; `end` must follow. */
  read(sid: string): CacheRead {
    const state = this.#acquire(sid)
    const { generation } = state
    return {
      find: async () => {
        if (state.pendingInvalidation !== undefined) this.#retryPending()
        if (state.pendingInvalidation !== undefined || this.#isOpen()) return undefined
        const found = await this.#withTimeout(this.#call(() => this.#cache.get(sid), [sid]))
        // After a change in the meantime, the entry may be the old one.
        return generation === state.generation && isCachedSession(found) ? found : undefined
      },
      fill: (entry) => {
        const isStale = generation !== state.generation || state.pendingInvalidation !== undefined
        if (isStale || this.#isOpen()) return
        const write = (): PromiseLike<unknown> => this.#cache.set(sid, entry, entry.cacheTtlMs)
        // Not behind a write that hangs: each fill holds a session.
        if (state.lastWrite !== undefined) return
        // The caller doesn't wait for the fill.
        void this.#withTimeout(this.#enqueueWrite(sid, state, write, [entry.json]))
      },
      end: () => this.#release(sid, state),
    }
  }

  /** Runs a change of the store and then invalidates the cached session. */
  async change<T>(sid: string, kind: 'forget' | 'destroy', work: () => PromiseLike<T>): Promise<T> {
    const state = this.#acquire(sid)
    state.changing++
    state.generation++
    if (state.pendingInvalidation !== 'destroy') state.pendingInvalidation = kind
    try {
      return await work()
    } finally {
      // Also after a failure: the change may have been made.
      state.changing--
      state.generation++
      const invalidation = this.#invalidate(sid, state)
      if (!this.#isOpen()) await this.#withTimeout(invalidation)
      this.#release(sid, state)
    }
  }

  #invalidate(sid: string, state: State): Promise<boolean> {
    if (state.nextInvalidation === undefined && this.#isOverloaded()) {
      this.#postpone(sid)
      return Promise.resolve(false)
    }
    state.nextInvalidation ??= this.#invalidateNext(sid, state)
    return state.nextInvalidation
  }

  async #invalidateNext(sid: string, state: State): Promise<boolean> {
    let generation = Number.NaN
    const work = (): PromiseLike<unknown> => {
      state.nextInvalidation = undefined
      generation = state.generation
      // To forget is not to destroy: a cache that is a SessionStore would keep a tombstone, and refuse the next fill.
      return state.pendingInvalidation === 'destroy' ? this.#cache.destroy(sid) : this.#cache.set(sid, {}, 1)
    }
    if ((await this.#enqueueWrite(sid, state, work)) === failed) {
      this.#postpone(sid)
      return false
    }
    // A change that started since then invalidates when it ends.
    if (state.generation === generation && state.changing === 0) this.#clearPending(sid, state)
    return true
  }

  /** An invalidation has failed, or would: it is tried again once the cache answers. */
  #postpone(sid: string): void {
    this.#pendingIds.add(sid)
    this.#dropPending()
  }

  /** Retries the failed invalidations one by one, until one fails again. */
  #retryPending(): void {
    if (this.#isRetrying || this.#pendingIds.size === 0 || this.#isOpen()) return
    this.#isRetrying = true
    const retryAll = async (): Promise<void> => {
      for (const sid of [...this.#pendingIds]) {
        const state = this.#states.get(sid)
        if (state === undefined || isBusy(state)) continue
        state.nextInvalidation ??= this.#invalidateNext(sid, state)
        if ((await this.#withTimeout(state.nextInvalidation)) !== true) break
      }
    }
    void retryAll().finally(() => {
      this.#isRetrying = false
    })
  }

  /** Too many invalidations have failed: bypasses the whole cache until its entries have expired. */
  #dropPending(): void {
    if (this.#pendingIds.size <= maxPending) return
    for (const sid of this.#pendingIds) {
      const state = this.#states.get(sid)
      // A write in progress may still complete at any time, so its state is kept.
      if (state !== undefined && !isBusy(state)) this.#clearPending(sid, state)
    }
    this.#open(this.#options.ttl + resetTimeoutMs)
  }

  #clearPending(sid: string, state: State): void {
    state.pendingInvalidation = undefined
    this.#pendingIds.delete(sid)
    this.#cleanUp(sid, state)
  }

  /** Writes to the cache after the earlier writes of the same id; resolves with `failed` if that failed. */
  #enqueueWrite(
    sid: string,
    state: State,
    work: () => PromiseLike<unknown>,
    secrets: string[] = [],
  ): Promise<unknown> {
    const earlier = state.lastWrite
    const write = (async () => {
      await earlier
      return this.#call(work, [sid, ...secrets])
    })()
    state.lastWrite = write
    void write.then(() => {
      if (state.lastWrite !== write) return
      state.lastWrite = undefined
      this.#cleanUp(sid, state)
    })
    return write
  }

  /** Calls the cache. Never rejects: a failure is reported, opens the circuit, and resolves with `failed`. */
  async #call(work: () => PromiseLike<unknown>, secrets: string[]): Promise<unknown> {
    const recoveries = this.#recoveries
    this.#unanswered++
    try {
      const result = await work()
      if (this.#unanswered >= maxUnanswered) {
        this.#unanswered = 0
        this.#recoveries++
      }
      if (!this.#isOpen()) this.#retryPending()
      return result
    } catch (error) {
      return this.#fail(redact(error, secrets))
    } finally {
      if (recoveries === this.#recoveries) this.#unanswered--
    }
  }

  /** Waits for a call of the cache, which never rejects, no longer than the option `timeout`. */
  #withTimeout(call: Promise<unknown>): Promise<unknown> {
    return withTimeout(call, this.#options.timeout, 'no answer', false).catch((error) => this.#fail(error))
  }

  /** Opens the circuit; warns only if it was closed. */
  #fail(error: unknown): typeof failed {
    const wasOpen = this.#isOpen()
    this.#open(resetTimeoutMs)
    if (!wasOpen) this.#options.warn(new Error(`cache bypassed: ${messageOf(error)}`, { cause: error }))
    return failed
  }

  #open(ms: number): void {
    this.#openUntil = Math.max(this.#openUntil, this.#options.now() + ms)
  }

  #isOpen(): boolean {
    return this.#options.now() < this.#openUntil || this.#isOverloaded()
  }

  /** Whether the cache leaves too many calls unanswered; `false` for one call in `resetTimeoutMs`, which tries it. */
  #isOverloaded(): boolean {
    if (this.#unanswered < maxUnanswered) return false
    const now = this.#options.now()
    if (now < this.#nextTryAt) return true
    this.#nextTryAt = now + resetTimeoutMs
    return false
  }

  #acquire(sid: string): State {
    const state = this.#states.get(sid) ?? {
      holders: 0,
      changing: 0,
      generation: 0,
      pendingInvalidation: undefined,
      lastWrite: undefined,
      nextInvalidation: undefined,
    }
    this.#states.set(sid, state)
    state.holders++
    return state
  }

  #release(sid: string, state: State): void {
    state.holders--
    this.#cleanUp(sid, state)
  }

  /** Drops a state that is no longer needed. The cache may be read for any id without a state. */
  #cleanUp(sid: string, state: State): void {
    if (state.holders === 0 && state.pendingInvalidation === undefined && state.lastWrite === undefined)
      this.#states.delete(sid)
  }
}

/** A `get` in progress. */
interface CacheRead {
  /** Resolves with the cached session, if there is one and the cache may be read. */
  find(): Promise<CachedSession | undefined>
  /** Caches what the store returned, unless a change has overtaken it. */
  fill(entry: CachedSession): void
  end(): void
}

/** Whether a change or a write is in progress, which invalidates by itself or would only be repeated. */
function isBusy(state: State): boolean {
  return state.changing > 0 || state.lastWrite !== undefined
}

function isCachedSession(value: unknown): value is CachedSession {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, 'json') === 'string'
}
