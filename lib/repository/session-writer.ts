// Saves of sessions: new ones, those that nobody else has changed, and what comes of two changes that met.

import type { MergeBase } from '../cache/merge-bases.js'
import { parse } from '../session/json.js'
import { ConflictError } from '../types/errors.js'
import type { Conflict } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import { type BatchCall, Batcher, bisect } from '../util/batcher.js'
import type { Change, Replacement, Write } from './row-mapper.js'
import { batching, type SessionQueries } from './session-queries.js'
import { threeWayMerge } from './three-way-merge.js'

/** What is to be saved. */
export interface SaveRequest extends Write {
  /** What it came from; `'replaced'`: it takes the place of a session that was there; `undefined`: of whatever is there. */
  readonly base: MergeBase | 'replaced' | undefined
  /** Instead of the option. */
  readonly concurrency?: 'merge'
}

/** What came of it; `text` is what the table has now. */
export interface SaveResult extends Change {
  readonly json: string
}

export interface SessionWriterOptions {
  readonly queries: SessionQueries
  readonly concurrency: 'merge' | 'last-write' | 'reject'
  readonly maxSessionsPerUser: number | undefined
  readonly userIdOf: (session: Session) => string | undefined
  /** The JSON of a session that others' changes went into; throws if it can't be stored. */
  readonly serialize: (session: Session) => string
  /** What is known, without a question, of the session as it is now. */
  readonly peek: (digest: string) => Current | undefined
  /** Sessions that had to go for another of their user. */
  readonly onEvicted: (evicted: readonly Change[]) => void
  readonly onConflict: (conflict: Conflict) => void
}

/** How often a save that was overtaken is tried. Within this process none overtakes another: only as many as there are processes. */
const maxAttempts = 20

/** What is known of what the table has. */
type Current = { readonly json: string; readonly version: number }

export class SessionWriter {
  readonly #options: SessionWriterOptions
  readonly #batch: Batcher<SaveRequest, SaveResult | undefined>

