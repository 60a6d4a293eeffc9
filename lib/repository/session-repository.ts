// The sessions of the table by way of the cache: what is answered from memory, and what the database's answers and other
// instances' notices do to it.
import type { LocalCache } from '../cache/local-cache.js'
import type { MergeBase, MergeBases } from '../cache/merge-bases.js'
import type { Notification } from '../notifications/payload.js'
import { parse } from '../session/json.js'
import { isKoaSession } from '../session/koa-session.js'
import { fromStored, type StoredSession } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import type { SessionQueries } from './session-queries.js'
import { mergeBaseAfter, type SaveRequest, type SaveResult, type SessionWriter } from './session-writer.js'
import type { TouchBuffer } from './touch-buffer.js'

export interface SessionRepositoryOptions {
  readonly bases: MergeBases
  readonly queries: SessionQueries
  readonly saves: SessionWriter
  /** None: every read asks the database. */
  readonly cache: LocalCache | undefined
  /** Whether the cache may be answered from, and filled, now. */
  readonly isTrusted: () => boolean
  readonly propagate: 'invalidate' | 'update'
  readonly touches: TouchBuffer
}

/** A session is called by its `name` in the cache and in notices, by its `id` in the table. */
export class SessionRepository {
  readonly #bases: MergeBases
  readonly #queries: SessionQueries
  readonly #saves: SessionWriter
  readonly #cache: LocalCache | undefined
  readonly #isTrusted: () => boolean
  readonly #rereads: boolean
  readonly #touches: TouchBuffer
  /** The saves under way, by what knows the base of the next. */
  readonly #savesInFlight = new WeakMap<object, Promise<void>>()
  /** How many changes others were told of. */
  notificationsSent = 0

  constructor({ bases, queries, saves, cache, isTrusted, propagate, touches }: SessionRepositoryOptions) {
    this.#bases = bases
    this.#saves = saves
    this.#touches = touches
    this.#queries = queries
    this.#cache = cache
    this.#isTrusted = isTrusted
    this.#rereads = propagate === 'update'
  }

  /** A session of the caller's own from memory. `carrier` is to know what it came from, beside the session itself. */
  getCached(name: string, carrier?: object): Session | undefined {
    const cache = this.#isTrusted() ? this.#cache : undefined
    const session = cache?.get(name)
    return session && this.#present(name, session, () => cache?.getRemainingTtl(name) ?? 0, carrier)
  }

  /** A session of the caller's own from the database; those who ask at the same time share the answer, unless `fresh`. */
  async read(name: string, id: string, fresh: boolean, carrier?: object): Promise<Session | undefined> {
    const cache = this.#isTrusted() ? this.#cache : undefined
    const ask = (): Promise<StoredSession | undefined> => this.#queries.read(id)
    const stored = await (cache === undefined
      ? ask()
      : fresh
        ? cache.fill(name, ask)
        : cache.fetch(name, ask))
    if (stored === undefined) return undefined
    this.#touches.recordExpiry(name, stored.ttlMs)
    this.#touches.recordAccess(name, id)
    const session = parse(stored.json)
    if (session === undefined) return undefined
    this.#bases.remember(session, { digest: name, json: stored.json, version: stored.version })
    return this.#present(name, session, () => stored.ttlMs, carrier)
  }

  /** What depends on the time: nothing that has expired, and koa-session is told how long the session has to live. */
  #present(name: string, session: Session, getRemainingTtl: () => number, carrier?: object): Session {
    const ttl = isKoaSession(session)
      ? Math.max(getRemainingTtl(), this.#touches.getRemainingTtl(name))
      : undefined
    const answer = fromStored(session, ttl)
    if (answer === session && carrier === undefined) return session
    const base = this.#bases.find(session, name)
    if (base !== undefined)
      for (const knowing of [answer, carrier ?? answer]) this.#bases.remember(knowing, base)
    return answer
  }

