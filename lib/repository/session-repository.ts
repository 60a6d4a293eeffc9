// Reads and writes sessions by way of the cache, and keeps the cache in step with results and notifications.
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
  readonly writer: SessionWriter
  /** `undefined`: every read queries the database. */
  readonly cache: LocalCache | undefined
  /** Whether the cache may be read and filled now. */
  readonly isTrusted: () => boolean
  readonly propagate: 'invalidate' | 'update'
  readonly touches: TouchBuffer
  /** Receives the digest and the user of each session that this process has created. */
  readonly onCreated: (digest: string, userId: string | undefined) => void
}

/** A session is named by its `digest` in the cache and in notifications, and by its `id` in the table. */
export class SessionRepository {
  readonly #bases: MergeBases
  readonly #queries: SessionQueries
  readonly #writer: SessionWriter
  readonly #cache: LocalCache | undefined
  readonly #isTrusted: () => boolean
  readonly #reloadsChanged: boolean
  readonly #touches: TouchBuffer
  readonly #onCreated: SessionRepositoryOptions['onCreated']
  /** Saves in flight, by the object that holds the merge base of the next save. */
  readonly #savesInFlight = new WeakMap<object, Promise<void>>()
  /** The number of changes that other processes were notified of. */
  notificationsSent = 0

  constructor(options: SessionRepositoryOptions) {
    const { bases, queries, writer, cache, isTrusted, propagate, touches } = options
    this.#bases = bases
    this.#queries = queries
    this.#writer = writer
    this.#cache = cache
    this.#isTrusted = isTrusted
    this.#reloadsChanged = propagate === 'update'
    this.#touches = touches
    this.#onCreated = options.onCreated
  }

  /** Returns a copy of a cached session. Its merge base is remembered for the copy, and for `owner` if given. */
  getCached(digest: string, owner?: object): Session | undefined {
    const cache = this.#isTrusted() ? this.#cache : undefined
    const session = cache?.get(digest)
    return session && this.#present(digest, session, () => cache?.getRemainingTtl(digest) ?? 0, owner)
  }

  /** Reads a session from the database. Concurrent reads share one query, except `fresh` ones. */
  async read(digest: string, id: string, fresh: boolean, owner?: object): Promise<Session | undefined> {
    const cache = this.#isTrusted() ? this.#cache : undefined
    const load = (): Promise<StoredSession | undefined> => this.#queries.read(id)
    const stored = await (cache === undefined
      ? load()
      : fresh
        ? cache.fill(digest, load)
        : cache.fetch(digest, load))
    if (stored === undefined) return undefined
    this.#touches.recordExpiry(digest, stored.ttlMs)
    this.#touches.recordAccess(digest, id)
    const session = parse(stored.json)
    if (session === undefined) return undefined
    this.#bases.remember(session, { digest, json: stored.json, version: stored.version })
    return this.#present(digest, session, () => stored.ttlMs, owner)
  }

  /** Applies what depends on the time: removes expired attributes, and sets the expiry that koa-session looks at. */
  #present(digest: string, session: Session, getRemainingTtl: () => number, owner?: object): Session {
    const ttlMs = isKoaSession(session)
      ? Math.max(getRemainingTtl(), this.#touches.getRemainingTtl(digest))
      : undefined
    const presented = fromStored(session, ttlMs)
    if (presented === session && owner === undefined) return session
    const base = this.#bases.find(session, digest)
    if (base !== undefined)
      for (const object of [presented, owner ?? presented]) this.#bases.remember(object, base)
    return presented
  }

