// Runs every statement of a request's path: joins concurrent calls into batches, and notifies of what they change.
import { fromColumn, toColumn } from '../codec/codec.js'
import { payloads } from '../notifications/payload.js'
import type { Connection, Query, Statement } from '../postgres/connection.js'
import { joinValues } from '../postgres/sql-params.js'
import type { Table } from '../schema/table.js'
import { handleOf, separator } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Codec, Row } from '../types/options.js'
import { type BatchCall, Batcher } from '../util/batcher.js'
import { codeOf, redact } from '../util/driver-errors.js'
import { type BatchObserver, batching, unobserved } from './batching.js'
import { LogFlusher } from './log-flusher.js'
import { type PreparedStatements, prepareAll } from './prepared-statements.js'
import {
  type Change,
  idsOf,
  inOrderOfCalls,
  notifiedChanges,
  type Replacement,
  replacementValues,
  toChange,
  toColumns,
  toStoredSession,
  type Write,
  writeValues,
} from './row-mapper.js'
import type { SessionStatements } from './session-statements.js'
import type { Touch } from './touch-buffer.js'

export interface SessionQueriesOptions {
  /** Returns a suffix for the payload of the next notification: a heartbeat of this process's listener, or nothing. */
  readonly payloadSuffix?: () => string
  readonly idleTimeout?: number | undefined
  readonly codec?: Codec | undefined
  readonly onBatch?: BatchObserver
}

