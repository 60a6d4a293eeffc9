// Changes sessions in batches, and keeps the cache in step with the results and with notifications.
import type { Fill, LocalCache } from '../cache/local-cache.js'
import type { MergeBase } from '../cache/merge-bases.js'
import type { SessionRecords } from '../cache/session-records.js'
import type { Notification } from '../notifications/payload.js'
import type { Batcher } from '../util/batcher.js'
import { bisect } from '../util/bisect.js'
import type { TimeLimit } from '../util/deadlines.js'
import { tickNow } from '../util/tick-clock.js'
import { batching, isOverdue, timeLimits } from './batching.js'
import type { DestroyCall, SessionCall, WriteCall } from './session-calls.js'
import type { SessionCallOptions, SessionReader } from './session-reader.js'
import { mergeBaseAfter, type Outcome, type SaveResult, type SessionWriter } from './session-writer.js'
import { createBatcher } from './sharded-batcher.js'

export interface SessionRepositoryOptions extends SessionCallOptions {
  readonly records: SessionRecords
  readonly reader: SessionReader
  readonly writer: SessionWriter
  readonly propagate: 'invalidate' | 'update'
  /** The option `idleTimeout`: a session that was just written lives no longer than this without use. */
  readonly idleTimeout: number | undefined
  /** Receives the digest and the user of each session that a call has created. */
  readonly onCreated: (digest: string, userId: string | undefined) => void
}

/** By how much a session's remaining life may be overestimated here: the time that an answer takes. */
const ttlToleranceMs = 1_000

export class SessionRepository {
  readonly #options: SessionRepositoryOptions
  readonly #cache: LocalCache | undefined
  /** Changes of one session run one after another, in the order of their calls. */
  readonly #changes: Pick<Batcher<WriteCall | DestroyCall, undefined>, 'add' | 'oldestWaitMs'>

