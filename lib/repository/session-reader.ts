// Reads sessions, from the cache or in batches from the database; each caller gets an object of its own.
import type { LocalCache } from '../cache/local-cache.js'
import type { MergeBase, MergeBases } from '../cache/merge-bases.js'
import type { SessionRecord } from '../cache/session-records.js'
import type { Connection } from '../postgres/connection.js'
import { parse } from '../session/json.js'
import { isKoaSession } from '../session/koa-session.js'
import { fromStored, mayExpire, type StoredSession } from '../session/stored-session.js'
import type { Session } from '../types/session-store.js'
import type { BatchCall, Batcher } from '../util/batcher.js'
import type { TimeLimit } from '../util/deadlines.js'
import { tickNow } from '../util/tick-clock.js'
import { settledWithin } from '../util/timeout.js'
import { type BatchObserver, batching, timeLimits } from './batching.js'
import type { ReadCall, SessionCall } from './session-calls.js'
import { patientMs, type Read } from './session-codec.js'
import type { SessionQueries } from './session-queries.js'
import { createBatcher } from './sharded-batcher.js'
import type { TouchBuffer } from './touch-buffer.js'

/** What the calls that concern one session need. */
export interface SessionCallOptions {
  readonly bases: MergeBases
  readonly queries: SessionQueries
  /** Its time limits are those of the calls. */
  readonly connection: Connection
  /** `undefined`: every read queries the database. */
  readonly cache: LocalCache | undefined
  /** Whether the cache may be read and filled now. */
  readonly isTrusted: () => boolean
  readonly touches: TouchBuffer
  /** Where Citus has distributed the table: the least hashes of its shards, in order. */
  readonly shardStarts: readonly number[] | undefined
  /** Returns the error that a call of the store rejects with. */
  readonly toError: (error: unknown, call: SessionCall) => Error
  /** Receives the calls that were settled, and their results: an `Error` for those that rejected. */
  readonly onSettled: (calls: readonly BatchCall<SessionCall>[], results: readonly unknown[]) => void
  readonly onBatch: BatchObserver
}

export interface SessionReaderOptions extends SessionCallOptions {
  /** Whether sessions are decoded by a codec, which may take long. */
  readonly decodes: boolean
}

/** What a read returns: later, if it takes long to decode. */
type Presented = Session | undefined | Error | Promise<Session | undefined | Error>

export class SessionReader {
  readonly #options: SessionReaderOptions
  readonly #cache: LocalCache | undefined
  /** Sessions as the callers get them. */
  readonly #reads: Pick<Batcher<ReadCall, Session | undefined>, 'add' | 'oldestWaitMs'>
  /** Sessions as they are stored, for the cache and for merging. */
  readonly #loads: Pick<Batcher<undefined, StoredSession | undefined>, 'add' | 'oldestWaitMs'>

