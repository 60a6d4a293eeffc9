// The sessions of the table by way of the cache: what is answered from memory, and what the database's answers and other
// instances' notices do to it.
import type { Cache } from '../cache/local-cache.js'
import type { Base, Bases } from '../cache/merge-bases.js'
import type { Notice } from '../notifications/payload.js'
import { decode } from '../session/json.js'
import { isOfKoaSession } from '../session/koa-session.js'
import { fromKept, type Stored } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import type { Queries } from './session-queries.js'
import { baseAfter, type Save, type Saved, type Saves } from './session-writer.js'
import type { Touches } from './touch-buffer.js'

export interface SessionsOptions {
  readonly bases: Bases
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
  readonly #bases: Bases
  readonly #queries: Queries
  readonly #saves: Saves
  readonly #cache: Cache | undefined
  readonly #isTrusted: () => boolean
  readonly #rereads: boolean
  readonly #touches: Touches
  /** The saves under way, by what knows the base of the next. */
  readonly #underWay = new WeakMap<object, Promise<void>>()
  /** How many changes others were told of. */
  notified = 0

  constructor({ bases, queries, saves, cache, isTrusted, propagate, touches }: SessionsOptions) {
    this.#bases = bases
    this.#saves = saves
    this.#touches = touches
    this.#queries = queries
    this.#cache = cache
    this.#isTrusted = isTrusted
    this.#rereads = propagate === 'update'
  }

  /** A session of the caller's own from memory. `carrier` is to know what it came from, beside the session itself. */
  known(name: string, carrier?: object): Session | undefined {
    const cache = this.#isTrusted() ? this.#cache : undefined
    const session = cache?.get(name)
    return session && this.#answer(name, session, () => cache?.left(name) ?? 0, carrier)
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
    this.#bases.remember(session, { name, text: stored.text, version: stored.version })
    return this.#answer(name, session, () => stored.left, carrier)
  }

  /** What depends on the time: nothing that has expired, and koa-session is told how long the session has to live. */
  #answer(name: string, session: Session, left: () => number, carrier?: object): Session {
    const ttl = isOfKoaSession(session) ? Math.max(left(), this.#touches.left(name)) : undefined
    const answer = fromKept(session, ttl)
    if (answer === session && carrier === undefined) return session
    const base = this.#bases.of(session, name)
    if (base !== undefined)
      for (const knowing of [answer, carrier ?? answer]) this.#bases.remember(knowing, base)
    return answer
  }

  /** For how many ms a session that was just answered has to live. */
  left(name: string): number {
    return Math.max(this.#touches.left(name), this.#cache?.left(name) ?? 0)
  }

  /**
   * Saves a session over what it, or koa-session's context, knows that it came from; else over the base that is given. An
   * object that is saved again while it is being saved comes from what it is then.
   */
  async save(name: string, save: Save, session: object, context: object | undefined): Promise<void> {
    const carriers = context === undefined ? [session] : [session, context]
    const carrier = context ?? session
    const work = (): Promise<void> => {
      const known = carriers.map((one) => this.#bases.of(one, name)).find((base) => base !== undefined)
      return this.write(name, { ...save, base: known ?? save.base }, carriers)
    }
    const earlier = this.#underWay.get(carrier)
    const saving = earlier === undefined ? work() : earlier.then(work)
    const settled = saving.catch(() => undefined)
    this.#underWay.set(carrier, settled)
    await saving
    if (this.#underWay.get(carrier) === settled) this.#underWay.delete(carrier)
  }

  /**
   * Saves a session, unless it is over; one that is as it was is only touched. Each of `carriers` knows afterwards what it
   * was saved as.
   */
  async write(name: string, save: Save, carriers: readonly object[]): Promise<void> {
    const { id, text, ttl } = save
    const before = typeof save.base === 'object' ? save.base : this.latest(name)
    if (ttl !== null && ttl > 0 && before?.text === text) {
      await this.#touches.touch(name, id, ttl)
      if (before !== save.base) for (const carrier of carriers) this.#bases.remember(carrier, before)
      return
    }
    const saved = await this.#change(name, () => this.#saves.save(save))
    if (saved === undefined) return
    this.#touches.seen(name, saved.left)
    for (const carrier of carriers) this.#bases.remember(carrier, baseAfter(name, text, saved))
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
