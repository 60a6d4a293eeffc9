// Runs every statement of a request's path, and announces and flushes what it changes.
import { isQueueFull, notifySql } from '../notifications/heartbeat.js'
import { clearPayload, payloads } from '../notifications/payload.js'
import {
  type Connection,
  cancelledCode,
  noResponseCode,
  type Query,
  type Statement,
} from '../postgres/connection.js'
import { joinValues } from '../postgres/sql-params.js'
import type { Table } from '../schema/table.js'
import { separator } from '../session/session-id.js'
import type { Codec, Row } from '../types/options.js'
import { Batcher } from '../util/batcher.js'
import type { TimeLimit } from '../util/deadlines.js'
import { codeOf, messageOf, redact } from '../util/driver-errors.js'
import { retryConflicts } from '../util/retry-conflicts.js'
import { withTimeout } from '../util/timeout.js'
import { recordSql } from './announce-sql.js'
import { batching, isOverdue, timeLimits } from './batching.js'
import { LogFlusher } from './log-flusher.js'
import { type PreparedStatements, prepareAll } from './prepared-statements.js'
import {
  type Change,
  notifiedChanges,
  type Replacement,
  replacementValues,
  toChanges,
  toColumns,
  toStoredSessions,
  type Write,
  writeValues,
} from './row-mapper.js'
import { isRefusedAsLate, ServerClock } from './server-clock.js'
import { decodeAll, encodeAll, type Read } from './session-codec.js'
import type { SessionStatements } from './session-statements.js'
import type { Touch } from './touch-buffer.js'

export interface SessionQueriesOptions {
  readonly codec?: Codec | undefined
  /** Returns a suffix for the payload of the next notification: a heartbeat of this process's listener, or nothing. */
  readonly payloadSuffix?: () => string
  /** The statements for changes that the server's queue has no room to announce. */
  readonly unannouncing?: SessionStatements
  /** Called when the queue was full. */
  readonly onQueueFull?: () => void
}

/** How long changes are made without notifications after the server's queue of them was full. */
const queueFullMs = 1_000

/** The statements that change sessions. */
type ChangeName = Exclude<
  keyof PreparedStatements,
  `read${string}` | `flush${string}` | `touch${string}` | 'hashRawId' | 'lockUser'
>

