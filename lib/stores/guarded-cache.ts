// A cache that may fail, made safe to ask: what it might know wrongly isn't asked, and nobody waits for it long.

import type { SessionCache } from '../types/session-store.js'
import { messageOf, redact } from '../util/driver-errors.js'

export interface GuardedCacheOptions {
  readonly cache: SessionCache
  /** How long the cache keeps anything at most, in ms. */
  readonly ttl: number
  /** How long a call waits for the cache, in ms. */
  readonly timeout: number
  readonly warn: (error: Error) => void
  /** A monotonic clock in ms. */
  readonly now: () => number
}

/** What the cache is told to know of a session. */
interface CachedSession {
  readonly json: string
  /** Milliseconds that the session had to live when the store answered it; `null`: the store didn't say. */
  readonly ttlMs: number | null
  /** For how many ms the cache was to keep it. */
  readonly cacheTtlMs: number
}

interface State {
  /** Calls that hold it. */
  holders: number
  /** Changes of the session that are under way. */
  changing: number
  /** Grows when a change begins and when it ends: what was read before isn't kept after. */
  generation: number
  /** What the cache must still do before it may be asked: it may know what the store doesn't any more. */
  pendingInvalidation: 'forget' | 'destroy' | undefined
  /** What it was told last; the next waits for it, however long that takes. */
  lastWrite: Promise<unknown> | undefined
}

/** A cache that failed is left alone for so long. */
const resetTimeoutMs = 1_000

/** How many sessions at most the cache may owe something. */
const maxPending = 10_000

/**
 * Knows of each session that is in use whether the cache may be asked about it. Not while a change is under way; and not
 * after one until the cache has done what it owes: if that fails, it is tried again with the next call that the cache
 * answers. If it owes too much, nothing is asked until all that it knew has gone by its ttl.
 */
export class GuardedCache {
  readonly #options: GuardedCacheOptions
  readonly #states = new Map<string, State>()
  /** The ids of those for whom the cache failed to do what it owes. */
  readonly #pendingIds = new Set<string>()
  #openUntil = 0
  #isRetrying = false

  constructor(options: GuardedCacheOptions) {
    this.#options = options
  }

