// Saves sessions with optimistic concurrency control: a save that meets another request's change is merged or rejected.
import type { MergeBase } from '../cache/merge-bases.js'
import { parse } from '../session/json.js'
import type { StoredSession } from '../session/stored-session.js'
import { ConflictError } from '../types/errors.js'
import type { Conflict } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import { bisect } from '../util/bisect.js'
import type { TimeLimit } from '../util/deadlines.js'
import { batching } from './batching.js'
import type { Change, Replacement, Write } from './row-mapper.js'
import type { SessionQueries } from './session-queries.js'
import { threeWayMerge } from './three-way-merge.js'

export interface SaveRequest extends Write {
  /** Names the session in the cache. */
  readonly digest: string
  /** What the session was loaded as; `'replaced'`: it replaces an existing session; `undefined`: it is inserted or replaces. */
  base: MergeBase | 'replaced' | undefined
  /** Overrides the option. */
  readonly concurrency?: 'merge'
  /** The session equals its base: only its expiry is to be set, whatever other requests have changed. */
  isUnchanged?: boolean
}

/** What a save has written: `json` is what the table holds now. */
export interface SaveResult {
  readonly json: string
  /** 0: unknown. */
  readonly version: number
  /** 0: as long as was asked for. */
  readonly ttlMs: number
  /** Whether the session was inserted. */
  readonly isNew: boolean
}

export interface SessionWriterOptions {
  readonly queries: SessionQueries
  readonly codec?: unknown
  readonly concurrency: 'merge' | 'last-write' | 'reject'
  readonly maxSessionsPerUser: number | undefined
  readonly userIdOf: (session: Session) => string | undefined
  /** Returns the JSON of a merged session; throws if it can't be stored. */
  readonly serialize: (session: Session) => string
  /** Reads a session from the database. */
  readonly read: (id: string, limit: TimeLimit) => Promise<StoredSession | undefined>
  /** Returns the current state of a session, if the cache has it. */
  readonly peek: (digest: string) => Current | undefined
  /** Receives the sessions that were destroyed because their user had too many. */
  readonly onEvicted: (evicted: readonly Change[], userId: string | undefined) => void
  readonly onConflict: (conflict: Conflict) => void
}

/**
 * Saves of one process don't overtake each other, but those of another may, again and again: merged from its cache, each takes one
 * round trip, and another attempt here takes two. So as many saves of one session must be able to wait there.
 */
const maxAttempts = 100

/** The current state of a session. */
type Current = { readonly json: string; readonly version: number }

/** `undefined`: the session no longer exists, and nothing was written. */
export type Outcome = SaveResult | undefined | Error

export class SessionWriter {
  readonly #options: SessionWriterOptions

  constructor(options: SessionWriterOptions) {
    this.#options = options
  }

  /** Saves sessions, each once in the list, and resolves with what came of each, in their order. */
  async saveAll(requests: readonly SaveRequest[], limit: TimeLimit): Promise<readonly Outcome[]> {
    const outcomes = await this.#saveAll(requests, limit)
    if (this.#options.codec !== undefined || !outcomes.includes(undefined)) return outcomes
    // Nothing is written over what a codec has encoded that this store doesn't have: the read rejects.
    const readError = (id: string): Promise<undefined | Error> =>
      this.#options.read(id, limit).then(
        () => undefined,
        (error) => error as Error,
      )
    return Promise.all(outcomes.map((outcome, n) => outcome ?? readError((requests[n] as SaveRequest).id)))
  }

  async #saveAll(requests: readonly SaveRequest[], limit: TimeLimit): Promise<readonly Outcome[]> {
    const unconditional: SaveRequest[] = []
    const based: SaveRequest[] = []
    const limited: SaveRequest[] = []
    const unchanged: SaveRequest[] = []
    for (const request of requests)
      if (request.isUnchanged) unchanged.push(request)
      else if (this.#entersLimit(request)) limited.push(request)
      else if (request.base === undefined) unconditional.push(request)
      else based.push(request)
    if (unconditional.length === requests.length) return this.#writeAll(unconditional, limit)
    if (based.length === requests.length) return this.#replaceAll(based, limit)
    const groups = await Promise.all([
      unconditional.length > 0 ? this.#writeAll(unconditional, limit) : [],
      based.length > 0 ? this.#replaceAll(based, limit) : [],
      this.#saveAllWithLimit(limited, limit),
      unchanged.length > 0 ? this.#setExpiries(unchanged, limit) : [],
    ])
    const outcomes = groups.flat()
    const grouped = [...unconditional, ...based, ...limited, ...unchanged]
    const byId = new Map(grouped.map(({ id }, n) => [id, outcomes[n]]))
    return requests.map(({ id }) => byId.get(id))
  }

