// A cache that may fail, made safe to ask: what it might know wrongly isn't asked, and nobody waits for it long.

import type { SessionCache } from '../types/session-store.js'
import { messageOf, withoutSecrets } from '../util/driver-errors.js'

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
interface Kept {
  readonly json: string
  /** Milliseconds that the session had to live when the store answered it; `null`: the store didn't say. */
  readonly left: number | null
  /** For how many ms the cache was to keep it. */
  readonly life: number
}

interface State {
  /** Calls that hold it. */
  holders: number
  /** Changes of the session that are under way. */
  changing: number
  /** Grows when a change begins and when it ends: what was read before isn't kept after. */
  turn: number
  /** What the cache must still do before it may be asked: it may know what the store doesn't any more. */
  owed: 'forget' | 'destroy' | undefined
  /** What it was told last; the next waits for it, however long that takes. */
  told: Promise<unknown> | undefined
}

/** A cache that failed is left alone for so long. */
const pauseMs = 1_000

/** How many sessions at most the cache may owe something. */
const mostOwed = 10_000

/**
 * Knows of each session that is in use whether the cache may be asked about it. Not while a change is under way; and not
 * after one until the cache has done what it owes: if that fails, it is tried again with the next call that the cache
 * answers. If it owes too much, nothing is asked until all that it knew has gone by its ttl.
 */
export class GuardedCache {
  readonly #options: GuardedCacheOptions
  readonly #states = new Map<string, State>()
  /** The ids of those for whom the cache failed to do what it owes. */
  readonly #debtors = new Set<string>()
  #silentUntil = 0
  #isSettling = false

  constructor(options: GuardedCacheOptions) {
    this.#options = options
  }

  /** To be called before the cache and the store are asked; `end` must follow. */
  read(sid: string): Reading {
    const state = this.#hold(sid)
    const { turn } = state
    return {
      find: async () => {
        if (state.owed !== undefined) this.#settle()
        if (state.owed !== undefined || this.#isSilent()) return undefined
        const found = await this.#within(this.#ask(() => this.#options.cache.get(sid), [sid]))
        // What changed meanwhile may have come too late for the cache's answer.
        return turn === state.turn && isKept(found) ? found : undefined
      },
      fill: (kept) => {
        if (turn !== state.turn || state.owed !== undefined || this.#isSilent()) return
        // Nobody waits for it.
        void this.#within(
          this.#tell(sid, state, () => this.#options.cache.set(sid, kept, kept.life), [kept.json]),
        )
      },
      end: () => this.#release(sid, state),
    }
  }

  /** Runs a change of the store, after which the cache doesn't know the session, or isn't asked about it. */
  async change<T>(sid: string, kind: 'forget' | 'destroy', work: () => PromiseLike<T>): Promise<T> {
    const state = this.#hold(sid)
    state.changing++
    state.turn++
    if (state.owed !== 'destroy') state.owed = kind
    try {
      return await work()
    } finally {
      // Also if it failed: it may have been made.
      state.changing--
      state.turn++
      const paid = this.#pay(sid, state)
      if (!this.#isSilent()) await this.#within(paid)
      this.#release(sid, state)
    }
  }

  async #pay(sid: string, state: State): Promise<boolean> {
    const { turn, owed } = state
    const { cache } = this.#options
    // A cache that keeps the contract of stores would keep a destroyed session's id: forget isn't destroy.
    const work = (): PromiseLike<unknown> => (owed === 'destroy' ? cache.destroy(sid) : cache.set(sid, {}, 1))
    if ((await this.#tell(sid, state, work)) === failed) {
      this.#debtors.add(sid)
      this.#forgive()
      return false
    }
    // Another change pays by itself when it ends.
    if (state.turn === turn && state.changing === 0) {
      state.owed = undefined
      this.#debtors.delete(sid)
      this.#drop(sid, state)
    }
    return true
  }

  /** Lets the cache pay what it owes, one session after another, until it fails again. */
  #settle(): void {
    if (this.#isSettling || this.#debtors.size === 0 || this.#isSilent()) return
    this.#isSettling = true
    const settle = async (): Promise<void> => {
      for (const sid of [...this.#debtors]) {
        const state = this.#states.get(sid)
        // A change under way pays by itself, and what was told and isn't done would only be told again.
        if (state === undefined || state.changing > 0 || state.told !== undefined) continue
        if (!(await this.#pay(sid, state))) break
      }
    }
    void settle().finally(() => {
      this.#isSettling = false
    })
  }

  #forgive(): void {
    if (this.#debtors.size <= mostOwed) return
    for (const sid of this.#debtors) {
      const state = this.#states.get(sid)
      // What isn't done yet may still be done, whenever: its state stays.
      if (state === undefined || state.changing > 0 || state.told !== undefined) continue
      state.owed = undefined
      this.#debtors.delete(sid)
      this.#drop(sid, state)
    }
    this.#silence(this.#options.ttl + pauseMs)
  }

  /** Tells the cache something about a session, after what it was told before; answers `failed` if it didn't do it. */
  #tell(
    sid: string,
    state: State,
    work: () => PromiseLike<unknown>,
    secrets: string[] = [],
  ): Promise<unknown> {
    const earlier = state.told
    const told = (async () => {
      await earlier
      return this.#ask(work, [sid, ...secrets])
    })()
    state.told = told
    void told.then(() => {
      if (state.told !== told) return
      state.told = undefined
      this.#drop(sid, state)
    })
    return told
  }

  /** Never rejects: a failure is reported, and the cache left alone for a while. */
  async #ask(work: () => PromiseLike<unknown>, secrets: string[]): Promise<unknown> {
    try {
      const answer = await work()
      if (!this.#isSilent()) this.#settle()
      return answer
    } catch (error) {
      this.#fail(withoutSecrets(error, secrets))
      return failed
    }
  }

  async #within(asked: Promise<unknown>): Promise<unknown> {
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
    const isNews = !this.#isSilent()
    this.#silence(pauseMs)
    if (isNews)
      this.#options.warn(new Error(`the cache is passed over: ${messageOf(error)}`, { cause: error }))
  }

  #silence(ms: number): void {
    this.#silentUntil = Math.max(this.#silentUntil, this.#options.now() + ms)
  }

  #isSilent(): boolean {
    return this.#options.now() < this.#silentUntil
  }

  #hold(sid: string): State {
    const state = this.#states.get(sid) ?? {
      holders: 0,
      changing: 0,
      turn: 0,
      owed: undefined,
      told: undefined,
    }
    this.#states.set(sid, state)
    state.holders++
    return state
  }

  #release(sid: string, state: State): void {
    state.holders--
    this.#drop(sid, state)
  }

  /** Forgets what nobody needs: the cache may be asked about every session that has no state. */
  #drop(sid: string, state: State): void {
    if (state.holders === 0 && state.owed === undefined && state.told === undefined) this.#states.delete(sid)
  }
}

/** A `get` under way. */
export interface Reading {
  /** What the cache knows, if it may be asked and answers. */
  find(): Promise<Kept | undefined>
  /** Has the cache keep what the store answered, unless a change overtook it. */
  fill(kept: Kept): void
  end(): void
}

const failed = Symbol('failed')

function isKept(value: unknown): value is Kept {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, 'json') === 'string'
}
