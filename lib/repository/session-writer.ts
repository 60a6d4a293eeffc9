// Saves of sessions: new ones, those that nobody else has changed, and what comes of two changes that met.

import type { Base } from '../cache/merge-bases.js'
import { decode } from '../session/json.js'
import { ConflictError } from '../types/errors.js'
import type { Conflict } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import { Batch, type BatchCall, inHalves } from '../util/batcher.js'
import type { Changed, Replacement, Write } from './row-mapper.js'
import { batching, type Queries } from './session-queries.js'
import { merge } from './three-way-merge.js'

/** What is to be saved. */
export interface Save extends Write {
  /** What it came from; `'replaced'`: it takes the place of a session that was there; `undefined`: of whatever is there. */
  readonly base: Base | 'replaced' | undefined
  /** Instead of the option. */
  readonly concurrency?: 'merge'
}

/** What came of it; `text` is what the table has now. */
export interface Saved extends Changed {
  readonly text: string
}

export interface SavesOptions {
  readonly queries: Queries
  readonly concurrency: 'merge' | 'last-write' | 'reject'
  readonly maxSessionsPerUser: number | undefined
  readonly userIdOf: (session: Session) => string | undefined
  /** The JSON of a session that others' changes went into; throws if it can't be stored. */
  readonly encode: (session: Session) => string
  /** What is known, without a question, of the session as it is now. */
  readonly latest: (name: string) => { readonly text: string; readonly version: number } | undefined
  /** Sessions that had to go for another of their user. */
  readonly onEvicted: (evicted: readonly Changed[]) => void
  readonly onConflict: (conflict: Conflict) => void
}

/** How often a save that was overtaken is tried. Within this process none overtakes another: only as many as there are processes. */
const attempts = 20

/** What is known of what the table has. */
type There = { readonly text: string; readonly version: number }

export class Saves {
  readonly #options: SavesOptions
  readonly #batch: Batch<Save, Saved | undefined>