  #writeAll(requests: readonly SaveRequest[], limit: TimeLimit): Promise<readonly Outcome[]> {
    const { queries } = this.#options
    const write = async (some: readonly SaveRequest[]) => toResults(some, await queries.write(some, limit))
    return bisect(requests, write, batching.canBisect)
  }

  /**
   * Sets the expiry of sessions that their requests have not changed. Those that other requests have changed keep these
   * changes, whose versions aren't known here.
   */
  async #setExpiries(requests: readonly SaveRequest[], limit: TimeLimit): Promise<readonly Outcome[]> {
    const { queries } = this.#options
    const replace = async (some: readonly SaveRequest[], replacements: readonly Replacement[]) =>
      toResults(some, await queries.replace(replacements, limit))
    const inVersion = requests.filter(
      ({ base }) => queries.hasVersions && typeof base === 'object' && base.mergedJson === undefined,
    )
    const results = await bisect(
      inVersion,
      async (some) => (some.length === 0 ? [] : replace(some, some.map(toReplacement))),
      batching.canBisect,
    )
    const outcomes = new Map<string, Outcome>(inVersion.map(({ id }, n) => [id, results[n]]))
    const others = requests.filter(({ id }) => outcomes.get(id) === undefined)
    if (others.length > 0) {
      const keepJson = (request: SaveRequest): Replacement => ({
        ...toReplacement(request),
        json: null,
        baseVersion: undefined,
      })
      const kept = await bisect(others, (some) => replace(some, some.map(keepJson)), batching.canBisect)
      for (const [n, { id }] of others.entries()) {
        const result = kept[n]
        outcomes.set(id, result === undefined || result instanceof Error ? result : { ...result, version: 0 })
      }
    }
    return requests.map(({ id }) => outcomes.get(id))
  }

  /** Whether a session comes to belong to a user whose sessions are limited. */
  #entersLimit({ base, userId }: SaveRequest): boolean {
    if (this.#options.maxSessionsPerUser === undefined || userId === undefined) return false
    const before = typeof base === 'object' ? parse(base.json) : undefined
    try {
      return before === undefined || this.#options.userIdOf(before) !== userId
    } catch {
      // The option `userId` can't read what an earlier one could. The other saves of this batch mustn't fail because of that.
      return true
    }
  }

  /** One after another: saves of one user wait for the same lock. */
  async #saveAllWithLimit(requests: readonly SaveRequest[], limit: TimeLimit): Promise<Outcome[]> {
    const outcomes: Outcome[] = []
    for (const request of requests) outcomes.push(...(await this.#saveWithLimit(request, limit)))
    return outcomes
  }

  async #saveWithLimit(request: SaveRequest, limit: TimeLimit): Promise<readonly Outcome[]> {
    const { queries, maxSessionsPerUser = 0, onEvicted } = this.#options
    const write = async (session: Write | Replacement): Promise<readonly Change[]> => {
      const { written, evicted } = await queries.writeWithLimit(session, maxSessionsPerUser, limit)
      onEvicted(evicted, session.userId)
      return written === undefined ? [] : [written]
    }
    if (request.base === undefined)
      return bisect([request], async () => toResults([request], await write(request)))
    return this.#replaceAll([request], limit, async (replacements) => {
      const [replacement] = replacements as [Replacement]
      // After a merge the session may belong to no user.
      return replacement.userId === undefined ? queries.replace(replacements, limit) : write(replacement)
    })
  }

  /** Saves sessions over their bases. Those that another request has changed are merged with that change and tried again. */
  async #replaceAll(
    requests: readonly SaveRequest[],
    limit: TimeLimit,
    replace = (replacements: readonly Replacement[]) => this.#options.queries.replace(replacements, limit),
  ): Promise<readonly Outcome[]> {
    const outcomes = new Map<string, Outcome>()
    let pending: SaveRequest[] = []
    let hasMerged = false
    const mergeWith = async (
      request: SaveRequest,
      current: Current | Promise<Current | undefined>,
    ): Promise<void> => {
      hasMerged = true
      try {
        const state = await current
        // A session that no longer exists isn't saved.
        if (state !== undefined) pending.push(this.#merge(request, state))
      } catch (error) {
        outcomes.set(request.id, error as Error)
      }
    }
    for (const request of requests) {
      const { base } = request
      const cached = typeof base === 'object' ? this.#options.peek(base.digest) : undefined
      if (!this.#checksVersion(request)) pending.push({ ...request, base: 'replaced' })
      else if (typeof base !== 'object') pending.push(request)
      else if (cached !== undefined && cached.version > base.version) await mergeWith(request, cached)
      else if (base.mergedJson !== undefined) await mergeWith(request, { ...base, json: base.mergedJson })
      else pending.push(request)
    }
    for (let attempt = 1; pending.length > 0; attempt++) {
      const tried = pending
      const isWhole = attempt === 1 && !hasMerged && tried.length === requests.length
      pending = []
      // Errors are kept by request, not thrown: an earlier attempt may have written others of them.
      const results = await bisect(
        tried,
        async (some) => toResults(some, await replace(some.map(toReplacement))),
        batching.canBisect,
      )
      if (isWhole && results.every((result) => result !== undefined)) return results
      for (const [n, { id }] of tried.entries()) outcomes.set(id, results[n])
      const overtaken = tried.filter(({ base }, n) => results[n] === undefined && typeof base === 'object')
      if (attempt < maxAttempts)
        await Promise.all(
          overtaken.map((request) => mergeWith(request, this.#options.read(request.id, limit))),
        )
      else
        for (const { id } of overtaken)
          outcomes.set(
            id,
            new ConflictError(`the session was changed ${maxAttempts} times while it was being saved`),
          )
    }
    return requests.map(({ id }) => outcomes.get(id))
  }

  #checksVersion(request: SaveRequest): boolean {
    const concurrency = request.concurrency ?? this.#options.concurrency
    return concurrency !== 'last-write' && this.#options.queries.hasVersions
  }

  /** Returns the request that saves the same changes over the current state. */
  #merge(request: SaveRequest, current: Current): SaveRequest {
    const { onConflict, serialize, userIdOf } = this.#options
    const base = request.base as MergeBase
    const theirs = parse(current.json) ?? {}
    const { session, overwritten } = threeWayMerge(parse(base.json) ?? {}, parse(request.json) ?? {}, theirs)
    if (current.version !== base.version) {
      const isRejected = (request.concurrency ?? this.#options.concurrency) === 'reject'
      onConflict({ outcome: isRejected ? 'rejected' : 'merged', overwritten: isRejected ? [] : overwritten })
      if (isRejected) throw new ConflictError('another request has changed the session since it was loaded')
    }
    const { json, version } = current
    return {
      ...request,
      json: serialize(session),
      userId: userIdOf(session),
      base: { digest: base.digest, json, version },
    }
  }
}

/** Returns the merge base of an object that was saved as `json`; the table may hold more, merged into it. */
export function mergeBaseAfter(digest: string, json: string, saved: SaveResult): MergeBase {
  const base = { digest, json, version: saved.version }
  return saved.json === json ? base : { ...base, mergedJson: saved.json }
}

function toReplacement({ id, json, ttlMs, userId, base }: SaveRequest): Replacement {
  return { id, json, ttlMs, userId, baseVersion: typeof base === 'object' ? base.version : undefined }
}

/** The result of each request, `undefined` for those that weren't written. */
function toResults(requests: readonly SaveRequest[], changes: readonly Change[]): (SaveResult | undefined)[] {
  // PostgreSQL may sort ids in another order.
  const isInOrder = changes.length === requests.length && changes.every(({ id }, n) => id === requests[n]?.id)
  const byId = isInOrder ? undefined : new Map(changes.map((change) => [change.id, change]))
  return requests.map(({ id, json }, n) => {
    const change = byId === undefined ? changes[n] : byId.get(id)
    return change && { json, version: change.version, ttlMs: change.ttlMs, isNew: change.isNew }
  })
}
