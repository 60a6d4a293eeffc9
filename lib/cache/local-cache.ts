// A bounded cache of sessions that refuses to learn what it has already heard to be old.
import { LRUCache } from 'lru-cache'
import { copy, decode } from '../session/json.js'
import type { Stored } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import { type Base, Bases } from './merge-bases.js'

interface Entry extends Base {
  readonly id: string
  /** Once somebody wanted it: each caller gets a copy. */
  session: Session | undefined
  /** When it is over, and when it was last said to be used, by the monotonic clock. */
  readonly until: number
  /** When the session is over. */
  readonly end: number
  used: number
}

/** A read or write under way, whose answer may come after the notice of something newer. */
export interface Fill {
  readonly name: string
  readonly since: number
  readonly epoch: number
  /** What is older than this is known to be stale. */
  floor: number
}

export interface CacheLimits {
  readonly max: number
  readonly maxBytes: number
  readonly ttl: number
}

/** How often, in ms, the use of a session is told. */
const useEvery = 1_000

/** Sessions by name: the digest of their id. */
export class Cache {
  readonly #entries: LRUCache<string, Entry>
  readonly #ttl: number
  readonly #now: () => number
  readonly #onUse: (name: string, id: string) => void
  readonly #bases: Bases
  readonly #fills = new Map<string, Set<Fill>>()
  readonly #reads = new Map<string, Promise<Stored | undefined>>()
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
    bases = new Bases(),
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
    const session = entry === undefined || entry.until <= now ? undefined : copyOf(entry)
    if (entry === undefined || session === undefined) {
      this.misses++
      return undefined
    }
    this.hits++
    this.#bases.remember(session, entry)
    if (now - entry.used >= useEvery) {
      entry.used = now
      // Which was used last is known to the second; to the call, it would cost more than the look-up.
      this.#entries.get(name)
      this.#onUse(name, entry.id)
    }
    return session
  }

  /** For how many ms a session that is here has to live, as far as the database has said. */
  left(name: string): number {
    return (this.#entries.peek(name)?.end ?? 0) - this.#now()
  }

  /** Whether this version of a session, or a newer one, is here: a notice of it is an echo. */
  knows(name: string, version: number): boolean {
    return (this.#entries.peek(name)?.version ?? 0) >= version
  }

  /** A session that is here and alive, without using it. */
  peek(name: string): Base | undefined {
    const entry = this.#entries.peek(name)
    return entry === undefined || entry.until <= this.#now() ? undefined : entry
  }

  /**
   * `fill`, once for all who ask at the same time. Who asks after a change was heard of never gets the answer of a read
   * that began before it; and as nobody is told of a new session, that there was none is said only of the time since one
   * asked.
   */
  async read(name: string, load: () => Promise<Stored | undefined>): Promise<Stored | undefined> {
    const earlier = this.#reads.get(name)
    const stored = earlier && (await earlier)
    if (stored !== undefined) return stored
    const running = this.#reads.get(name)
    if (running !== undefined && running !== earlier) return running
    const read = this.fill(name, load).finally(() => {
      if (this.#reads.get(name) === read) this.#reads.delete(name)
    })
    this.#reads.set(name, read)
    return read
  }

  /** Asks `load`, and keeps the answer if nothing newer was heard of meanwhile. */
  async fill(name: string, load: () => Promise<Stored | undefined>): Promise<Stored | undefined> {
    const fill = this.begin(name)
    let stored: Stored | undefined
    try {
      stored = await load()
      return stored
    } finally {
      this.end(fill, stored)
    }
  }

  /** To be called before the database is asked or told; `end` must follow. */
  begin(name: string): Fill {
    const fill: Fill = { name, since: this.#now(), epoch: this.#epoch, floor: 0 }
    const fills = this.#fills.get(name)
    if (fills === undefined) this.#fills.set(name, new Set([fill]))
    else fills.add(fill)
    return fill
  }

  /** What came of it; kept unless something newer was heard of, or everything was forgotten, since `begin`. */
  end(fill: Fill, stored?: Stored): void {
    const fills = this.#fills.get(fill.name)
    fills?.delete(fill)
    if (fills?.size === 0) this.#fills.delete(fill.name)
    if (stored === undefined || fill.epoch !== this.#epoch || stored.version < fill.floor) return
    const there = this.#entries.peek(fill.name)
    if (there !== undefined && there.version > stored.version) return
    const until = fill.since + Math.min(stored.left, this.#ttl)
    this.#entries.set(
      fill.name,
      {
        name: fill.name,
        id: stored.id,
        text: stored.text,
        session: undefined,
        version: stored.version,
        until,
        end: fill.since + stored.left,
        used: fill.since,
      },
      { size: stored.text.length },
    )
  }

  /**
   * Something changed to `version`: what is older goes, and doesn't come back. Answers the table's id of what went, if
   * anything did.
   */
  changed(name: string, version: number): string | undefined {
    this.#reads.delete(name)
    for (const fill of this.#fills.get(name) ?? []) fill.floor = Math.max(fill.floor, version)
    const entry = this.#entries.peek(name)
    if (entry === undefined || entry.version >= version) return undefined
    this.#entries.delete(name)
    return entry.id
  }

  /** Forgets everything, also what is under way. */
  flush(): void {
    this.#epoch++
    this.#reads.clear()
    this.#entries.clear()
  }
}

function copyOf(entry: Entry): Session | undefined {
  try {
    entry.session ??= decode(entry.text)
    return entry.session && copy(entry.session)
  } catch (error) {
    // Nested too deeply for a copy, though not for JSON.parse.
    if (error instanceof RangeError) return undefined
    throw error
  }
}
