// A bounded cache of sessions that refuses to learn what it has already heard to be old.
import { LRUCache } from 'lru-cache'
import { clone, parse } from '../session/json.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import { type MergeBase, MergeBases } from './merge-bases.js'

interface Entry extends MergeBase {
  readonly id: string
  /** Once somebody wanted it: each caller gets a copy. */
  session: Session | undefined
  /** When it is over, and when it was last said to be used, by the monotonic clock. */
  readonly freshUntil: number
  /** When the session is over. */
  readonly expiresAt: number
  lastUsedAt: number
}

/** A read or write under way, whose answer may come after the notice of something newer. */
export interface Fill {
  readonly digest: string
  readonly startedAt: number
  readonly epoch: number
  /** What is older than this is known to be stale. */
  minVersion: number
}

export interface CacheLimits {
  readonly max: number
  readonly maxBytes: number
  readonly ttl: number
}

/** How often, in ms, the use of a session is told. */
const useIntervalMs = 1_000

/** Sessions by name: the digest of their id. */
export class LocalCache {
  readonly #entries: LRUCache<string, Entry>
  readonly #ttl: number
  readonly #now: () => number
  readonly #onUse: (name: string, id: string) => void
  readonly #bases: MergeBases
  readonly #fills = new Map<string, Set<Fill>>()
  readonly #fetches = new Map<string, Promise<StoredSession | undefined>>()
  #epoch = 0
  hits = 0
  misses = 0

  /**
   * `now` is a monotonic clock in ms; `onUse` is told now and then of a session that is answered; `bases`
   * learns what each came from.
   */
  constructor(
    { max, maxBytes, ttl }: CacheLimits,
    now: () => number = () => performance.now(),
    onUse: (name: string, id: string) => void = () => undefined,
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

  /** A session of the caller's own, if it is here and alive; it knows what it came from. */
  get(name: string): Session | undefined {
    const entry = this.#entries.peek(name)
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
      // Which was used last is known to the second; to the call, it would cost more than the look-up.
      this.#entries.get(name)
      this.#onUse(name, entry.id)
    }
    return session
  }

  /** For how many ms a session that is here has to live, as far as the database has said. */
  getRemainingTtl(name: string): number {
    return (this.#entries.peek(name)?.expiresAt ?? 0) - this.#now()
  }

  /** Whether this version of a session, or a newer one, is here: a notice of it is an echo. */
  hasVersion(name: string, version: number): boolean {
    return (this.#entries.peek(name)?.version ?? 0) >= version
  }

  /** A session that is here and alive, without using it. */
  peek(name: string): MergeBase | undefined {
    const entry = this.#entries.peek(name)
    return entry === undefined || entry.freshUntil <= this.#now() ? undefined : entry
  }

  /**
   * `fill`, once for all who ask at the same time. Who asks after a change was heard of never gets the answer of a read
   * that began before it; and as nobody is told of a new session, that there was none is said only of the time since one
   * asked.
   */
  async fetch(
    name: string,
    load: () => Promise<StoredSession | undefined>,
  ): Promise<StoredSession | undefined> {
    const earlier = this.#fetches.get(name)
    const stored = earlier && (await earlier)
    if (stored !== undefined) return stored
    const running = this.#fetches.get(name)
    if (running !== undefined && running !== earlier) return running
    const read = this.fill(name, load).finally(() => {
      if (this.#fetches.get(name) === read) this.#fetches.delete(name)
    })
    this.#fetches.set(name, read)
    return read
  }

  /** Asks `load`, and keeps the answer if nothing newer was heard of meanwhile. */
  async fill(
    name: string,
    load: () => Promise<StoredSession | undefined>,
  ): Promise<StoredSession | undefined> {
    const fill = this.beginFill(name)
    let stored: StoredSession | undefined
    try {
      stored = await load()
      return stored
    } finally {
      this.commitFill(fill, stored)
    }
  }

  /** To be called before the database is asked or told; `end` must follow. */
  beginFill(name: string): Fill {
    const fill: Fill = { digest: name, startedAt: this.#now(), epoch: this.#epoch, minVersion: 0 }
    const fills = this.#fills.get(name)
    if (fills === undefined) this.#fills.set(name, new Set([fill]))
    else fills.add(fill)
    return fill
  }

  /** What came of it; kept unless something newer was heard of, or everything was forgotten, since `begin`. */
  commitFill(fill: Fill, stored?: StoredSession): void {
    const fills = this.#fills.get(fill.digest)
    fills?.delete(fill)
    if (fills?.size === 0) this.#fills.delete(fill.digest)
    if (stored === undefined || fill.epoch !== this.#epoch || stored.version < fill.minVersion) return
    const there = this.#entries.peek(fill.digest)
    if (there !== undefined && there.version > stored.version) return
    const until = fill.startedAt + Math.min(stored.ttlMs, this.#ttl)
    this.#entries.set(
      fill.digest,
      {
        digest: fill.digest,
        id: stored.id,
        json: stored.json,
        session: undefined,
        version: stored.version,
        freshUntil: until,
        expiresAt: fill.startedAt + stored.ttlMs,
        lastUsedAt: fill.startedAt,
      },
      { size: stored.json.length },
    )
  }

  /**
   * Something changed to `version`: what is older goes, and doesn't come back. Answers the table's id of what went, if
   * anything did.
   */
  invalidate(name: string, version: number): string | undefined {
    this.#fetches.delete(name)
    for (const fill of this.#fills.get(name) ?? []) fill.minVersion = Math.max(fill.minVersion, version)
    const entry = this.#entries.peek(name)
    if (entry === undefined || entry.version >= version) return undefined
    this.#entries.delete(name)
    return entry.id
  }

  /** Forgets everything, also what is under way. */
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
    // Nested too deeply for a copy, though not for JSON.parse.
    if (error instanceof RangeError) return undefined
    throw error
  }
}