  constructor(options: SessionReaderOptions) {
    this.#options = options
    this.#cache = options.cache
    const { toError, onSettled, onBatch, queries, shardStarts, connection } = options
    const limits = timeLimits(connection)
    this.#reads = createBatcher<ReadCall, Session | undefined>(
      {
        ...batching,
        ...limits,
        isUnordered: true,
        run: (calls, limit) => this.#readAll(calls, limit),
        toError: (error, { value }) => toError(error, value),
        onSettled,
      },
      shardStarts,
    )
    this.#loads = createBatcher(
      {
        ...batching,
        ...limits,
        isUnordered: true,
        run: (calls, limit) => {
          const ids = calls.map(({ key }) => key)
          return onBatch('get', ids.length, () => queries.readAll(ids, limit))
        },
      },
      shardStarts,
    )
  }

  /** How long the oldest call that waits for those before it has waited. */
  get oldestWaitMs(): number {
    return Math.max(this.#reads.oldestWaitMs, this.#loads.oldestWaitMs)
  }

  /** Returns a copy of a cached session. Its merge base is remembered for the copy, and for `owner` if given. */
  getCached(record: SessionRecord, owner: object | undefined): Session | undefined {
    const cached = this.#options.isTrusted() ? this.#cache?.get(record) : undefined
    if (cached === undefined) return undefined
    const { session, entry } = cached
    const ttlMs = isKoaSession(session) ? this.getRemainingTtl(record) : 0
    return this.#present(session, entry, record, owner, ttlMs, entry.hasExpiring)
  }

  /** Reads a session from the database, or from the cache once another call has loaded it. */
  read(call: ReadCall): Promise<Session | undefined> {
    return this.#reads.add(call.id, call)
  }

  /** Reads a session as the table holds it. `limit`: of the call that needs it. */
  load(id: string, limit?: TimeLimit): Promise<StoredSession | undefined> {
    return this.#loads.add(id, undefined, limit?.deadline)
  }

  async #readAll(calls: readonly BatchCall<ReadCall>[], limit: TimeLimit): Promise<readonly Presented[]> {
    const { decodes, onBatch, queries, touches } = this.#options
    const cache = this.#options.isTrusted() ? this.#cache : undefined
    if (cache !== undefined) {
      const reads = calls.map(({ value }) => this.#readThrough(cache, value, limit).catch(asError))
      return decodes ? settledWithin(reads, patientMs) : Promise.all(reads)
    }
    const ids = calls.map(({ key }) => key)
    const stored = await onBatch('get', ids.length, () => queries.readAll(ids, limit))
    return calls.map(({ value }, n) => {
      const read = stored[n]
      if (read instanceof Promise) return read.then((late: Read) => this.#settleRead(value, late))
      if (read === undefined && touches.isPending(value.record))
        return this.#readAgain(value, limit).catch(asError)
      return this.#settleRead(value, read)
    })
  }

  /** For a session that the table doesn't have, though its use was noted here: it may have expired only because of an outage. */
  async #readAgain(call: ReadCall, limit: TimeLimit): Promise<Session | undefined | Error> {
    await this.#options.touches.writeNow(call.record)
    return this.#settleRead(call, await this.load(call.id, limit))
  }

  /** Concurrent misses of one session share a query. */
  async #readThrough(
    cache: LocalCache,
    call: ReadCall,
    limit: TimeLimit,
  ): Promise<Session | undefined | Error> {
    const load = (): Promise<StoredSession | undefined> => this.load(call.id, limit)
    const { digest, fresh } = call
    const stored = await (fresh ? cache.fill(digest, load) : cache.fetch(digest, load))
    if (stored === undefined && this.#options.touches.isPending(call.record))
      return this.#readAgain(call, limit)
    return this.#settleRead(call, stored)
  }

  #settleRead(call: ReadCall, stored: StoredSession | undefined | Error): Session | undefined | Error {
    // The table has no such session: a cached one was destroyed, and its notification is still on its way.
    if (stored === undefined && call.fresh) this.#cache?.invalidate(call.digest, Number.POSITIVE_INFINITY)
    if (stored === undefined || stored instanceof Error) return stored
    try {
      const { json, version, ttlMs } = stored
      const { digest, id, record, owner } = call
      const now = tickNow()
      this.#options.touches.recordRead(record, id, ttlMs, now)
      const session = parse(json)
      if (session === undefined) return undefined
      record.loadedAt = now
      return this.#present(session, { digest, json, version }, record, owner, ttlMs, mayExpire(json))
    } catch (error) {
      return asError(error)
    }
  }

  /** Applies what depends on the time, and remembers the merge base. */
  #present(
    session: Session,
    base: MergeBase,
    record: SessionRecord,
    owner: object | undefined,
    ttlMs: number,
    hasExpiring: boolean,
  ): Session {
    const { bases, touches } = this.#options
    const isKoa = isKoaSession(session)
    const presented =
      isKoa || hasExpiring
        ? fromStored(session, isKoa ? Math.max(ttlMs, touches.getRemainingTtl(record)) : undefined)
        : session
    bases.remember(presented, base)
    if (owner !== undefined) bases.remember(owner, base)
    return presented
  }

  /** Returns how many ms a session that was just returned has to live. */
  getRemainingTtl(record: SessionRecord): number {
    return Math.max(this.#options.touches.getRemainingTtl(record), this.#cache?.getRemainingTtl(record) ?? 0)
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
