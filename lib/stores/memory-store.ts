// MemoryStore: keeps sessions in the memory of one process, for development and tests.
import { EventEmitter } from 'node:events'
import { LRUCache } from 'lru-cache'
import { parse } from '../session/json.js'
import { assertSessionId, createId } from '../session/session-id.js'
import { fromStored, toStored } from '../session/stored-session.js'
import { resolveTtl } from '../session/ttl.js'
import type { Session, SessionStore, SessionWithTtl, Ttl, Yieldable } from '../types/session-store.js'
import { assertDuration, assertInteger, withDefaults } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'

/** Options of `MemoryStore`, checked by its constructor. */
export interface MemoryStoreOptions {
  /**
   * The lifetime of a session, in ms, when the middleware passes none.
   * @default 86_400_000 (1 day)
   */
  ttl?: number | undefined
  /**
   * The maximum number of sessions. When it is exceeded, the least recently used one is removed, which signs its user out.
   * @default 10_000
   */
  max?: number | undefined
}

interface Entry {
  readonly json: string
  /** When the session expires, by the monotonic clock. */
  expiresAt: number
}

const defaults = { ttl: 24 * 60 * 60 * 1000, max: 10_000 }

/** How long the id of a destroyed session can't be used again. */
const tombstoneMs = 60 * 60 * 1000

/**
 * Keeps sessions in the memory of this process: for development, for tests, and as the cache of a `CachedStore`. They are lost
 * when the process ends, and other processes don't see them. Uses no timer: an expired session is removed from memory when
 * there is no room for another. It is an EventEmitter because koa-generic-session listens to its store; it emits nothing.
 *
 * @example
 * app.use(session({ store: new MemoryStore({ ttl: 60 * 60 * 1000 }) }))
 */
export class MemoryStore extends EventEmitter implements SessionStore {
  readonly #ttl: number
  readonly #now: () => number
  readonly #sessions: LRUCache<string, Entry>
  /** The tombstones: when each may be forgotten, by session id. */
  readonly #tombstones: LRUCache<string, number>

  /**
   * `now` is a monotonic clock in ms, which tests replace.
   * @throws {TypeError} if an option is unknown or of the wrong type
   * @throws {RangeError} if an option is out of range
   */
  constructor(options: MemoryStoreOptions = {}, now: () => number = () => performance.now()) {
    super()
    const { ttl, max } = withDefaults('options', defaults, options)
    assertDuration('ttl', ttl)
    assertInteger('max', max, 'sessions', 1)
    this.#ttl = ttl
    this.#now = now
    this.#sessions = new LRUCache({ max })
    this.#tombstones = new LRUCache({ max })
  }

  /** Resolves with the session, an object of the caller's own, or with `undefined`. Ignores the middlewares' arguments. */
  get<T extends object = Session>(sid: string, ..._: unknown[]): Yieldable<T | undefined> {
    return yieldable(this.#get(sid) as Promise<T | undefined>)
  }

  async #get(sid: string): Promise<Session | undefined> {
    return (await this.getWithTtl(sid))?.session
  }

  /** Resolves with the session and its remaining life in ms. */
  async getWithTtl(sid: string, ..._: unknown[]): Promise<SessionWithTtl | undefined> {
    assertSessionId(sid)
    const entry = this.#findActive(sid)
    const session = entry && parse(entry.json)
    if (entry === undefined || session === undefined) return undefined
    const ttl = entry.expiresAt - this.#now()
    return { session: fromStored(session, ttl), ttl }
  }

  /**
   * Saves a session, to expire in `ttl` ms. Does nothing if it was destroyed within the last hour.
   * @throws {TypeError} if the session isn't an object that JSON can hold
   */
  set(sid: string, session: object, ttl?: Ttl, ..._: unknown[]): Yieldable<void> {
    return yieldable(this.#set(sid, session, ttl))
  }

  async #set(sid: string, session: object, ttl: Ttl): Promise<void> {
    assertSessionId(sid)
    const json = toStored(session)
    const ttlMs = resolveTtl(ttl, this.#ttl)
    if ((this.#tombstones.get(sid) ?? 0) > this.#now()) return
    this.#sessions.set(sid, { json, expiresAt: this.#now() + ttlMs })
  }

  /** Moves a session's expiry to `ttl` ms from now, never earlier. A no-op if there is no such session. */
  async touch(sid: string, ttl?: Ttl): Promise<void> {
    assertSessionId(sid)
    const ttlMs = resolveTtl(ttl, this.#ttl)
    const entry = this.#findActive(sid)
    if (entry !== undefined) entry.expiresAt = Math.max(entry.expiresAt, this.#now() + ttlMs)
  }

  /** Destroys a session; for an hour, its id can't be saved again. A no-op if there is no such session. */
  destroy(sid: string, ..._: unknown[]): Yieldable<void> {
    return yieldable(this.#destroy(sid))
  }

  async #destroy(sid: string): Promise<void> {
    assertSessionId(sid)
    if (this.#sessions.delete(sid)) this.#tombstones.set(sid, this.#now() + tombstoneMs)
  }

  /** Saves a new session and resolves with its id of 192 random bits. */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.#set(sid, session, ttl)
    return sid
  }

  /** Resolves with the number of active sessions. */
  async count(): Promise<number> {
    const now = this.#now()
    let active = 0
    for (const { expiresAt } of this.#sessions.values()) if (expiresAt > now) active++
    return active
  }

  #findActive(sid: string): Entry | undefined {
    const entry = this.#sessions.get(sid)
    return entry === undefined || entry.expiresAt <= this.#now() ? undefined : entry
  }
}
