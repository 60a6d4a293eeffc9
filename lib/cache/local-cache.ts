// The bounded in-memory cache of sessions, which never keeps a version older than one it was notified of.
import { LRUCache } from 'lru-cache'
import { clone, parse } from '../session/json.js'
import { mayExpire, type StoredSession } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import type { MergeBase } from './merge-bases.js'
import type { CacheEntry, SessionRecord } from './session-records.js'

/** A session that is the caller's own, and what it was copied from: its merge base. */
export interface CachedSession {
  readonly session: Session
  readonly entry: CacheEntry
}

/** When a read or write began, whose result may arrive after the notification of a newer version. */
export interface Fill {
  readonly startedAt: number
  /** The number of invalidations before it. */
  readonly sequence: number
}

/** What is known to be stale of a session. */
interface Invalidation {
  /** Older versions are, whenever they were read: versions grow. */
  version: number
  /** So is what was read before this invalidation, whatever its version. */
  droppedAt: number
}

/** Invalidations that are remembered for fills in flight. When there are more, those fills are dropped. */
const maxInvalidations = 10_000

export interface CacheLimits {
  readonly max: number
  readonly maxBytes: number
  readonly ttl: number
}

/** The use of a session is reported at most once in this time. */
const useIntervalMs = 1_000

/** Keyed by digest. */
export class LocalCache {
  readonly #entries: LRUCache<string, CacheEntry>
  readonly #maxBytes: number
  readonly #ttl: number
  readonly #now: () => number
  readonly #onUse: (record: SessionRecord, id: string) => void
  readonly #invalidations = new Map<string, Invalidation>()
  readonly #fetches = new Map<string, Promise<StoredSession | undefined>>()
  /** Grows with every invalidation. */
  #sequence = 0
  /** Fills that began before this one aren't cached. */
  #minSequence = 0
  hits = 0
  misses = 0

  /** `now` is a monotonic clock in ms; `onUse` is called, at intervals, for sessions that are returned. */
  constructor(
    { max, maxBytes, ttl }: CacheLimits,
    now: () => number = () => performance.now(),
    onUse: (record: SessionRecord, id: string) => void = () => undefined,
  ) {
    this.#entries = new LRUCache({
      max,
      maxSize: maxBytes,
      dispose: (entry, digest, reason) => {
        unlink(entry)
        // While it was cached, nothing older could be.
        if (reason === 'evict') this.#remember(digest, entry.version)
      },
    })
    this.#maxBytes = maxBytes
    this.#ttl = ttl
    this.#now = now
    this.#onUse = onUse
  }

  get size(): number {
    return this.#entries.size
  }

  /** Characters of JSON held. */
  get bytes(): number {
    return this.#entries.calculatedSize
  }

  /** Returns a copy of a session that is fresh, and its entry: the merge base of the copy. */
  get(record: SessionRecord): CachedSession | undefined {
    const entry = record.entry ?? this.#find(record)
    const now = this.#now()
    const session = entry === undefined || entry.freshUntil <= now ? undefined : cloneOf(entry)
    if (entry === undefined || session === undefined) {
      this.misses++
      return undefined
    }
    this.hits++
    if (now - entry.lastUsedAt >= useIntervalMs) {
      entry.lastUsedAt = now
      // Eviction knows the last use to the second; updating it at each call would cost more than the look-up.
      this.#entries.get(entry.digest)
      this.#onUse(record, entry.id)
    }
    return { session, entry }
  }

  #find(record: SessionRecord): CacheEntry | undefined {
    const entry = this.#entries.peek(record.digest)
    if (entry === undefined) return undefined
    unlink(entry)
    entry.record = record
    record.entry = entry
    return entry
  }

  /** Returns how many ms a cached session has to live, as far as the database has said; not above 0: unknown. */
  getRemainingTtl(record: SessionRecord): number {
    return ((record.entry ?? this.#find(record))?.expiresAt ?? 0) - this.#now()
  }

  /**
   * Whether this version of a session, or a newer one, is cached: then its notification brings nothing new. As long as that is
   * cached, nothing older will be.
   */
  hasVersion(digest: string, version: number): boolean {
    // A query in flight may be older.
    this.#fetches.delete(digest)
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
    const fill = this.beginFill()
    const stored = await load()
    if (stored !== undefined) this.commitFill(digest, fill, stored)
    return stored
  }

  /** Must be called before the query is sent, and `commitFill` after it. */
  beginFill(): Fill {
    return { startedAt: this.#now(), sequence: this.#sequence }
  }

  /**
   * Caches a result, unless a newer version was announced or the cache was cleared since `beginFill`. Returns whether this
   * version or a newer one is cached now.
   */
  commitFill(
    digest: string,
    { startedAt, sequence }: Fill,
    { id, json, version, ttlMs }: StoredSession,
  ): boolean {
    if (sequence < this.#minSequence) return false
    const invalidation = this.#invalidations.get(digest)
    if (invalidation !== undefined && (version < invalidation.version || sequence < invalidation.droppedAt))
      return false
    const cached = this.#entries.peek(digest)
    if (cached !== undefined && cached.version > version) return true
    if (json.length > this.#maxBytes) {
      this.#entries.delete(digest)
      return false
    }
    const entry: CacheEntry = {
      digest,
      id,
      json,
      session: undefined,
      hasExpiring: mayExpire(json),
      version,
      freshUntil: startedAt + Math.min(ttlMs, this.#ttl),
      expiresAt: startedAt + ttlMs,
      lastUsedAt: startedAt,
      record: undefined,
    }
    this.#entries.set(digest, entry, { size: json.length })
    return true
  }

  /** Caches what was just saved, unless that may be outdated. What is older is dropped in any case. */
  commitSave(digest: string, fill: Fill, saved: StoredSession): void {
    this.#fetches.delete(digest)
    if (!this.commitFill(digest, fill, saved)) this.invalidate(digest, saved.version)
  }

  /**
   * Drops a session that is older than `version`, and keeps queries in flight from caching it again; with infinity, whatever
   * its version. Returns the table's id of the dropped session, `undefined` if there was none.
   */
  invalidate(digest: string, version: number): string | undefined {
    this.#fetches.delete(digest)
    this.#remember(digest, version)
    const entry = this.#entries.peek(digest)
    if (entry === undefined || entry.version >= version) return undefined
    this.#entries.delete(digest)
    return entry.id
  }

  #remember(digest: string, version: number): void {
    this.#sequence++
    let invalidation = this.#invalidations.get(digest)
    if (invalidation === undefined) {
      if (this.#invalidations.size >= maxInvalidations) {
        this.#invalidations.clear()
        this.#minSequence = this.#sequence
      }
      invalidation = { version: 0, droppedAt: 0 }
      this.#invalidations.set(digest, invalidation)
    }
    if (version === Number.POSITIVE_INFINITY) invalidation.droppedAt = this.#sequence
    else invalidation.version = Math.max(invalidation.version, version)
  }

  /** Drops every session, and keeps queries in flight from caching theirs. */
  clear(): void {
    this.#minSequence = ++this.#sequence
    this.#invalidations.clear()
    this.#fetches.clear()
    this.#entries.clear()
  }
}

/** To be called when an entry is no longer cached. */
function unlink(entry: CacheEntry): void {
  if (entry.record !== undefined) entry.record.entry = undefined
}

function cloneOf(entry: CacheEntry): Session | undefined {
  try {
    entry.session ??= parse(entry.json)
    return entry.session && clone(entry.session)
  } catch (error) {
    // Nested too deeply to be cloned, though JSON.parse can read it.
    if (error instanceof RangeError) return undefined
    throw error
  }
}
