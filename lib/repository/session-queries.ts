// Runs every statement of a request's path, and announces and flushes what it changes. Over 300 lines: the statements share how
// they are run, announced and kept out of errors.
import { isQueueFull, notifySql } from '../notifications/heartbeat.js'
import { clearPayload } from '../notifications/payload.js'
import {
  type Connection,
  cancelledCode,
  noResponseCode,
  type Query,
  type Statement,
} from '../postgres/connection.js'
import { retryConflicts } from '../postgres/retry.js'
import { joinValues } from '../postgres/sql-params.js'
import { byShard } from '../schema/shards.js'
import type { Table } from '../schema/table.js'
import { handleOf, separator } from '../session/session-id.js'
import type { Codec, Row } from '../types/options.js'
import type { Batcher } from '../util/batcher.js'
import type { TimeLimit } from '../util/deadlines.js'
import { messageOf, redact } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import { recordSql } from './announce-sql.js'
import { Announcer } from './announcer.js'
import { type BatchObserver, batching, isOverdue, timeLimits, unobserved } from './batching.js'
import type { CitusStatements } from './citus-statements.js'
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
import { assertPlain, decodeAll, encodeAll, isPlain, type Read } from './session-codec.js'
import type { SessionStatements } from './session-statements.js'
import { createBatcher } from './sharded-batcher.js'
import type { Touch } from './touch-buffer.js'

export interface SessionQueriesOptions {
  readonly codec?: Codec | undefined
  /** Returns a suffix for the payload of the next notification: a heartbeat of this process's listener, or nothing. */
  readonly payloadSuffix?: () => string
  /** The statements for changes that the server's queue has no room to announce. */
  readonly unannouncing?: SessionStatements | CitusStatements
  /** Called when the queue was full. */
  readonly onQueueFull?: () => void
  readonly onBatch?: BatchObserver
}

/** How long changes are made without notifications after the server's queue of them was full. */
const queueFullMs = 1_000