  /** Returns how many ms a session that was just returned has to live. */
  getRemainingTtl(digest: string): number {
    return Math.max(this.#touches.getRemainingTtl(digest), this.#cache?.getRemainingTtl(digest) ?? 0)
  }

  /**
   * Saves a session over the merge base of the object or of koa-session's context, or else over the request's. Saves of one
   * object run one after another: each sets the merge base of the next.
   */
  async save(
    digest: string,
    request: SaveRequest,
    session: object,
    context: object | undefined,
  ): Promise<void> {
    const owners = context === undefined ? [session] : [session, context]
    const mainOwner = context ?? session
    const save = (): Promise<void> => {
      const base = owners.map((owner) => this.#bases.find(owner, digest)).find((base) => base !== undefined)
      return this.write(digest, { ...request, base: base ?? request.base }, owners)
    }
    const earlier = this.#savesInFlight.get(mainOwner)
    const saving = earlier === undefined ? save() : earlier.then(save)
    const settled = saving.catch(() => undefined)
    this.#savesInFlight.set(mainOwner, settled)
    await saving
    if (this.#savesInFlight.get(mainOwner) === settled) this.#savesInFlight.delete(mainOwner)
  }

  /**
   * Saves a session, or only touches it if it is unchanged; a destroyed one stays destroyed. What was saved becomes the merge
   * base of each of `owners`.
   */
  async write(digest: string, request: SaveRequest, owners: readonly object[]): Promise<void> {
    const { id, json, ttlMs } = request
    const current = typeof request.base === 'object' ? request.base : this.peek(digest)
    if (ttlMs !== null && ttlMs > 0 && current?.json === json) {
      await this.#touches.touch(digest, id, ttlMs)
      if (current !== request.base) for (const owner of owners) this.#bases.remember(owner, current)
      return
    }
    const saved = await this.#change(digest, () => this.#writer.save(request))
    if (saved === undefined) return
    this.#touches.recordExpiry(digest, saved.ttlMs)
    for (const owner of owners) this.#bases.remember(owner, mergeBaseAfter(digest, json, saved))
    // Only an insert is not announced. Without versions nothing is, so that it can't be told.
    if (!saved.notify && saved.version > 0) this.#onCreated(digest, request.userId)
  }

  /** Destroys a session. Resolves with whether there was one. */
  async destroy(digest: string, id: string): Promise<boolean> {
    this.#touches.cancel(digest)
    const destroyed = await this.#change(digest, async () => {
      const change = await this.#queries.destroy(id)
      return change && { ...change, json: '' }
    })
    return destroyed !== undefined
  }

  /** Drops a session that was destroyed here by another way than `destroy`. */
  invalidate(digest: string, version: number): void {
    this.notificationsSent++
    this.#touches.cancel(digest)
    // Version 0: the table has no versions.
    this.#cache?.invalidate(digest, version || Number.POSITIVE_INFINITY)
  }

  /** Returns the current state of a session, if the cache has it. */
  peek(digest: string): MergeBase | undefined {
    return this.#isTrusted() ? this.#cache?.peek(digest) : undefined
  }

  /** Applies a change of another process. A process also receives its own notifications, which change nothing. */
  applyNotification({ clear, changes }: Notification): void {
    const cache = this.#cache
    if (cache === undefined) return
    if (clear) {
      cache.clear()
      this.#touches.forgetExpiry()
      return
    }
    for (const { digest, version } of changes) {
      if (!cache.hasVersion(digest, version)) this.#touches.forgetExpiry(digest)
      const id = cache.invalidate(digest, version)
      // Batched with all reads of this tick. If it fails, the session is read when a request needs it.
      if (id !== undefined && this.#reloadsChanged)
        cache.fetch(digest, () => this.#queries.read(id)).catch(() => undefined)
    }
  }

  /** Makes a change, after which the cache holds the new state or none. */
  async #change(
    digest: string,
    change: () => Promise<SaveResult | undefined>,
  ): Promise<SaveResult | undefined> {
    const cache = this.#cache
    if (cache === undefined) {
      const result = await change()
      if (result?.notify) this.notificationsSent++
      return result
    }
    const fill = cache.beginFill(digest)
    // Drops any version if the change fails, if nothing was written, or if the table has no versions.
    let version = Number.POSITIVE_INFINITY
    let stored: StoredSession | undefined
    try {
      const result = await change()
      if (result?.notify) this.notificationsSent++
      if (result?.version) version = result.version
      if (result?.json && this.#isTrusted()) stored = result
      return result
    } finally {
      cache.invalidate(digest, version)
      cache.commitFill(fill, stored)
    }
  }
}