  constructor(options: SavesOptions) {
    this.#options = options
    this.#batch = new Batch({
      ...batching,
      weigh: ({ text }) => text.length,
      run: (calls) => this.#run(calls),
    })
  }

  /** Saves a session; `undefined` if it is over, and nothing was written. */
  save(save: Save): Promise<Saved | undefined> {
    return this.#batch.add(save.id, save)
  }

  async #run(calls: readonly BatchCall<Save>[]): Promise<readonly Outcome[]> {
    const { queries } = this.#options
    const fresh: Save[] = []
    const based: Save[] = []
    const joining: Save[] = []
    for (const { value } of calls)
      (this.#joins(value) ? joining : value.base === undefined ? fresh : based).push(value)
    const write = (some: readonly Save[]) =>
      inHalves(some, async (some) => inOrder(some, await queries.write(some)), batching.isDivisible)
    const replace = (some: readonly Save[]) =>
      this.#replaceAll(some, (some) => queries.replace(some.map(toReplace)))
    if (fresh.length === calls.length) return write(fresh)
    if (based.length === calls.length) return replace(based)
    // One after another: each may have to wait for the others of its user.
    const admitAll = async (): Promise<Outcome[]> => {
      const outcomes: Outcome[] = []
      for (const save of joining) outcomes.push(...(await this.#admit(save)))
      return outcomes
    }
    const all = [fresh.length > 0 ? write(fresh) : [], replace(based), admitAll()]
    const outcomes = (await Promise.all(all)).flat()
    const byId = new Map([...fresh, ...based, ...joining].map(({ id }, n) => [id, outcomes[n]]))
    return calls.map(({ key }) => byId.get(key))
  }

  /** Whether a session comes to belong to a user whose sessions are counted. */
  #joins({ base, userId }: Save): boolean {
    if (this.#options.maxSessionsPerUser === undefined || userId === undefined) return false
    const before = typeof base === 'object' ? decode(base.text) : undefined
    try {
      return before === undefined || this.#options.userIdOf(before) !== userId
    } catch {
      // It was saved when another function said whose it is; this one fails at it. The other calls have no part in that.
      return true
    }
  }

  async #admit(attempt: Save): Promise<readonly Outcome[]> {
    const { queries, maxSessionsPerUser = 0, onEvicted } = this.#options
    const admit = async (write: Write | Replacement): Promise<Changed[]> => {
      // What others' changes made of it may be somebody else's, or nobody's.
      if (write.userId === undefined) return queries.replace([write as Replacement])
      const { written, evicted } = await queries.admit(write, maxSessionsPerUser)
      onEvicted(evicted)
      return written === undefined ? [] : [written]
    }
    if (attempt.base === undefined) {
      const { base: _, ...write } = attempt
      return inHalves([attempt], async () => inOrder([attempt], await admit(write)))
    }
    return this.#replaceAll([attempt], ([some]) => admit(toReplace(some as Save)))
  }

  /** Saves over what they came from; those that somebody else has changed meanwhile are merged with that, and tried again. */
  async #replaceAll(
    given: readonly Save[],
    replace: (some: readonly Save[]) => Promise<Changed[]>,
  ): Promise<Outcome[]> {
    const results = new Map<string, Outcome>()
    let open: Save[] = []
    const resolve = async (attempt: Save, there: There | Promise<There | undefined>): Promise<void> => {
      try {
        const now = await there
        // Otherwise it is over, and stays so.
        if (now !== undefined) open.push(this.#resolved(attempt, now))
      } catch (error) {
        results.set(attempt.id, error as Error)
      }
    }
    for (const attempt of given) {
      const { base } = attempt
      const latest = typeof base === 'object' ? this.#options.latest(base.name) : undefined
      if (!this.#checks(attempt)) open.push({ ...attempt, base: 'replaced' })
      else if (typeof base !== 'object') open.push(attempt)
      else if (latest !== undefined && latest.version > base.version) await resolve(attempt, latest)
      else if (base.merged !== undefined) await resolve(attempt, { ...base, text: base.merged })
      else open.push(attempt)
    }
    for (let n = 1; open.length > 0; n++) {
      const tried = open
      open = []
      // What fails now fails alone: others of these may have been written by an earlier statement.
      const outcomes = await inHalves(
        tried,
        async (some) => inOrder(some, await replace(some)),
        batching.isDivisible,
      )
      const overtaken = tried.filter((attempt, m) => {
        results.set(attempt.id, outcomes[m])
        return outcomes[m] === undefined && typeof attempt.base === 'object'
      })
      if (n < attempts)
        await Promise.all(
          overtaken.map((attempt) => resolve(attempt, this.#options.queries.read(attempt.id))),
        )
      else
        for (const { id } of overtaken)
          results.set(id, new ConflictError(`others changed the session ${attempts} times meanwhile`))
    }
    return given.map(({ id }) => results.get(id))
  }

  #checks(attempt: Save): boolean {
    const concurrency = attempt.concurrency ?? this.#options.concurrency
    return concurrency !== 'last-write' && this.#options.queries.hasVersions
  }

  /** What is to be saved over what is there by now. */
  #resolved(attempt: Save, there: There): Save {
    const { onConflict, encode, userIdOf } = this.#options
    const base = attempt.base as Base
    const theirs = decode(there.text) ?? {}
    const { session, overwritten } = merge(decode(base.text) ?? {}, decode(attempt.text) ?? {}, theirs)
    if (there.version !== base.version) {
      const isRejected = (attempt.concurrency ?? this.#options.concurrency) === 'reject'
      onConflict({ outcome: isRejected ? 'rejected' : 'merged', overwritten: isRejected ? [] : overwritten })
      if (isRejected) throw new ConflictError('somebody else changed the session since it was loaded')
    }
    const { text, version } = there
    return {
      ...attempt,
      text: encode(session),
      userId: userIdOf(session),
      base: { name: base.name, text, version },
    }
  }
}

type Outcome = Saved | undefined | Error

function toReplace({ id, text, ttl, userId, base }: Save): Replacement {
  return { id, text, ttl, userId, base: typeof base === 'object' ? base.version : undefined }
}

/** The base of an object that was saved as `text`, which may lack what others put into the table. */
export function baseAfter(name: string, text: string, saved: Saved): Base {
  const base = { name, text, version: saved.version }
  return saved.text === text ? base : { ...base, merged: saved.text }
}

function inOrder(saves: readonly Save[], rows: readonly Changed[]): (Saved | undefined)[] {
  const byId = new Map(rows.map((row) => [row.id, row]))
  return saves.map(({ id, text }) => {
    const row = byId.get(id)
    return row && { ...row, text }
  })
}