  /** For how many ms a session that was just answered has to live. */
  getRemainingTtl(name: string): number {
    return Math.max(this.#touches.getRemainingTtl(name), this.#cache?.getRemainingTtl(name) ?? 0)
  }

  /**
   * Saves a session over what it, or koa-session's context, knows that it came from; else over the base that is given. An
   * object that is saved again while it is being saved comes from what it is then.
   */
  async save(name: string, save: SaveRequest, session: object, context: object | undefined): Promise<void> {
    const carriers = context === undefined ? [session] : [session, context]
    const carrier = context ?? session
    const work = (): Promise<void> => {
      const known = carriers.map((one) => this.#bases.find(one, name)).find((base) => base !== undefined)
      return this.write(name, { ...save, base: known ?? save.base }, carriers)
    }
    const earlier = this.#savesInFlight.get(carrier)
    const saving = earlier === undefined ? work() : earlier.then(work)
    const settled = saving.catch(() => undefined)
    this.#savesInFlight.set(carrier, settled)
    await saving
    if (this.#savesInFlight.get(carrier) === settled) this.#savesInFlight.delete(carrier)
  }

  /**
   * Saves a session, unless it is over; one that is as it was is only touched. Each of `carriers` knows afterwards what it
   * was saved as.
   */
  async write(name: string, save: SaveRequest, carriers: readonly object[]): Promise<void> {
    const { id, json: text, ttl } = save
    const before = typeof save.base === 'object' ? save.base : this.peek(name)
    if (ttl !== null && ttl > 0 && before?.json === text) {
      await this.#touches.touch(name, id, ttl)
      if (before !== save.base) for (const carrier of carriers) this.#bases.remember(carrier, before)
      return
    }
    const saved = await this.#change(name, () => this.#saves.save(save))
    if (saved === undefined) return
    this.#touches.recordExpiry(name, saved.ttlMs)
    for (const carrier of carriers) this.#bases.remember(carrier, mergeBaseAfter(name, text, saved))
  }

  async destroy(name: string, id: string): Promise<void> {
    this.#touches.cancel(name)
    await this.#change(name, async () => {
      const change = await this.#queries.destroy(id)
      return change && { ...change, json: '' }
    })
  }

  /** What else was changed here: nobody who asks from now on gets the old. */
  applyChange(name: string, version: number): void {
    this.notificationsSent++
    this.#touches.cancel(name)
    // A table without versions can't say.
    this.#cache?.invalidate(name, version || Number.POSITIVE_INFINITY)
  }

  /** The session as it is now, as far as that is known. */
  peek(name: string): MergeBase | undefined {
    return this.#isTrusted() ? this.#cache?.peek(name) : undefined
  }

  /** What another instance changed, or this one: its own echo is no news. */
  applyNotification(notice: Exclude<Notification, { heartbeat: string }>): void {
    const cache = this.#cache
    if (cache === undefined) return
    if (notice === 'flush') {
      cache.clear()
      this.#touches.forgetExpiry()
    } else
      for (const { digest: name, version } of notice) {
        if (!cache.hasVersion(name, version)) this.#touches.forgetExpiry(name)
        const id = cache.invalidate(name, version)
        // Many in one statement, as all reads of one turn. Without an answer it is read when somebody asks for it.
        if (id !== undefined && this.#rereads)
          cache.fetch(name, () => this.#queries.read(id)).catch(() => undefined)
      }
  }

  /** Makes a change, after which the cache has the new state or none. */
  async #change(name: string, work: () => Promise<SaveResult | undefined>): Promise<SaveResult | undefined> {
    const cache = this.#cache
    if (cache === undefined) {
      const changed = await work()
      if (changed?.notify) this.notificationsSent++
      return changed
    }
    const fill = cache.beginFill(name)
    // If it fails, or finds the session over, nobody knows what is there; a table without versions can't say.
    let version = Number.POSITIVE_INFINITY
    let stored: StoredSession | undefined
    try {
      const changed = await work()
      if (changed?.notify) this.notificationsSent++
      if (changed?.version) version = changed.version
      if (changed?.json && this.#isTrusted()) stored = changed
      return changed
    } finally {
      cache.invalidate(name, version)
      cache.commitFill(fill, stored)
    }
  }
}