export class SessionQueries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #codec: Codec | undefined
  readonly #statements: PreparedStatements
  readonly #unannouncing: PreparedStatements
  readonly #onQueueFull: () => void
  /** Until when changes are made without notifications. */
  #queueFullUntil = 0
  readonly #touches: Batcher<Touch, undefined>
  readonly #flusher: LogFlusher
  readonly #clock: ServerClock
  readonly #payloadSuffix: () => string
  readonly #notifiesInline: boolean
  /** The number of changes that other processes were notified of. */
  announced = 0

  constructor(
    connection: Connection,
    table: Table,
    channel: string,
    statements: SessionStatements,
    {
      codec,
      payloadSuffix = () => '',
      unannouncing = statements,
      onQueueFull = () => undefined,
    }: SessionQueriesOptions = {},
  ) {
    this.#connection = connection
    this.#table = table
    this.#channel = channel
    this.#codec = codec
    this.#statements = prepareAll(statements)
    this.#unannouncing = prepareAll(unannouncing)
    this.#onQueueFull = onQueueFull
    this.#notifiesInline = statements.notifiesInline
    this.#payloadSuffix = payloadSuffix
    this.#flusher = new LogFlusher(() => connection.query(this.#statements.flush))
    this.#clock = new ServerClock((text) => connection.query(text))
    this.#touches = new Batcher({
      ...batching,
      ...timeLimits(connection),
      ...(connection.cancels && { isOverdue }),
      run: async (calls, limit) => {
        const touches = calls.map(({ value }) => value)
        // By itself or with all the time, a touch waits for a row that is locked.
        if (calls.length === 1 || limit.statementMs === undefined) {
          await this.#run(this.#statements.touch, touchValues(touches), limit)
          return touches.map(() => undefined)
        }
        const locked = await this.touchAll(touches, limit)
        return touches.map(({ id }) => (locked.has(id) ? rowIsLocked() : undefined))
      },
    })
  }

  /** Finds out how the server's clock differs, so that the first save needn't. Never rejects. */
  measureClock(): Promise<void> {
    return this.#clock.measure()
  }

  /** Whether the table has versions. */
  get hasVersions(): boolean {
    return this.#table.columns.has('version')
  }

  /**
   * Resolves with the active sessions among these ids, in their order; `undefined` where there is none, an error where one
   * can't be decoded, and a promise where decoding takes long.
   */
  async readAll(ids: readonly string[], limit?: TimeLimit): Promise<readonly (Read | Promise<Read>)[]> {
    const { readOne, readMany } = this.#statements
    // A comparison with one id has the best plan in every version of PostgreSQL.
    const rows = await (ids.length === 1
      ? this.#run(readOne, ids, limit)
      : this.#run(readMany, [joinValues(ids)], limit))
    const sessions = toStoredSessions(ids, rows)
    const codec = this.#codec
    if (codec === undefined) return sessions
    return decodeAll(codec, sessions)
  }

  /** Inserts sessions or replaces existing ones, except tombstones, and announces the changes. */
  async write(writes: readonly Write[], limit?: TimeLimit): Promise<readonly Change[]> {
    const encoded = this.#codec === undefined ? writes : await encodeAll(this.#codec, writes, limit)
    return this.#inTime(limit, (until) => this.#change(...writeStatement(encoded, until), limit))
  }

  /** Replaces existing sessions in the given versions; others are missing from the result. */
  async replace(replacements: readonly Replacement[], limit?: TimeLimit): Promise<readonly Change[]> {
    const encoded =
      this.#codec === undefined ? replacements : await encodeAll(this.#codec, replacements, limit)
    return this.#inTime(limit, (until) => this.#change(...replaceStatement(encoded, until), limit))
  }

  /**
   * Writes a session that comes to belong to its user, who may have `max`, and destroys the least recently used beyond that.
   * Calls for one user run one after another. A query function can't lock: there, more than necessary may be destroyed.
   */
  async writeWithLimit(
    write: Write | Replacement,
    max: number,
    limit?: TimeLimit,
  ): Promise<{ written: Change | undefined; evicted: readonly Change[] }> {
    const { lockUser, flush } = this.#statements
    const [encoded] = (
      this.#codec === undefined ? [write] : await encodeAll(this.#codec, [write], limit)
    ) as [Write | Replacement]
    const until = await this.#until(limit)
    const [name, values] =
      'baseVersion' in encoded ? replaceStatement([encoded], until) : writeStatement([encoded], until)
    let needsFlush = false
    let announced = 0
    const run = (announces: boolean): Promise<{ written: Change | undefined; evicted: readonly Change[] }> =>
      this.#connection.transaction(
        async (query) => {
          needsFlush = false
          announced = 0
          const change = async (name: ChangeName, values: readonly unknown[]): Promise<readonly Change[]> => {
            const rows = await this.#redacting(values, () =>
              query(this.#statement(name, announces), this.#withSuffix(values, announces)),
            )
            if (this.#table.isDistributed) await this.#announceDistributed(query, rows, announces)
            needsFlush ||= mustFlush(rows)
            const result = toChanges(rows)
            announced += result.announced
            return result.changes
          }
          await query(lockUser, [this.#channel, encoded.userId])
          const evicted = await change('evict', [encoded.id, encoded.userId, max])
          const [written] = await change(name, values)
          // If the session wasn't written, the transaction is rolled back, and with it the eviction.
          return {
            written,
            evicted: written === undefined && this.#connection.isTransactional ? [] : evicted,
          }
        },
        ({ written }) => written !== undefined,
        // Without a name, so that no pooler can reject it: the transaction would be repeated.
        async (query) => needsFlush && query({ ...flush, name: '' }, []).catch(throwNotDurable),
        limit,
      )
    const result = await retryConflicts(() => this.#unlessQueueIsFull(run))
    if (result.written !== undefined || result.evicted.length > 0) this.announced += announced
    return result
  }

  /**
   * Saves sessions unless the server gets to it only after the call was given up. A save without a merge base would overwrite
   * what has been saved since.
   */
  async #inTime<T>(limit: TimeLimit | undefined, save: (until: number | null) => Promise<T>): Promise<T> {
    try {
      return await save(await this.#until(limit))
    } catch (error) {
      if (!isRefusedAsLate(error)) throw error
      // The server's clock was put forward.
      await this.#clock.measure()
      return save(await this.#until(limit))
    }
  }

  /** A statement without a response is given up after its time, or at the deadline. */
  #until(limit: TimeLimit | undefined): number | null | Promise<number | null> {
    if (this.#table.isDistributed) return null
    const end = performance.now() + this.#connection.queryTimeoutMs
    return this.#clock.at(Math.min(end, limit?.deadline ?? end))
  }

  /** Writes the last access of an active session and moves its expiry, never back. Waits if its row is locked. */
  touch(touch: Touch): Promise<undefined> {
    return this.#touches.add(touch.id, touch)
  }

  /** The same for many, each at most once in the list. Resolves with the ids of those that are locked, and weren't written. */
  async touchAll(touches: readonly Touch[], limit?: TimeLimit): Promise<ReadonlySet<string>> {
    const [row] = await this.#run(this.#statements.touchUnlocked, touchValues(touches), limit)
    return new Set(typeof row?.locked === 'string' ? row.locked.split(separator) : [])
  }

  /** Turns sessions' rows into tombstones, and announces that. Each session at most once in the list. */
  destroyAll(ids: readonly string[], limit?: TimeLimit): Promise<readonly Change[]> {
    return ids.length === 1
      ? this.#change('destroyOne', ids, limit)
      : this.#change('destroyMany', [joinValues(ids)], limit)
  }

  /** The same for those that belong to this user. */
  destroyAllOf(userId: string, ids: readonly string[]): Promise<readonly Change[]> {
    return this.#change('destroyOf', [joinValues(ids), userId])
  }

  /**
   * Renames the row that older software wrote under a raw id to the id's digest. If there is a row of each, deletes the one
   * under the raw id.
   */
  async hashRawId(raw: string, id: string): Promise<void> {
    const { hashRawId } = this.#statements
    try {
      await retryConflicts(() => this.#connection.query(hashRawId, [raw, id]))
    } catch (error) {
      // A unique violation: another request has just inserted the digest's row. The statement now deletes the raw one.
      if (codeOf(error) !== '23505') throw error
      await retryConflicts(() => this.#connection.query(hashRawId, [raw, id]))
    }
  }

  /** Makes every instance clear its cache. */
  async announceClear(): Promise<void> {
    await this.#unlessQueueIsFull((announces) =>
      announces
        ? this.#connection.query(notifySql, [this.#channel, clearPayload])
        : this.#connection.query(recordSql(this.#table.name)),
    )
  }

  /** Resolves when the change is committed and flushed. */
  async #change(name: ChangeName, values: readonly unknown[], limit?: TimeLimit): Promise<readonly Change[]> {
    const commit = (announces: boolean): Promise<Row[]> => {
      const statement = this.#statement(name, announces)
      return this.#table.isDistributed
        ? this.#commitDistributed(statement, values, announces, limit)
        : this.#commit(statement, this.#withSuffix(values, announces), limit)
    }
    const rows = await this.#redacting(values, () => retryConflicts(() => this.#unlessQueueIsFull(commit)))
    const { changes, announced } = toChanges(rows)
    this.announced += announced
    return changes
  }

  /**
   * Makes a change with its notification, or without one if the server's queue of notifications is full: that has rolled the
   * change back. Tries again with notifications a second later.
   */
  async #unlessQueueIsFull<T>(change: (announces: boolean) => Promise<T>): Promise<T> {
    if (this.#queueFullUntil === 0 || performance.now() > this.#queueFullUntil)
      try {
        return await change(true)
      } catch (error) {
        if (!isQueueFull(error)) throw error
        this.#queueFullUntil = performance.now() + queueFullMs
        this.#onQueueFull()
      }
    return change(false)
  }

  #statement(name: ChangeName, announces: boolean): Statement {
    return (announces ? this.#statements : this.#unannouncing)[name]
  }

  /** Citus may run a CTE on a worker, where its notification is lost: it is sent by a statement of its own. */
  #commitDistributed(
    statement: Statement,
    values: readonly unknown[],
    announces: boolean,
    limit: TimeLimit | undefined,
  ): Promise<Row[]> {
    const change = async (query: Query): Promise<Row[]> => {
      const rows = await query(statement, values)
      await this.#announceDistributed(query, rows, announces)
      return rows
    }
    return this.#connection.transaction(change, undefined, undefined, limit)
  }

  /**
   * The flush goes along on the connection that made the change. If the server crashes or fails over between the two, that
   * connection is lost, and no flush on a new one can acknowledge a change that is lost.
   */
  async #commit(
    statement: Statement,
    values: readonly unknown[],
    limit: TimeLimit | undefined,
  ): Promise<Row[]> {
    const { pipeline } = this.#connection
    if (pipeline === undefined || !this.#table.canFlush) {
      const rows = await this.#connection.query(statement, values, limit)
      if (mustFlush(rows)) await this.#flush(limit)
      return rows
    }
    const { flushIfAsked, flush } = this.#statements
    const [rows, flushed] = await pipeline.call(
      this.#connection,
      statement,
      values,
      flushIfAsked,
      mustFlush,
      flush,
      limit,
    )
    if (flushed instanceof Error && (mustFlush(rows) || isOverdue(flushed))) return throwNotDurable(flushed)
    if (!mustFlush(rows) || flushed instanceof Error) return rows
    // A pooler may have run the two on different connections.
    if (flushed[0]?.flushed !== true) await this.#flush(limit)
    return rows
  }

  async #flush(limit: TimeLimit | undefined): Promise<void> {
    const flushed = this.#flusher.flush()
    const ms = limit === undefined ? undefined : Math.max(0, limit.deadline - performance.now())
    await (ms === undefined ? flushed : withTimeout(flushed, ms, 'the log was not flushed')).catch(
      throwNotDurable,
    )
  }

  #withSuffix(values: readonly unknown[], announces: boolean): readonly unknown[] {
    return this.#notifiesInline && announces ? [...values, this.#payloadSuffix()] : values
  }

  async #announceDistributed(query: Query, rows: readonly Row[], announces: boolean): Promise<void> {
    const changes = notifiedChanges(rows)
    if (!announces && changes.length > 0) await query(recordSql(this.#table.name), [])
    if (announces)
      for (const payload of payloads(changes))
        await query({ text: 'select pg_notify($1, $2)', name: '' }, [this.#channel, payload])
  }

  #run(statement: Statement, values: readonly unknown[], limit?: TimeLimit): Promise<Row[]> {
    const query = (): Promise<Row[]> => this.#connection.query(statement, values, limit)
    return this.#redacting(values, () => retryConflicts(query))
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

function writeStatement(writes: readonly Write[], until: number | null): [ChangeName, unknown[]] {
  const values = writeValues(writes)
  return writes.length === 1
    ? ['writeOne', [...values.flat(), until]]
    : ['writeMany', [...values.map(joinValues), until]]
}

function replaceStatement(
  replacements: readonly Replacement[],
  until: number | null,
): [ChangeName, unknown[]] {
  const values = replacementValues(replacements)
  return replacements.length === 1
    ? ['replaceOne', [...values.flat(), until]]
    : ['replaceMany', [...values.map(joinValues), until]]
}

function touchValues(touches: readonly Touch[]): string[] {
  return toColumns(touches, 'id', 'ttlMs', 'ageMs').map(joinValues)
}

function rowIsLocked(): Error {
  return Object.assign(new Error("the session's row is locked by another transaction"), {
    code: cancelledCode,
  })
}

/** The change was made. Its batch must not be repeated, as it would be if it had been cancelled. */
function throwNotDurable(error: unknown): never {
  throw isOverdue(error) ? Object.assign(new Error(messageOf(error)), { code: noResponseCode }) : error
}

function mustFlush(rows: readonly Row[]): boolean {
  return rows[0]?.must_flush === true
}
