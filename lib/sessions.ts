// The sessions of the table by way of the cache: what is answered from memory, and what the database's answers and other
// instances' notices do to it.
import type { Cache, Stored } from './cache.js'
import { type Base, remember } from './loaded.js'
import type { Notice } from './notice.js'
import type { Queries } from './queries.js'
import { decode } from './record.js'
import { baseAfter, type Save, type Saved, type Saves } from './saves.js'
import type { Touches } from './touches.js'
import type { Session } from './types.js'

export interface SessionsOptions {
  readonly queries: Queries
  readonly saves: Saves
  /** None: every read asks the database. */
  readonly cache: Cache | undefined
  /** Whether the cache may be answered from, and filled, now. */
  readonly isTrusted: () => boolean
  readonly propagate: 'invalidate' | 'update'
  readonly touches: Touches
}

/** A session is called by its `name` in the cache and in notices, by its `id` in the table. */
export class Sessions {
  readonly #queries: Queries
  readonly #saves: Saves
  readonly #cache: Cache | undefined
  readonly #isTrusted: () => boolean
  readonly #rereads: boolean
  readonly #touches: Touches
  /** How many changes others were told of. */
  notified = 0

  constructor({ queries, saves, cache, isTrusted, propagate, touches }: SessionsOptions) {
    this.#saves = saves
    this.#touches = touches
    this.#queries = queries
    this.#cache = cache
    this.#isTrusted = isTrusted
    this.#rereads = propagate === 'update'
  }

  /** A session of the caller's own from memory. `carrier` is to know what it came from, beside the session itself. */
  known(name: string, carrier?: object): Session | undefined {
    return this.#isTrusted() ? this.#cache?.get(name, carrier) : undefined
  }

  /** A session of the caller's own from the database; those who ask at the same time share the answer, unless `fresh`. */
  async read(name: string, id: string, fresh: boolean, carrier?: object): Promise<Session | undefined> {
    const cache = this.#isTrusted() ? this.#cache : undefined
    const ask = (): Promise<Stored | undefined> => this.#queries.read(id)
    const stored = await (cache === undefined ? ask() : fresh ? cache.fill(name, ask) : cache.read(name, ask))
    if (stored === undefined) return undefined
    this.#touches.seen(name, stored.left)
    this.#touches.use(name, id)
    const session = decode(stored.text)
    if (session === undefined) return undefined
    const base = { name, text: stored.text, version: stored.version }
    remember(session, base)
    if (carrier !== undefined) remember(carrier, base)
    return session
  }

  /**
   * Saves a session, unless it is over; one that is as it was is only touched. Each of `carriers` knows afterwards what it
   * was saved as.
   */
  async write(name: string, id: string, save: Save, carriers: readonly object[]): Promise<void> {
    const { text, ttl } = save
    const before = typeof save.base === 'object' ? save.base.text : this.latest(name)?.text
    if (ttl !== null && ttl > 0 && before === text) return this.#touches.touch(name, id, ttl)
    const saved = await this.#change(name, () => this.#saves.save(id, save))
    if (saved === undefined) return
    this.#touches.seen(name, saved.left)
    for (const carrier of carriers) remember(carrier, baseAfter(name, text, saved))
  }

  async destroy(name: string, id: string): Promise<void> {
    this.#touches.forget(name)
    await this.#change(name, async () => {
      const changed = await this.#queries.destroy(id)
      return changed && { ...changed, text: '' }
    })
  }

  /** What else was changed here: nobody who asks from now on gets the old. */
  changed(name: string, version: number): void {
    this.notified++
    this.#touches.forget(name)
    // A table without versions can't say.
    this.#cache?.changed(name, version || Number.POSITIVE_INFINITY)
  }

  /** The session as it is now, as far as that is known. */
  latest(name: string): Base | undefined {
    return this.#isTrusted() ? this.#cache?.peek(name) : undefined
  }

  /** What another instance changed, or this one: its own echo is no news. */
  hear(notice: Exclude<Notice, { beat: string }>): void {
    const cache = this.#cache
    if (cache === undefined) return
    if (notice === 'flush') {
      cache.flush()
      this.#touches.doubt()
    } else
      for (const { name, version } of notice) {
        if (!cache.knows(name, version)) this.#touches.doubt(name)
        const id = cache.changed(name, version)
        // Many in one statement, as all reads of one turn. Without an answer it is read when somebody asks for it.
        if (id !== undefined && this.#rereads)
          cache.read(name, () => this.#queries.read(id)).catch(() => undefined)
      }
  }

  /** Makes a change, after which the cache has the new state or none. */
  async #change(name: string, work: () => Promise<Saved | undefined>): Promise<Saved | undefined> {
    const cache = this.#cache
    if (cache === undefined) {
      const changed = await work()
      if (changed?.notify) this.notified++
      return changed
    }
    const fill = cache.begin(name)
    // If it fails, or finds the session over, nobody knows what is there; a table without versions can't say.
    let version = Number.POSITIVE_INFINITY
    let stored: Stored | undefined
    try {
      const changed = await work()
      if (changed?.notify) this.notified++
      if (changed?.version) version = changed.version
      if (changed?.text && this.#isTrusted()) stored = changed
      return changed
    } finally {
      cache.changed(name, version)
      cache.end(fill, stored)
    }
  }
}
