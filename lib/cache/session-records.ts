// What this process knows of recently used sessions: one record for each, found by session id or by digest. A look-up among
// thousands of sessions is the most expensive part of many calls, so each call makes only one.
import { assertSessionId, digestOf, rawId } from '../session/session-id.js'
import type { Session } from '../types/session-store.js'
import type { MergeBase } from './merge-bases.js'

/** All times are by the monotonic clock. */
export interface SessionRecord {
  /** SHA-256 of the session id, its key in the cache and in notifications. */
  readonly digest: string
  /** What the table holds; `undefined` if the table can't hold it. */
  readonly storedId: string | undefined
  /** When this process last returned the session; 0: not lately. */
  loadedAt: number
  /** When the session expires, as far as the database has said; 0: unknown. */
  expiresAt: number
  /** Where it is cached, if that is known here. */
  entry: CacheEntry | undefined
  /** A touch that waits to be written. */
  touch: PendingTouch | undefined
}

export interface PendingTouch {
  readonly record: SessionRecord
  readonly id: string
  /** `undefined`: only the last access changes. */
  readonly expiresAt: number | undefined
  lastAccessedAt: number
  readonly dueAt: number
}

/** A session in the cache. */
export interface CacheEntry extends MergeBase {
  readonly id: string
  /** Parsed at the first `get`; each caller gets a clone. */
  session: Session | undefined
  /** Whether some of its attributes may expire by themselves; see `mayExpire`. */
  readonly hasExpiring: boolean
  /** Until when the entry may be returned. */
  readonly freshUntil: number
  /** When the session itself expires. */
  readonly expiresAt: number
  /** When its use was last reported. */
  lastUsedAt: number
  /** What leads to this entry without a look-up, while it is cached. */
  record: SessionRecord | undefined
}

/** The middlewares' session ids are shorter. A longer one comes from a stranger and isn't worth the memory. */
const maxKeptIdLength = 128

/** Two maps of the same records. */
interface Generation {
  readonly bySid: Map<string, SessionRecord>
  readonly byDigest: Map<string, SessionRecord>
}

/** Keeps at least the `max` most recently used records, and at most twice as many: a third of the cost of an exact LRU. */
export class SessionRecords {
  readonly #max: number
  readonly #hashIds: boolean
  readonly #findKept: (digest: string) => SessionRecord | undefined
  #young = newGeneration()
  #old = newGeneration()

  /** `findKept` returns a record that is in use and must not be made again. */
  constructor(
    max: number,
    hashIds: boolean,
    findKept: (digest: string) => SessionRecord | undefined = () => undefined,
  ) {
    this.#max = max
    this.#hashIds = hashIds
    this.#findKept = findKept
  }

  /** Throws a `TypeError` for what can't be a session id. */
  resolve(sid: string): SessionRecord {
    return this.#young.bySid.get(sid) ?? this.#resolve(sid)
  }

  #resolve(sid: string): SessionRecord {
    const old = this.#old.bySid.get(sid)
    if (old !== undefined) return this.#keep(sid, old)
    assertSessionId(sid)
    const digest = digestOf(sid)
    const storedId = this.#hashIds ? `sha256:${digest}` : rawId(sid)
    return this.#keep(sid, this.find(digest) ?? newRecord(digest, storedId))
  }

  #keep(sid: string, record: SessionRecord): SessionRecord {
    const { digest } = record
    if (this.#young.byDigest.size >= this.#max && !this.#young.byDigest.has(digest)) {
      this.#old = this.#young
      this.#young = newGeneration()
    }
    this.#young.byDigest.set(digest, record)
    if (sid.length <= maxKeptIdLength) this.#young.bySid.set(sid, record)
    return record
  }

  /** Returns the record of a session that was used lately. */
  find(digest: string): SessionRecord | undefined {
    return this.#young.byDigest.get(digest) ?? this.#old.byDigest.get(digest) ?? this.#findKept(digest)
  }

  /** For a session that is known by its handle: its record, or one that isn't kept. */
  of(digest: string, storedId: string): SessionRecord {
    return this.find(digest) ?? newRecord(digest, storedId)
  }

  /** Forgets when a session expires, because another process may have changed that. */
  forgetExpiry(digest: string): void {
    const record = this.find(digest)
    if (record !== undefined) record.expiresAt = 0
  }

  /** The same for all sessions. */
  forgetExpiries(): void {
    for (const { byDigest } of [this.#young, this.#old])
      for (const record of byDigest.values()) record.expiresAt = 0
  }
}

function newGeneration(): Generation {
  return { bySid: new Map(), byDigest: new Map() }
}

function newRecord(digest: string, storedId: string | undefined): SessionRecord {
  return { digest, storedId, loadedAt: 0, expiresAt: 0, entry: undefined, touch: undefined }
}
