// The bounded in-memory cache of sessions, which never keeps a version older than one it was notified of.
import { LRUCache } from 'lru-cache'
import { clone, parse } from '../session/json.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import { type MergeBase, MergeBases } from './merge-bases.js'

/** All times are by the monotonic clock. */
interface Entry extends MergeBase {
  readonly id: string
  /** Parsed at the first `get`; each caller gets a clone. */
  session: Session | undefined
  /** Until when the entry may be returned. */
  readonly freshUntil: number
  /** When the session itself expires. */
  readonly expiresAt: number
  /** When its use was last reported. */
  lastUsedAt: number
}

/** A read or write in flight, whose result may arrive after the notification of a newer version. */
export interface Fill {
  readonly digest: string
  readonly startedAt: number
  readonly epoch: number
  /** Older versions than this are stale. */
  minVersion: number
}

export interface CacheLimits {
  readonly max: number
  readonly maxBytes: number
  readonly ttl: number
}

/** The use of a session is reported at most once in this time. */
const useIntervalMs = 1_000

/** Keyed by digest. */
export class LocalCache {
  readonly #entries: LRUCache<string, Entry>
  readonly #ttl: number
  readonly #now: () => number
  readonly #onUse: (digest: string, id: string) => void
  readonly #bases: MergeBases
  readonly #fills = new Map<string, Set<Fill>>()
  readonly #fetches = new Map<string, Promise<StoredSession | undefined>>()
  #epoch = 0
  hits = 0
  misses = 0

  /**
   * `now` is a monotonic clock in ms; `onUse` is called, at intervals, for sessions that are returned; `bases` remembers
   * the version of each.
   */
  constructor(
    { max, maxBytes, ttl }: CacheLimits,
    now: () => number = () => performance.now(),
    onUse: (digest: string, id: string) => void = () => undefined,
    bases = new MergeBases(),
  ) {
    this.#entries = new LRUCache({ max, maxSize: maxBytes })
    this.#ttl = ttl
    this.#now = now
    this.#onUse = onUse
    this.#bases = bases
  }

  get size(): number {
    return this.#entries.size
  }

  /** Characters of JSON held. */
  get bytes(): number {
    return this.#entries.calculatedSize
  }

  /** Returns a copy of a session that is fresh, and remembers its merge base. */
  get(digest: string): Session | undefined {
    const entry = this.#entries.peek(digest)
    const now = this.#now()
    const session = entry === undefined || entry.freshUntil <= now ? undefined : cloneOf(entry)
    if (entry === undefined || session === undefined) {
      this.misses++
      return undefined
    }
    this.hits++
    this.#bases.remember(session, entry)
    if (now - entry.lastUsedAt >= useIntervalMs) {
      entry.lastUsedAt = now
      // Eviction knows the last use to the second; updating it at each call would cost more than the look-up.
      this.#entries.get(digest)
      this.#onUse(digest, entry.id)
    }
    return session
  }

  /** Returns how many ms a cached session has to live, as far as the database has said; not above 0: unknown. */
  getRemainingTtl(digest: string): number {
    return (this.#entries.peek(digest)?.expiresAt ?? 0) - this.#now()
  }

  /** Whether this version of a session, or a newer one, is cached: a notification of it brings nothing new. */
  hasVersion(digest: string, version: number): boolean {
    return (this.#entries.peek(digest)?.version ?? 0) >= version
  }

  /** Returns a fresh session without counting that as its use. */
  peek(digest: string): MergeBase | undefined {
    const entry = this.#entries.peek(digest)
    return entry === undefined || entry.freshUntil <= this.#now() ? undefined : entry
  }

  /**
   * As `fill`, but concurrent misses share one query, with two exceptions. A caller that arrives after an invalidation
   * doesn't join an older query. That there is no session isn't shared with callers that arrived during the query, because
   * the first insert of a session sends no notification.
   */
  async fetch(
    digest: string,
    load: () => Promise<StoredSession | undefined>,
  ): Promise<StoredSession | undefined> {
    const earlier = this.#fetches.get(digest)
    const stored = earlier && (await earlier)
    if (stored !== undefined) return stored
    const current = this.#fetches.get(digest)
    if (current !== undefined && current !== earlier) return current
    const fetched = this.fill(digest, load).finally(() => {
      if (this.#fetches.get(digest) === fetched) this.#fetches.delete(digest)
    })
    this.#fetches.set(digest, fetched)
    return fetched
  }

  /** Loads a session, and caches it unless a notification of a newer version arrives first. */
  async fill(
    digest: string,
    load: () => Promise<StoredSession | undefined>,
  ): Promise<StoredSession | undefined> {
    const fill = this.beginFill(digest)
    let stored: StoredSession | undefined
    try {
      stored = await load()
      return stored
    } finally {
      this.commitFill(fill, stored)
    }
  }

  /** Must be called before the query is sent, and `commitFill` after it. */
  beginFill(digest: string): Fill {
    const fill: Fill = { digest, startedAt: this.#now(), epoch: this.#epoch, minVersion: 0 }
    const fills = this.#fills.get(digest)
    if (fills === undefined) this.#fills.set(digest, new Set([fill]))
    else fills.add(fill)
    return fill
  }

  /** Caches the query's result, unless a newer version was announced or the cache was cleared since `beginFill`. */
  commitFill(fill: Fill, stored?: StoredSession): void {
    const fills = this.#fills.get(fill.digest)
    fills?.delete(fill)
    if (fills?.size === 0) this.#fills.delete(fill.digest)
    if (stored === undefined || fill.epoch !== this.#epoch || stored.version < fill.minVersion) return
    const cached = this.#entries.peek(fill.digest)
    if (cached !== undefined && cached.version > stored.version) return
    this.#entries.set(
      fill.digest,
      {
        digest: fill.digest,
        id: stored.id,
        json: stored.json,
        session: undefined,
        version: stored.version,
        freshUntil: fill.startedAt + Math.min(stored.ttlMs, this.#ttl),
        expiresAt: fill.startedAt + stored.ttlMs,
        lastUsedAt: fill.startedAt,
      },
      { size: stored.json.length },
    )
  }

  /**
   * Drops a session that is older than `version`, and keeps queries in flight from caching it again. Returns the table's id
   * of the dropped session, `undefined` if there was none.
   */
  invalidate(digest: string, version: number): string | undefined {
    this.#fetches.delete(digest)
    for (const fill of this.#fills.get(digest) ?? []) fill.minVersion = Math.max(fill.minVersion, version)
    const entry = this.#entries.peek(digest)
    if (entry === undefined || entry.version >= version) return undefined
    this.#entries.delete(digest)
    return entry.id
  }

  /** Drops every session, and keeps queries in flight from caching theirs. */
  clear(): void {
    this.#epoch++
    this.#fetches.clear()
    this.#entries.clear()
  }
}

function cloneOf(entry: Entry): Session | undefined {
  try {
    entry.session ??= parse(entry.json)
    return entry.session && clone(entry.session)
  } catch (error) {
    // Nested too deeply to be cloned, though JSON.parse can read it.
    if (error instanceof RangeError) return undefined
    throw error
  }
}
