// MemoryStore: sessions in the memory of one process, for development and tests.
import { LRUCache } from 'lru-cache'
import { parse, serialize } from '../session/json.js'
import { assertSessionId, createId } from '../session/session-id.js'
import { fromStored, toStored } from '../session/stored-session.js'
import { resolveTtl } from '../session/ttl.js'
import type { Session, SessionStore, SessionWithTtl, Ttl, Yieldable } from '../types/session-store.js'
import { assertDuration, assertInteger, withDefaults } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'

/** Options of `MemoryStore`; each is checked when the store is made. */
export interface MemoryStoreOptions {
  /** How long a session lives when the middleware doesn't say, in ms. Default a day. */
  ttl?: number | undefined
  /** How many sessions at most; the one that was unused for longest goes, and its person is signed out. Default 10,000. */
  max?: number | undefined
}

interface Entry {
  readonly json: string
  /** When it is over, by the monotonic clock. */
  expiresAt: number
}

const defaults = { ttl: 24 * 60 * 60 * 1000, max: 10_000 }

/** How long a destroyed session's id is remembered. */
const tombstoneMs = 60 * 60 * 1000

/**
 * Keeps sessions in the memory of this process: for development, for tests, and as the cache of a `CachedStore`. They are
 * gone when the process ends, and no other process knows them. Needs no timer: what has expired is let go when it is
 * asked for, or when there is no room.
 */
export class MemoryStore implements SessionStore {
  readonly #ttl: number
  readonly #now: () => number
  readonly #sessions: LRUCache<string, Entry>
  /** Until when the ids of destroyed sessions stay taken. */
  readonly #destroyed: LRUCache<string, number>

  /**
   * Throws a `TypeError` or a `RangeError`, naming the option and what it received, for what it can't use. `now` is a
   * monotonic clock in ms, for tests that let time pass.
   */
  constructor(options: MemoryStoreOptions = {}, now: () => number = () => performance.now()) {
    const { ttl, max } = withDefaults('options', defaults, options)
    assertDuration('ttl', ttl)
    assertInteger('max', max, 'sessions', 1)
    this.#ttl = ttl
    this.#now = now
    this.#sessions = new LRUCache({ max })
    this.#destroyed = new LRUCache({ max })
  }

  /** The session under this id, or `undefined`; an object of the caller's own. Ignores the middlewares' arguments. */
  get<T extends object = Session>(sid: string, ..._: unknown[]): Yieldable<T | undefined> {
    return yieldable(this.#get(sid) as Promise<T | undefined>)
  }

  async #get(sid: string): Promise<Session | undefined> {
    return (await this.getWithTtl(sid))?.session
  }

  /** The session, with the ms that it has to live. */
  async getWithTtl(sid: string, ..._: unknown[]): Promise<SessionWithTtl | undefined> {
    assertSessionId(sid)
    const entry = this.#active(sid)
    const session = entry && parse(entry.json)
    if (entry === undefined || session === undefined) return undefined
    const ttl = entry.expiresAt - this.#now()
    return { session: fromStored(session, ttl), ttl }
  }

  /** Saves a session for `ttl` ms from now, unless it was destroyed within the last hour. Rejects as `PgStore` does. */
  set(sid: string, session: object, ttl?: Ttl, ..._: unknown[]): Yieldable<void> {
    return yieldable(this.#set(sid, session, ttl))
  }

  async #set(sid: string, session: object, ttl: Ttl): Promise<void> {
    assertSessionId(sid)
    const text = toStored(serialize(session))
    const ms = resolveTtl(ttl, this.#ttl)
    if ((this.#destroyed.get(sid) ?? 0) > this.#now()) return
    this.#sessions.set(sid, { json: text, expiresAt: this.#now() + ms })
  }

  /** Moves a session's expiry to `ttl` ms from now, never back. What isn't there stays so. */
  async touch(sid: string, ttl?: Ttl): Promise<void> {
    assertSessionId(sid)
    const ms = resolveTtl(ttl, this.#ttl)
    const entry = this.#active(sid)
    if (entry !== undefined) entry.expiresAt = Math.max(entry.expiresAt, this.#now() + ms)
  }

  /** Ends a session; for an hour nothing brings it back. What isn't there stays so. */
  destroy(sid: string, ..._: unknown[]): Yieldable<void> {
    return yieldable(this.#destroy(sid))
  }

  async #destroy(sid: string): Promise<void> {
    assertSessionId(sid)
    if (this.#sessions.delete(sid)) this.#destroyed.set(sid, this.#now() + tombstoneMs)
  }

  /** Saves a new session under an id of 192 random bits and answers the id. */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.#set(sid, session, ttl)
    return sid
  }

  /** How many sessions are alive. */
  async count(): Promise<number> {
    const now = this.#now()
    let alive = 0
    for (const { expiresAt: until } of this.#sessions.values()) if (until > now) alive++
    return alive
  }

  #active(sid: string): Entry | undefined {
    const entry = this.#sessions.get(sid)
    return entry === undefined || entry.expiresAt <= this.#now() ? undefined : entry
  }
}