  /** To be called before the cache and the store are asked; `end` must follow. */
  read(sid: string): Reading {
    const state = this.#acquire(sid)
    const { generation: turn } = state
    return {
      find: async () => {
        if (state.pendingInvalidation !== undefined) this.#retryPending()
        if (state.pendingInvalidation !== undefined || this.#isOpen()) return undefined
        const found = await this.#withTimeout(this.#ask(() => this.#options.cache.get(sid), [sid]))
        // What changed meanwhile may have come too late for the cache's answer.
        return turn === state.generation && isKept(found) ? found : undefined
      },
      fill: (kept) => {
        if (turn !== state.generation || state.pendingInvalidation !== undefined || this.#isOpen()) return
        // Nobody waits for it.
        void this.#withTimeout(
          this.#enqueueWrite(sid, state, () => this.#options.cache.set(sid, kept, kept.cacheTtlMs), [
            kept.json,
          ]),
        )
      },
      end: () => this.#release(sid, state),
    }
  }

  /** Runs a change of the store, after which the cache doesn't know the session, or isn't asked about it. */
  async change<T>(sid: string, kind: 'forget' | 'destroy', work: () => PromiseLike<T>): Promise<T> {
    const state = this.#acquire(sid)
    state.changing++
    state.generation++
    if (state.pendingInvalidation !== 'destroy') state.pendingInvalidation = kind
    try {
      return await work()
    } finally {
      // Also if it failed: it may have been made.
      state.changing--
      state.generation++
      const paid = this.#invalidate(sid, state)
      if (!this.#isOpen()) await this.#withTimeout(paid)
      this.#release(sid, state)
    }
  }

  async #invalidate(sid: string, state: State): Promise<boolean> {
    const { generation: turn, pendingInvalidation: owed } = state
    const { cache } = this.#options
    // A cache that keeps the contract of stores would keep a destroyed session's id: forget isn't destroy.
    const work = (): PromiseLike<unknown> => (owed === 'destroy' ? cache.destroy(sid) : cache.set(sid, {}, 1))
    if ((await this.#enqueueWrite(sid, state, work)) === failed) {
      this.#pendingIds.add(sid)
      this.#dropPending()
      return false
    }
    // Another change pays by itself when it ends.
    if (state.generation === turn && state.changing === 0) {
      state.pendingInvalidation = undefined
      this.#pendingIds.delete(sid)
      this.#cleanUp(sid, state)
    }
    return true
  }

  /** Lets the cache pay what it owes, one session after another, until it fails again. */
  #retryPending(): void {
    if (this.#isRetrying || this.#pendingIds.size === 0 || this.#isOpen()) return
    this.#isRetrying = true
    const settle = async (): Promise<void> => {
      for (const sid of [...this.#pendingIds]) {
        const state = this.#states.get(sid)
        // A change under way pays by itself, and what was told and isn't done would only be told again.
        if (state === undefined || state.changing > 0 || state.lastWrite !== undefined) continue
        if (!(await this.#invalidate(sid, state))) break
      }
    }
    void settle().finally(() => {
      this.#isRetrying = false
    })
  }

  #dropPending(): void {
    if (this.#pendingIds.size <= maxPending) return
    for (const sid of this.#pendingIds) {
      const state = this.#states.get(sid)
      // What isn't done yet may still be done, whenever: its state stays.
      if (state === undefined || state.changing > 0 || state.lastWrite !== undefined) continue
      state.pendingInvalidation = undefined
      this.#pendingIds.delete(sid)
      this.#cleanUp(sid, state)
    }
    this.#open(this.#options.ttl + resetTimeoutMs)
  }

  /** Tells the cache something about a session, after what it was told before; answers `failed` if it didn't do it. */
  #enqueueWrite(
    sid: string,
    state: State,
    work: () => PromiseLike<unknown>,
    secrets: string[] = [],
  ): Promise<unknown> {
    const earlier = state.lastWrite
    const told = (async () => {
      await earlier
      return this.#ask(work, [sid, ...secrets])
    })()
    state.lastWrite = told
    void told.then(() => {
      if (state.lastWrite !== told) return
      state.lastWrite = undefined
      this.#cleanUp(sid, state)
    })
    return told
  }

  /** Never rejects: a failure is reported, and the cache left alone for a while. */
  async #ask(work: () => PromiseLike<unknown>, secrets: string[]): Promise<unknown> {
    try {
      const answer = await work()
      if (!this.#isOpen()) this.#retryPending()
      return answer
    } catch (error) {
      this.#fail(redact(error, secrets))
      return failed
    }
  }

  async #withTimeout(asked: Promise<unknown>): Promise<unknown> {
    const { timeout } = this.#options
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<typeof failed>((resolve) => {
      timer = setTimeout(() => {
        this.#fail(new Error(`no answer within ${timeout} ms`))
        resolve(failed)
      }, timeout)
      timer.unref()
    })
    try {
      return await Promise.race([asked, late])
    } finally {
      clearTimeout(timer)
    }
  }

  #fail(error: Error): void {
    const isNews = !this.#isOpen()
    this.#open(resetTimeoutMs)
    if (isNews)
      this.#options.warn(new Error(`the cache is passed over: ${messageOf(error)}`, { cause: error }))
  }

  #open(ms: number): void {
    this.#openUntil = Math.max(this.#openUntil, this.#options.now() + ms)
  }

  #isOpen(): boolean {
    return this.#options.now() < this.#openUntil
  }

  #acquire(sid: string): State {
    const state = this.#states.get(sid) ?? {
      holders: 0,
      changing: 0,
      generation: 0,
      pendingInvalidation: undefined,
      lastWrite: undefined,
    }
    this.#states.set(sid, state)
    state.holders++
    return state
  }

  #release(sid: string, state: State): void {
    state.holders--
    this.#cleanUp(sid, state)
  }

  /** Forgets what nobody needs: the cache may be asked about every session that has no state. */
  #cleanUp(sid: string, state: State): void {
    if (state.holders === 0 && state.pendingInvalidation === undefined && state.lastWrite === undefined)
      this.#states.delete(sid)
  }
}

/** A `get` under way. */
export interface Reading {
  /** What the cache knows, if it may be asked and answers. */
  find(): Promise<CachedSession | undefined>
  /** Has the cache keep what the store answered, unless a change overtook it. */
  fill(kept: CachedSession): void
  end(): void
}

const failed = Symbol('failed')

function isKept(value: unknown): value is CachedSession {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, 'json') === 'string'
}