  constructor(options: SessionWriterOptions) {
    this.#options = options
    this.#batch = new Batcher({
      ...batching,
      sizeOf: ({ json }) => json.length,
      run: (calls) => this.#run(calls),
    })
  }

  /** Saves a session; `undefined` if it is over, and nothing was written. */
  save(save: SaveRequest): Promise<SaveResult | undefined> {
    return this.#batch.add(save.id, save)
  }

  async #run(calls: readonly BatchCall<SaveRequest>[]): Promise<readonly Outcome[]> {
    const { queries } = this.#options
    const fresh: SaveRequest[] = []
    const based: SaveRequest[] = []
    const joining: SaveRequest[] = []
    for (const { value } of calls)
      (this.#entersLimit(value) ? joining : value.base === undefined ? fresh : based).push(value)
    const write = (some: readonly SaveRequest[]) =>
      bisect(some, async (some) => inOrder(some, await queries.write(some)), batching.canBisect)
    const replace = (some: readonly SaveRequest[]) =>
      this.#replaceAll(some, (some) => queries.replace(some.map(toReplace)))
    if (fresh.length === calls.length) return write(fresh)
    if (based.length === calls.length) return replace(based)
    // One after another: each may have to wait for the others of its user.
    const admitAll = async (): Promise<Outcome[]> => {
      const outcomes: Outcome[] = []
      for (const save of joining) outcomes.push(...(await this.#insertWithLimit(save)))
      return outcomes
    }
    const all = [fresh.length > 0 ? write(fresh) : [], replace(based), admitAll()]
    const outcomes = (await Promise.all(all)).flat()
    const byId = new Map([...fresh, ...based, ...joining].map(({ id }, n) => [id, outcomes[n]]))
    return calls.map(({ key }) => byId.get(key))
  }

  /** Whether a session comes to belong to a user whose sessions are counted. */
  #entersLimit({ base, userId }: SaveRequest): boolean {
    if (this.#options.maxSessionsPerUser === undefined || userId === undefined) return false
    const before = typeof base === 'object' ? parse(base.json) : undefined
    try {
      return before === undefined || this.#options.userIdOf(before) !== userId
    } catch {
      // It was saved when another function said whose it is; this one fails at it. The other calls have no part in that.
      return true
    }
  }

  async #insertWithLimit(attempt: SaveRequest): Promise<readonly Outcome[]> {
    const { queries, maxSessionsPerUser = 0, onEvicted } = this.#options
    const admit = async (write: Write | Replacement): Promise<Change[]> => {
      // What others' changes made of it may be somebody else's, or nobody's.
      if (write.userId === undefined) return queries.replace([write as Replacement])
      const { written, evicted } = await queries.writeWithLimit(write, maxSessionsPerUser)
      onEvicted(evicted)
      return written === undefined ? [] : [written]
    }
    if (attempt.base === undefined) {
      const { base: _, ...write } = attempt
      return bisect([attempt], async () => inOrder([attempt], await admit(write)))
    }
    return this.#replaceAll([attempt], ([some]) => admit(toReplace(some as SaveRequest)))
  }

  /** Saves over what they came from; those that somebody else has changed meanwhile are merged with that, and tried again. */
  async #replaceAll(
    given: readonly SaveRequest[],
    replace: (some: readonly SaveRequest[]) => Promise<Change[]>,
  ): Promise<Outcome[]> {
    const results = new Map<string, Outcome>()
    let open: SaveRequest[] = []
    const resolve = async (
      attempt: SaveRequest,
      there: Current | Promise<Current | undefined>,
    ): Promise<void> => {
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
      const latest = typeof base === 'object' ? this.#options.peek(base.digest) : undefined
      if (!this.#checks(attempt)) open.push({ ...attempt, base: 'replaced' })
      else if (typeof base !== 'object') open.push(attempt)
      else if (latest !== undefined && latest.version > base.version) await resolve(attempt, latest)
      else if (base.mergedJson !== undefined) await resolve(attempt, { ...base, json: base.mergedJson })
      else open.push(attempt)
    }
    for (let n = 1; open.length > 0; n++) {
      const tried = open
      open = []
      // What fails now fails alone: others of these may have been written by an earlier statement.
      const outcomes = await bisect(
        tried,
        async (some) => inOrder(some, await replace(some)),
        batching.canBisect,
      )
      const overtaken = tried.filter((attempt, m) => {
        results.set(attempt.id, outcomes[m])
        return outcomes[m] === undefined && typeof attempt.base === 'object'
      })
      if (n < maxAttempts)
        await Promise.all(
          overtaken.map((attempt) => resolve(attempt, this.#options.queries.read(attempt.id))),
        )
      else
        for (const { id } of overtaken)
          results.set(id, new ConflictError(`others changed the session ${maxAttempts} times meanwhile`))
    }
    return given.map(({ id }) => results.get(id))
  }

  #checks(attempt: SaveRequest): boolean {
    const concurrency = attempt.concurrency ?? this.#options.concurrency
    return concurrency !== 'last-write' && this.#options.queries.hasVersions
  }

  /** What is to be saved over what is there by now. */
  #resolved(attempt: SaveRequest, there: Current): SaveRequest {
    const { onConflict, serialize: encode, userIdOf } = this.#options
    const base = attempt.base as MergeBase
    const theirs = parse(there.json) ?? {}
    const { session, overwritten } = threeWayMerge(parse(base.json) ?? {}, parse(attempt.json) ?? {}, theirs)
    if (there.version !== base.version) {
      const isRejected = (attempt.concurrency ?? this.#options.concurrency) === 'reject'
      onConflict({ outcome: isRejected ? 'rejected' : 'merged', overwritten: isRejected ? [] : overwritten })
      if (isRejected) throw new ConflictError('somebody else changed the session since it was loaded')
    }
    const { json, version } = there
    return {
      ...attempt,
      json: encode(session),
      userId: userIdOf(session),
      base: { digest: base.digest, json, version },
    }
  }
}

type Outcome = SaveResult | undefined | Error

function toReplace({ id, json, ttl, userId, base }: SaveRequest): Replacement {
  return { id, json, ttl, userId, base: typeof base === 'object' ? base.version : undefined }
}

/** The base of an object that was saved as `text`, which may lack what others put into the table. */
export function mergeBaseAfter(digest: string, json: string, saved: SaveResult): MergeBase {
  const base = { digest, json, version: saved.version }
  return saved.json === json ? base : { ...base, mergedJson: saved.json }
}

function inOrder(saves: readonly SaveRequest[], rows: readonly Change[]): (SaveResult | undefined)[] {
  const byId = new Map(rows.map((row) => [row.id, row]))
  return saves.map(({ id, json }) => {
    const row = byId.get(id)
    return row && { ...row, json }
  })
}