/** The statements that change sessions. */
type ChangeName = Exclude<
  keyof PreparedStatements,
  `read${string}` | `flush${string}` | `touch${string}` | 'lockUser' | 'surplus'
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
  readonly #touches: Pick<Batcher<Touch, undefined>, 'add'>
  readonly #flusher: LogFlusher
  readonly #announcer: Announcer
  readonly #clock: ServerClock
  readonly #payloadSuffix: () => string
  readonly #notifiesInline: boolean
  /** The number of changes that other processes were notified of. */
  announced = 0

  constructor(
    connection: Connection,
    table: Table,
    channel: string,
    statements: SessionStatements | CitusStatements,
    {
      codec,
      payloadSuffix = () => '',
      unannouncing = statements,
      onQueueFull = () => undefined,
      onBatch = unobserved,
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
    // Nothing has to reach the disk, and a commit that waits for it would hold PostgreSQL's lock on notifications.
    const notify = `select pg_notify($1, payload), set_config('synchronous_commit', 'off', true) from unnest($2::text[]) as payload`
    this.#announcer = new Announcer((payloads) =>
      this.#unlessQueueIsFull((announces) =>
        announces ? connection.query(notify, [channel, payloads]) : connection.query(recordSql(table.name)),
      ),
    )
    this.#clock = new ServerClock((text) => connection.query(text))
    this.#touches = createBatcher(
      {
        ...batching,
        ...timeLimits(connection),
        ...(connection.cancels && { isOverdue }),
        run: (calls, limit) =>
          onBatch('touch', calls.length, async () => {
            const touches = calls.map(({ value }) => value)
            // By itself or with all the time, a touch waits for a row that is locked.
            if (calls.length === 1 || limit.statementMs === undefined) {
              await this.#run(this.#statements.touch, touchValues(touches), limit)
              return touches.map(() => undefined)
            }
            const locked = await this.#touchUnlocked(touches, limit)
            return touches.map(({ id }) => (locked.has(id) ? rowIsLocked() : undefined))
          }),
      },
      table.shardStarts,
    )
  }

  /** Finds out how the server's clock differs, so that the first save needn't. Never rejects. */
  async measureClock(): Promise<void> {
    if (!this.#table.isDistributed) await this.#clock.measure()
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
    return codec === undefined && sessions.every(isPlain) ? sessions : decodeAll(codec, sessions)
  }

  /** Inserts sessions or replaces existing ones, except tombstones, and announces the changes. */
  async write(writes: readonly Write[], limit?: TimeLimit): Promise<readonly Change[]> {
    const encoded = await this.#encode(writes, limit)
    const changes = await this.#inTime(limit, (until) =>
      this.#change(...this.#writeStatement(encoded, until), limit),
    )
    return this.#underGivenIds(changes, writes)
  }

  /** An insert returns the id of the row: where there are raw ids, that may be the digest of the one it was given. */
  #underGivenIds(changes: readonly Change[], writes: readonly { readonly id: string }[]): readonly Change[] {
    if (!this.#table.hasRawIds) return changes
    const given = new Map(writes.map(({ id }) => [`sha256:${handleOf(id)}`, id]))
    return changes.map((change) => ({ ...change, id: given.get(change.id) ?? change.id }))
  }

  /** Replaces existing sessions in the given versions; others are missing from the result. */
  async replace(replacements: readonly Replacement[], limit?: TimeLimit): Promise<readonly Change[]> {
    const encoded = await this.#encode(replacements, limit)
    return this.#inTime(limit, (until) => this.#change(...this.#replaceStatement(encoded, until), limit))
  }

  /** Without a codec there is nothing to wait for. */
  #encode<T extends Write | Replacement>(
    writes: readonly T[],
    limit: TimeLimit | undefined,
  ): readonly T[] | Promise<readonly T[]> {
    return this.#codec === undefined ? assertPlain(writes) : encodeAll(this.#codec, writes, limit)
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
    const [encoded] = (await this.#encode([write], limit)) as [Write | Replacement]
    const { surplus } = this.#statements
    return this.#inTime(limit, (until) => {
      const [change, values] =
        'baseVersion' in encoded
          ? this.#replaceStatement([encoded], until)
          : this.#writeStatement([encoded], until)
      if (surplus)
        return this.#writeInShards(encoded, max, surplus, this.#statement(change, true), values, limit)
      return retryConflicts(() =>
        this.#unlessQueueIsFull((announces) =>
          this.#changeWithLimit(encoded, max, change, values, announces, limit),
        ),
      )
    })
  }

  async #changeWithLimit(
    session: Write | Replacement,
    max: number,
    write: ChangeName | Statement,
    values: readonly unknown[],
    announces: boolean,
    limit: TimeLimit | undefined,
  ): Promise<{ written: Change | undefined; evicted: readonly Change[] }> {
    const { lockUser, flush } = this.#statements
    let needsFlush = false
    let announced = 0
    const result = await this.#connection.transaction(
      async (query) => {
        const change = async (
          name: ChangeName | Statement,
          values: readonly unknown[],
        ): Promise<readonly Change[]> => {
          const statement = this.#statement(name, announces)
          // Not tried again: after an error, the transaction can only be rolled back.
          const rows = await query(statement, this.#withSuffix(values, announces)).catch((error) => {
            throw redactValues(error, values)
          })
          needsFlush ||= mustFlush(rows)
          const result = toChanges(rows)
          announced += result.announced
          return result.changes
        }
        await query(lockUser, [this.#channel, session.userId])
        const evicted = await change('evict', [session.id, session.userId, max])
        const [written] = this.#underGivenIds(await change(write, values), [session])
        // If the session wasn't written, the transaction is rolled back, and with it the eviction.
        return { written, evicted: written === undefined && this.#connection.isTransactional ? [] : evicted }
      },
      ({ written }) => written !== undefined,
      // Without a name, so that no pooler can reject it: the transaction would be repeated.
      async (query) => needsFlush && query({ ...flush, name: '' }, []).catch(throwNotDurable),
      limit,
    )
    if (result.written !== undefined || result.evicted.length > 0) this.announced += announced
    return result
  }

  /**
   * The same where Citus has distributed the table: the session is written in the transaction that holds the lock, and so
   * committed by one shard. The others are destroyed afterwards, each by a commit of its own shard.
   */
  async #writeInShards(
    session: Write | Replacement,
    max: number,
    surplus: Statement,
    statement: Statement,
    values: readonly unknown[],
    limit: TimeLimit | undefined,
  ): Promise<{ written: Change | undefined; evicted: readonly Change[] }> {
    const write = async (query: Query): Promise<{ rows: Row[]; ids: Row[] }> => {
      await query(this.#statements.lockUser, [this.#channel, session.userId])
      const ids = await query(surplus, [session.id, session.userId, max])
      return { ids, rows: await query(statement, values) }
    }
    const { rows, ids } = await this.#redacting(values, () =>
      this.#connection.transaction(write, undefined, undefined, limit),
    )
    await this.#announceCommitted(rows, limit)
    const { changes, announced } = toChanges(rows)
    this.announced += announced
    const [written] = changes
    const evict = (): Promise<readonly Change[]> =>
      this.destroyAll(
        ids.map(({ id }) => id as string),
        limit,
      )
    const evicted = written === undefined ? [] : await evict()
    return { written, evicted }
  }

  /** `until`: see `#inTime`. Citus runs no volatile function here, and takes no such parameter. */
  #writeStatement(
    writes: readonly Write[],
    until: number | null | undefined,
  ): [ChangeName | Statement, unknown[]] {
    const { writeMany } = this.#statements
    const values = writeValues(writes)
    const last = until === undefined ? [] : [until]
    if (writes.length === 1) return ['writeOne', [...values.flat(), ...last]]
    if (typeof writeMany !== 'function') return ['writeMany', [...values.map(joinValues), ...last]]
    return [writeMany(writes.length), writes.flatMap((_, n) => values.map((column) => column[n]))]
  }

  #replaceStatement(
    replacements: readonly Replacement[],
    until: number | null | undefined,
  ): [ChangeName, unknown[]] {
    const values = replacementValues(replacements)
    const last = until === undefined ? [] : [until]
    return replacements.length === 1
      ? ['replaceOne', [...values.flat(), ...last]]
      : ['replaceMany', [...values.map(joinValues), ...last]]
  }

  /**
   * Saves sessions unless the server gets to it only after the call was given up. A save without a merge base would overwrite
   * what has been saved since. `until` is that time by the server's clock: `null` if it isn't known, `undefined` if the
   * statements don't take it.
   */
  async #inTime<T>(
    limit: TimeLimit | undefined,
    save: (until: number | null | undefined) => Promise<T>,
  ): Promise<T> {
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
  #until(limit: TimeLimit | undefined): undefined | Promise<number | null> {
    if (this.#table.isDistributed) return undefined
    const end = performance.now() + this.#connection.queryTimeoutMs
    return this.#clock.at(Math.min(end, limit?.deadline ?? end))
  }

  /** Writes the last access of an active session and moves its expiry, never back. Waits if its row is locked. */
  touch(touch: Touch): Promise<undefined> {
    return this.#touches.add(touch.id, touch)
  }

  /** The same for many, each at most once in the list. Resolves with the ids of those that are locked, and weren't written. */
  async touchAll(touches: readonly Touch[], limit?: TimeLimit): Promise<ReadonlySet<string>> {
    const locked = await this.#inShards(
      touches,
      ({ id }) => id,
      (some) => this.#touchUnlocked(some, limit),
    )
    return new Set(locked.flatMap((ids) => [...ids]))
  }

  async #touchUnlocked(
    touches: readonly Touch[],
    limit: TimeLimit | undefined,
  ): Promise<ReadonlySet<string>> {
    const [row] = await this.#run(this.#statements.touchUnlocked, touchValues(touches), limit)
    return new Set(typeof row?.locked === 'string' ? row.locked.split(separator) : [])
  }

  /** Runs statements that concern one shard each, if Citus has distributed the table, and then rejects if one has failed. */
  async #inShards<T, R>(
    items: readonly T[],
    idOf: (item: T) => string,
    run: (items: readonly T[]) => Promise<R>,
  ): Promise<R[]> {
    const results: R[] = []
    let failure: { error: unknown } | undefined
    for (const some of byShard(this.#table.shardStarts, items, idOf))
      try {
        results.push(await run(some))
      } catch (error) {
        failure ??= { error }
      }
    if (failure) throw failure.error
    return results
  }

  /** Turns sessions' rows into tombstones, and announces that. Each session at most once in the list. */
  destroyAll(ids: readonly string[], limit?: TimeLimit): Promise<readonly Change[]> {
    return this.#destroyInShards(ids, (some) =>
      some.length === 1
        ? this.#change('destroyOne', some, limit)
        : this.#change('destroyMany', [joinValues(some)], limit),
    )
  }

  /** The same for those that belong to this user. */
  destroyAllOf(userId: string, ids: readonly string[]): Promise<readonly Change[]> {
    return this.#destroyInShards(ids, (some) => this.#change('destroyOf', [joinValues(some), userId]))
  }

  async #destroyInShards(
    ids: readonly string[],
    destroy: (ids: readonly string[]) => Promise<readonly Change[]>,
  ): Promise<readonly Change[]> {
    return (await this.#inShards(ids, (id) => id, destroy)).flat()
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
  async #change(
    change: ChangeName | Statement,
    values: readonly unknown[],
    limit?: TimeLimit,
  ): Promise<readonly Change[]> {
    const commit = (announces: boolean): Promise<Row[]> =>
      this.#commit(this.#statement(change, announces), this.#withSuffix(values, announces), limit)
    const rows = await this.#redacting(values, () => this.#unlessQueueIsFull(commit))
    if (this.#table.isDistributed) await this.#announceCommitted(rows, limit)
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

  #statement(change: ChangeName | Statement, announces: boolean): Statement {
    return typeof change === 'string'
      ? ((announces ? this.#statements : this.#unannouncing)[change] as Statement)
      : change
  }

  /**
   * The change is the commit of one shard by then. A transaction that also notified would take three more round trips and, if
   * several shards had changed, a two-phase commit, whose second phase a failing worker may see a minute later.
   */
  #announceCommitted(rows: readonly Row[], limit: TimeLimit | undefined): Promise<void> {
    const announced = this.#announcer.announce(notifiedChanges(rows))
    return finished(announced, limit, 'the change was not announced')
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

  #flush(limit: TimeLimit | undefined): Promise<void> {
    return finished(this.#flusher.flush(), limit, 'the log was not flushed')
  }

  #withSuffix(values: readonly unknown[], announces: boolean): readonly unknown[] {
    return this.#notifiesInline && announces ? [...values, this.#payloadSuffix()] : values
  }

  #run(statement: Statement, values: readonly unknown[], limit?: TimeLimit): Promise<Row[]> {
    return this.#redacting(values, () => this.#connection.query(statement, values, limit))
  }

  /** Calls that share a statement share its error, which must not show them each other's ids and sessions. */
  async #redacting<T>(values: readonly unknown[], work: () => Promise<T>): Promise<T> {
    try {
      return await retryConflicts(work)
    } catch (error) {
      throw redactValues(error, values)
    }
  }
}

function redactValues(error: unknown, values: readonly unknown[]): Error {
  return redact(
    error,
    values.flatMap((value) => String(value).split(separator)),
  )
}

function touchValues(touches: readonly Touch[]): string[] {
  return toColumns(touches, 'id', 'ttlMs', 'ageMs').map(joinValues)
}

function rowIsLocked(): Error {
  return Object.assign(new Error("the session's row is locked by another transaction"), {
    code: cancelledCode,
  })
}

/** Waits for what follows a change, no longer than its call may take. */
async function finished(
  work: Promise<void>,
  limit: TimeLimit | undefined,
  description: string,
): Promise<void> {
  const ms = limit === undefined ? undefined : Math.max(0, limit.deadline - performance.now())
  await (ms === undefined ? work : withTimeout(work, ms, description)).catch(throwNotDurable)
}

/** The change was made. Its batch must not be repeated, as it would be if it had been cancelled. */
function throwNotDurable(error: unknown): never {
  throw isOverdue(error) ? Object.assign(new Error(messageOf(error)), { code: noResponseCode }) : error
}

function mustFlush(rows: readonly Row[]): boolean {
  return rows[0]?.must_flush === true
}