  constructor(options: SessionRepositoryOptions) {
    this.#options = options
    this.#cache = options.cache
    const { toError, onSettled, shardStarts, connection } = options
    const limits = timeLimits(connection)
    this.#changes = createBatcher<WriteCall | DestroyCall, undefined>(
      {
        ...batching,
        ...limits,
        ...(connection.cancels && { isOverdue }),
        toError: (error, { value }) => toError(error, value),
        onSettled,
        sizeOf: (call) => (call.verb === 'write' ? call.json.length : 0),
        run: (calls, limit) =>
          this.#changeAll(
            calls.map(({ value }) => value),
            limit,
          ),
      },
      shardStarts,
    )
  }

  /** How long the oldest call that waits for those before it has waited. */
  get oldestWaitMs(): number {
    return Math.max(this.#options.reader.oldestWaitMs, this.#changes.oldestWaitMs)
  }

  /**
   * Saves a session over the merge base of the object or of koa-session's context, or else over the call's. An unchanged
   * session is only touched; a destroyed one stays destroyed. What was saved is the base of the object's next save.
   */
  write(call: WriteCall): Promise<undefined> {
    return this.#changes.add(call.id, call)
  }

  destroy(call: DestroyCall): Promise<undefined> {
    return this.#changes.add(call.id, call)
  }

  async #changeAll(
    calls: readonly (WriteCall | DestroyCall)[],
    limit: TimeLimit,
  ): Promise<readonly (undefined | Error | Promise<undefined | Error>)[]> {
    const fill = this.#cache?.beginFill()
    const saves: WriteCall[] = []
    const errors = new Map<SessionCall, Error>()
    const touched = new Map<SessionCall, Promise<undefined | Error>>()
    const work: Promise<unknown>[] = []
    const destroyed: string[] = []
    const startedAt = performance.now()
    for (const call of calls) {
      if (call.verb === 'destroy') {
        this.#options.touches.cancel(call.digest)
        destroyed.push(call.id)
        continue
      }
      // What this object was loaded as, not what is cached: the row may hold something else by now.
      const base = this.#baseOf(call)
      if (typeof base === 'object' && base.json === call.json && call.ttlMs !== null && call.ttlMs > 0)
        work.push(
          this.#saveUnchanged(call, call.ttlMs, base, fill, startedAt, errors, touched, limit).catch(
            (error) => errors.set(call, asError(error)),
          ),
        )
      else {
        call.base = base
        call.isUnchanged = false
        saves.push(call)
      }
    }
    if (saves.length > 0) work.push(this.#saveAll(saves, fill, startedAt, errors, limit))
    if (destroyed.length > 0) work.push(this.#destroyAll(calls, destroyed, errors, limit))
    await (work.length === 1 ? work[0] : Promise.all(work))
    return errors.size === 0 && touched.size === 0
      ? new Array(calls.length)
      : calls.map((call) => errors.get(call) ?? touched.get(call))
  }

  /** The base that the object knows, or koa-session's context: the first that was loaded or saved under this id. */
  #baseOf({ session, owner, digest, base }: WriteCall): WriteCall['base'] {
    const { bases } = this.#options
    return (session && bases.find(session, digest)) ?? (owner && bases.find(owner, digest)) ?? base
  }

  /** Touches a session; a touch can't move its expiry to an earlier time, so for a shorter ttl the expiry is written. */
  async #saveUnchanged(
    call: WriteCall,
    ttlMs: number,
    base: MergeBase,
    fill: Fill | undefined,
    startedAt: number,
    errors: Map<SessionCall, Error>,
    touched: Map<SessionCall, Promise<undefined | Error>>,
    limit: TimeLimit,
  ): Promise<void> {
    const { record, id, session, owner } = call
    const { reader, touches } = this.#options
    let remainingMs = reader.getRemainingTtl(record)
    if (remainingMs <= 0) {
      const stored = await reader.load(id, limit)
      if (stored !== undefined) {
        remainingMs = stored.ttlMs
        touches.recordExpiry(record, remainingMs)
      }
    }
    if (remainingMs > ttlMs + ttlToleranceMs) {
      call.base = base
      call.isUnchanged = true
      return this.#saveAll([call], fill, startedAt, errors, limit)
    }
    // Not awaited: if the row is locked, the others of this batch shouldn't wait for it.
    const remember = (): undefined => void this.#rememberBase(session, owner, base)
    touched.set(call, touches.touch(record, id, ttlMs).then(remember, asError))
  }

  async #saveAll(
    calls: readonly WriteCall[],
    fill: Fill | undefined,
    startedAt: number,
    errors: Map<SessionCall, Error>,
    limit: TimeLimit,
  ): Promise<void> {
    let outcomes: readonly Outcome[] = []
    try {
      const { onBatch, writer } = this.#options
      outcomes = await onBatch('set', calls.length, () => writer.saveAll(calls, limit))
    } finally {
      const isTrusted = this.#cache !== undefined && this.#options.isTrusted()
      for (let n = 0; n < calls.length; n++) {
        const call = calls[n] as WriteCall
        const outcome = outcomes[n]
        if (outcome instanceof Error) errors.set(call, outcome)
        const saved = outcome instanceof Error ? undefined : outcome
        if (saved !== undefined && call.ttlMs !== null)
          this.#options.touches.dropBefore(call.record, startedAt)
        this.#settleSave(call, saved, isTrusted ? fill : undefined)
      }
    }
  }

  /** Afterwards the cache holds the new state or none: none if the save failed, or found no session to write. */
  #settleSave(call: WriteCall, saved: SaveResult | undefined, fill: Fill | undefined): void {
    const { digest, record, id, json, session, owner } = call
    const cache = this.#cache
    // Version 0: the table has no versions.
    const version = saved?.version || Number.POSITIVE_INFINITY
    if (saved === undefined) {
      cache?.invalidate(digest, version)
      return
    }
    const ttlMs = Math.min(
      saved.ttlMs || (call.ttlMs ?? 0),
      this.#options.idleTimeout ?? Number.POSITIVE_INFINITY,
    )
    if (fill !== undefined && saved.version)
      cache?.commitSave(digest, fill, { id, json: saved.json, version, ttlMs })
    else cache?.invalidate(digest, version)
    this.#options.touches.recordExpiry(record, ttlMs, tickNow())
    this.#rememberBase(session, owner, mergeBaseAfter(digest, json, saved))
    if (saved.isNew) this.#options.onCreated(digest, call.userId)
  }

  #rememberBase(session: object | undefined, owner: object | undefined, base: MergeBase): void {
    if (session !== undefined) this.#options.bases.remember(session, base)
    if (owner !== undefined) this.#options.bases.remember(owner, base)
  }

  async #destroyAll(
    calls: readonly (WriteCall | DestroyCall)[],
    ids: readonly string[],
    errors: Map<SessionCall, Error>,
    limit: TimeLimit,
  ): Promise<void> {
    const { onBatch, queries } = this.#options
    const destroy = async (some: readonly string[]): Promise<boolean[]> => {
      const changes = await onBatch('destroy', some.length, () => queries.destroyAll(some, limit))
      const found = new Set(changes.map(({ id }) => id))
      return some.map((id) => found.has(id))
    }
    const results = await bisect(ids, destroy, batching.canBisect)
    let n = 0
    for (const call of calls) {
      if (call.verb !== 'destroy') continue
      const result = results[n++]
      if (result instanceof Error) errors.set(call, result)
      this.#cache?.invalidate(call.digest, Number.POSITIVE_INFINITY)
      if (result === true) call.onDestroyed?.()
    }
  }

  /** Drops a session that was destroyed here by another way than `destroy`. */
  invalidate(digest: string, version: number): void {
    this.#options.touches.cancel(digest)
    // Version 0: the table has no versions.
    this.#cache?.invalidate(digest, version || Number.POSITIVE_INFINITY)
  }

  /** Returns the current state of a session, if the cache has it. */
  peek(digest: string): MergeBase | undefined {
    return this.#options.isTrusted() ? this.#cache?.peek(digest) : undefined
  }

  /** Applies a change of another process. A process also receives its own notifications, which change nothing. */
  applyNotification({ clear, changes }: Notification): void {
    const cache = this.#cache
    if (cache === undefined) return
    const { reader, records, touches, propagate } = this.#options
    if (clear) {
      cache.clear()
      touches.forgetExpiries()
      return
    }
    for (const { digest, version } of changes) {
      if (cache.hasVersion(digest, version)) continue
      records.forgetExpiry(digest)
      const id = cache.invalidate(digest, version)
      // Batched with all reads of this tick. If it fails, the session is read when a request needs it.
      if (id !== undefined && propagate === 'update')
        cache.fetch(digest, () => reader.load(id)).catch(() => undefined)
    }
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