export class SessionQueries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #idleTimeoutMs: number
  readonly #codec: Codec | undefined
  readonly #statements: PreparedStatements
  readonly #reads: Batcher<undefined, StoredSession | undefined>
  readonly #destroys: Batcher<undefined, Change | undefined>
  readonly #touches: Batcher<Touch, undefined>
  readonly #flusher: LogFlusher
  readonly #payloadSuffix: () => string
  readonly #notifiesInline: boolean

  constructor(
    connection: Connection,
    table: Table,
    channel: string,
    statements: SessionStatements,
    {
      idleTimeout = Number.POSITIVE_INFINITY,
      codec,
      payloadSuffix = () => '',
      onBatch = unobserved,
    }: SessionQueriesOptions = {},
  ) {
    this.#connection = connection
    this.#table = table
    this.#channel = channel
    this.#codec = codec
    this.#idleTimeoutMs = idleTimeout
    this.#statements = prepareAll(statements)
    this.#notifiesInline = statements.notifiesInline
    this.#payloadSuffix = payloadSuffix
    this.#flusher = new LogFlusher(() => connection.query(this.#statements.flush))
    this.#reads = new Batcher({
      ...batching,
      dedupe: true,
      run: (calls) => onBatch('get', calls.length, () => this.#readAll(calls)),
    })
    this.#destroys = new Batcher({
      ...batching,
      run: (calls) =>
        onBatch('destroy', calls.length, async () =>
          inOrderOfCalls(calls, await this.destroyAll(idsOf(calls))),
        ),
    })
    this.#touches = new Batcher({
      ...batching,
      run: (calls) =>
        onBatch('touch', calls.length, async () => {
          await this.#touchAll(calls.map(({ value }) => value))
          return calls.map(() => undefined)
        }),
    })
  }

  /** Whether the table has versions. */
  get hasVersions(): boolean {
    return this.#table.columns.has('version')
  }

  /** Resolves with the session if it is active. */
  read(id: string): Promise<StoredSession | undefined> {
    return this.#reads.add(id, undefined)
  }

  async #readAll(calls: readonly BatchCall<undefined>[]): Promise<(StoredSession | undefined | Error)[]> {
    const { readOne, readMany } = this.#statements
    // A comparison with one id has the best plan in every version of PostgreSQL; that of an array suits any length.
    const rows = await (calls.length === 1
      ? this.#run(readOne, idsOf(calls))
      : this.#run(readMany, [joinValues(idsOf(calls))]))
    const sessions = rows.map(toStoredSession)
    const codec = this.#codec
    if (codec === undefined) return inOrderOfCalls(calls, sessions)
    // A session that can't be decoded rejects its own read alone.
    const decoded = await Promise.all(sessions.map((session) => decode(codec, session).catch(toError)))
    const byId = new Map(sessions.map(({ id }, n) => [id, decoded[n]]))
    return calls.map(({ key }) => byId.get(key))
  }

  /** Inserts sessions or replaces existing ones, except tombstones, and notifies of the changes. */
  async write(writes: readonly Write[]): Promise<Change[]> {
    const encoded = this.#codec === undefined ? writes : await this.#encodeAll(writes)
    return this.#capByIdleTimeout(await this.#change(...this.#writeStatement(encoded), writes.length === 1))
  }

  /** Replaces existing sessions in the given versions; others are missing from the result. */
  async replace(replacements: readonly Replacement[]): Promise<Change[]> {
    const encoded = this.#codec === undefined ? replacements : await this.#encodeAll(replacements)
    return this.#capByIdleTimeout(
      await this.#change(...this.#replaceStatement(encoded), replacements.length === 1),
    )
  }

  /**
   * Writes a session that comes to belong to its user, who may have `max`, and destroys the least recently used beyond that.
   * Calls for one user run one after another. A query function can't lock: there, more than necessary may be destroyed.
   */
  async writeWithLimit(
    write: Write | Replacement,
    max: number,
  ): Promise<{ written: Change | undefined; evicted: Change[] }> {
    const { evict, lockUser } = this.#statements
    const [statement, values] =
      'baseVersion' in write
        ? this.#replaceStatement(await this.#encodeAll([write]))
        : this.#writeStatement(await this.#encodeAll([write]))
    let mustFlush = false
    const result = await this.#connection.transaction(
      async (query) => {
        const change = async (statement: Statement, values: readonly unknown[]): Promise<Change[]> => {
          const rows = await this.#redacting(values, () => query(statement, this.#withSuffix(values)))
          if (this.#table.isDistributed) await this.#notify(query, rows)
          mustFlush ||= rows[0]?.must_flush === true
          return rows.map(toChange)
        }
        await query(lockUser, [this.#channel, write.userId])
        const evicted = await change(evict, [write.id, write.userId, max])
        const [written] = this.#capByIdleTimeout(await change(statement, values))
        // If the session wasn't written, the transaction is rolled back, and with it the eviction.
        return { written, evicted: written === undefined && this.#connection.isTransactional ? [] : evicted }
      },
      ({ written }) => written !== undefined,
    )
    if (mustFlush) await this.#flusher.flush()
    return result
  }

  async #encodeAll<T extends Write>(writes: readonly T[]): Promise<readonly T[]> {
    const codec = this.#codec
    if (codec === undefined) return writes
    const encode = async (write: T): Promise<T> => ({
      ...write,
      json: await toColumn(codec, write.json, { id: handleOf(write.id) }),
    })
    return Promise.all(writes.map(encode))
  }

  #writeStatement(writes: readonly Write[]): [Statement, unknown[]] {
    const { writeOne, writeMany } = this.#statements
    const values = writeValues(writes)
    return writes.length === 1 ? [writeOne, values.flat()] : [writeMany, values.map(joinValues)]
  }

  #replaceStatement(replacements: readonly Replacement[]): [Statement, unknown[]] {
    const { replaceOne, replaceMany } = this.#statements
    const values = replacementValues(replacements)
    return replacements.length === 1 ? [replaceOne, values.flat()] : [replaceMany, values.map(joinValues)]
  }

  /** A session that was just written has just been used. */
  #capByIdleTimeout(changes: Change[]): Change[] {
    const max = this.#idleTimeoutMs
    return changes.map((change) => (change.ttlMs > max ? { ...change, ttlMs: max } : change))
  }

  /** Writes the last access of active sessions and moves their expiry, never back; each session at most once in the list. */
  async touch(touches: readonly Touch[]): Promise<void> {
    const [first, ...more] = touches
    if (first !== undefined && more.length === 0) await this.#touches.add(first.id, first)
    else await this.#touchAll(touches)
  }

  async #touchAll(touches: readonly Touch[]): Promise<void> {
    await this.#run(this.#statements.touch, toColumns(touches, 'id', 'ttlMs', 'ageMs').map(joinValues))
  }

  /** Turns a session's row into a tombstone, and notifies of it. */
  destroy(id: string): Promise<Change | undefined> {
    return this.#destroys.add(id, undefined)
  }

  /** The same for many sessions, each at most once in the list. */
  destroyAll(ids: readonly string[]): Promise<Change[]> {
    const { destroyOne, destroyMany } = this.#statements
    return ids.length === 1
      ? this.#change(destroyOne, ids, true)
      : this.#change(destroyMany, [joinValues(ids)])
  }

  /** The same for those that belong to this user. */
  destroyAllOf(userId: string, ids: readonly string[]): Promise<Change[]> {
    return this.#change(this.#statements.destroyOf, [joinValues(ids), userId])
  }

  /**
   * Renames the row that older software wrote under a raw id to the id's digest. If there is a row of each, deletes the one
   * under the raw id.
   */
  async hashRawId(raw: string, id: string): Promise<void> {
    const { hashRawId } = this.#statements
    try {
      await this.#connection.query(hashRawId, [raw, id])
    } catch (error) {
      // A unique violation: another request has just inserted the digest's row. The statement now deletes the raw one.
      if (codeOf(error) !== '23505') throw error
      await this.#connection.query(hashRawId, [raw, id])
    }
  }

  /** Resolves when the change is committed and flushed. `isLone`: no other call is in the statement. */
  async #change(statement: Statement, values: readonly unknown[], isLone = false): Promise<Change[]> {
    if (!this.#table.isDistributed) {
      const rows = await this.#redacting(values, () =>
        this.#commit(statement, this.#withSuffix(values), isLone),
      )
      return rows.map(toChange)
    }
    // Citus may run a CTE on a worker, where its notification is lost: it is sent by a statement of its own.
    return this.#redacting(values, () =>
      this.#connection.transaction(async (query) => {
        const rows = await query(statement, values)
        await this.#notify(query, rows)
        return rows.map(toChange)
      }),
    )
  }

  async #commit(statement: Statement, values: readonly unknown[], isLone: boolean): Promise<Row[]> {
    const { pipeline } = this.#connection
    if (!isLone || pipeline === undefined || !this.#table.canFlush || !this.#flusher.isIdle) {
      const rows = await this.#connection.query(statement, values)
      if (rows[0]?.must_flush === true) await this.#flusher.flush()
      return rows
    }
    // One round trip for both, so that a change without company doesn't wait for two.
    const [rows, flushed] = await this.#flusher.cover(
      pipeline(statement, values, this.#statements.flushIfAsked),
    )
    if (rows[0]?.must_flush !== true) return rows
    if (flushed instanceof Error) throw flushed
    // A pooler may have run the two on different connections.
    if (flushed[0]?.flushed !== true) await this.#flusher.flush()
    return rows
  }

  #withSuffix(values: readonly unknown[]): readonly unknown[] {
    return this.#notifiesInline ? [...values, this.#payloadSuffix()] : values
  }

  async #notify(query: Query, rows: readonly Row[]): Promise<void> {
    for (const payload of payloads(notifiedChanges(rows.map(toChange))))
      await query({ text: 'select pg_notify($1, $2)', name: '' }, [this.#channel, payload])
  }

  #run(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    return this.#redacting(values, () => this.#connection.query(statement, values))
  }

  /** Calls that share a statement share its error, which must not show them each other's ids and sessions. */
  async #redacting<T>(values: readonly unknown[], work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw redact(
        error,
        values.flatMap((value) => String(value).split(separator)),
      )
    }
  }
}

async function decode(codec: Codec, session: StoredSession): Promise<StoredSession> {
  return { ...session, json: await fromColumn(codec, session.json, { id: handleOf(session.id) }) }
}

function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
