// Runs every statement of a request's path, and announces and flushes what it changes. Over 300 lines: the statements share how
// they are run, announced and kept out of errors.
import { fromColumn, plainToColumn, toColumn } from '../codec/codec.js'
import { isSealedJson } from '../codec/seal.js'
import { isQueueFull, notifySql } from '../notifications/heartbeat.js'
import { clearPayload } from '../notifications/payload.js'
import type { Connection, Statement } from '../postgres/connection.js'
import { retryConflicts } from '../postgres/retry.js'
import { joinValues } from '../postgres/sql-params.js'
import { byShard } from '../schema/shards.js'
import type { Table } from '../schema/table.js'
import { handleOf, separator } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Codec, Row } from '../types/options.js'
import type { Batcher } from '../util/batcher.js'
import { redact } from '../util/driver-errors.js'
import { recordSql } from './announce-sql.js'
import { Announcer } from './announcer.js'
import { type BatchObserver, batching, unobserved } from './batching.js'
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
  `read${string}` | `flush${string}` | 'touch' | 'lockUser' | 'surplus'
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
    this.#touches = createBatcher(
      {
        ...batching,
        run: (calls) =>
          onBatch('touch', calls.length, async () => {
            await this.#touchAll(calls.map(({ value }) => value))
            return calls.map(() => undefined)
          }),
      },
      table.shardStarts,
    )
  }

  /** Whether the table has versions. */
  get hasVersions(): boolean {
    return this.#table.columns.has('version')
  }

  /**
   * Resolves with the active sessions among these ids, in their order; `undefined` where there is none, an error where one
   * can't be decoded.
   */
  async readAll(ids: readonly string[]): Promise<(StoredSession | undefined | Error)[]> {
    const { readOne, readMany } = this.#statements
    // A comparison with one id has the best plan in every version of PostgreSQL.
    const rows = await (ids.length === 1 ? this.#run(readOne, ids) : this.#run(readMany, [joinValues(ids)]))
    const sessions = toStoredSessions(ids, rows)
    const codec = this.#codec
    if (codec === undefined && !sessions.some((session) => session && isSealedJson(session.json)))
      return sessions
    // A session that can't be decoded rejects its own read alone.
    return Promise.all(sessions.map((session) => session && decode(codec, session).catch(toError)))
  }

  /** Inserts sessions or replaces existing ones, except tombstones, and announces the changes. */
  async write(writes: readonly Write[]): Promise<readonly Change[]> {
    const codec = this.#codec
    const encoded = codec === undefined ? assertPlain(writes) : await this.#encodeAll(codec, writes)
    return this.#underGivenIds(await this.#change(...this.#writeStatement(encoded)), writes)
  }

  /** An insert returns the id of the row: where there are raw ids, that may be the digest of the one it was given. */
  #underGivenIds(changes: readonly Change[], writes: readonly { readonly id: string }[]): readonly Change[] {
    if (!this.#table.hasRawIds) return changes
    const given = new Map(writes.map(({ id }) => [`sha256:${handleOf(id)}`, id]))
    return changes.map((change) => ({ ...change, id: given.get(change.id) ?? change.id }))
  }

  /** Replaces existing sessions in the given versions; others are missing from the result. */
  async replace(replacements: readonly Replacement[]): Promise<readonly Change[]> {
    const codec = this.#codec
    const encoded =
      codec === undefined ? assertPlain(replacements) : await this.#encodeAll(codec, replacements)
    return this.#change(...this.#replaceStatement(encoded))
  }

  /**
   * Writes a session that comes to belong to its user, who may have `max`, and destroys the least recently used beyond that.
   * Calls for one user run one after another. A query function can't lock: there, more than necessary may be destroyed.
   */
  async writeWithLimit(
    write: Write | Replacement,
    max: number,
  ): Promise<{ written: Change | undefined; evicted: readonly Change[] }> {
    const codec = this.#codec
    const [encoded] = (
      codec === undefined ? assertPlain([write]) : await this.#encodeAll(codec, [write])
    ) as [Write | Replacement]
    const [change, values] =
      'baseVersion' in encoded ? this.#replaceStatement([encoded]) : this.#writeStatement([encoded])
    const { surplus } = this.#statements
    if (surplus)
      return this.#writeInShards(encoded, max, surplus, this.#statement(change, true), values)
    return retryConflicts(() =>
      this.#unlessQueueIsFull((announces) => this.#changeWithLimit(encoded, max, change, values, announces)),
    )
  }

  async #changeWithLimit(
    session: Write | Replacement,
    max: number,
    write: ChangeName | Statement,
    values: readonly unknown[],
    announces: boolean,
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
      async (query) => needsFlush && query({ ...flush, name: '' }, []),
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
  ): Promise<{ written: Change | undefined; evicted: readonly Change[] }> {
    const { rows, ids } = await this.#redacting(values, () =>
      this.#connection.transaction(async (query) => {
        await query(this.#statements.lockUser, [this.#channel, session.userId])
        const ids = await query(surplus, [session.id, session.userId, max])
        return { ids, rows: await query(statement, values) }
      }),
    )
    await this.#announceCommitted(rows)
    const { changes, announced } = toChanges(rows)
    this.announced += announced
    const [written] = changes
    const evicted = written === undefined ? [] : await this.destroyAll(ids.map(({ id }) => id as string))
    return { written, evicted }
  }

  async #encodeAll<T extends Write | Replacement>(codec: Codec, writes: readonly T[]): Promise<readonly T[]> {
    const encode = async (write: T): Promise<T> =>
      write.json === null
        ? write
        : { ...write, json: await toColumn(codec, write.json, { id: handleOf(write.id) }) }
    return Promise.all(writes.map(encode))
  }

  #writeStatement(writes: readonly Write[]): [ChangeName | Statement, unknown[]] {
    const { writeMany } = this.#statements
    const values = writeValues(writes)
    if (writes.length === 1) return ['writeOne', values.flat()]
    if (typeof writeMany !== 'function') return ['writeMany', values.map(joinValues)]
    return [writeMany(writes.length), writes.flatMap((_, n) => values.map((column) => column[n]))]
  }

  #replaceStatement(replacements: readonly Replacement[]): [ChangeName, unknown[]] {
    const values = replacementValues(replacements)
    return replacements.length === 1 ? ['replaceOne', values.flat()] : ['replaceMany', values.map(joinValues)]
  }

  /** Writes the last access of active sessions and moves their expiry, never back; each session at most once in the list. */
  async touch(touches: readonly Touch[]): Promise<void> {
    const [first, ...more] = touches
    if (first !== undefined && more.length === 0) await this.#touches.add(first.id, first)
    else
      await this.#inShards(
        touches,
        ({ id }) => id,
        (some) => this.#touchAll(some),
      )
  }

  async #touchAll(touches: readonly Touch[]): Promise<void> {
    await this.#run(this.#statements.touch, toColumns(touches, 'id', 'ttlMs', 'ageMs').map(joinValues))
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
  destroyAll(ids: readonly string[]): Promise<readonly Change[]> {
    return this.#destroyInShards(ids, (some) =>
      some.length === 1 ? this.#change('destroyOne', some) : this.#change('destroyMany', [joinValues(some)]),
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
  async #change(change: ChangeName | Statement, values: readonly unknown[]): Promise<readonly Change[]> {
    const rows = await this.#redacting(values, () =>
      this.#unlessQueueIsFull((announces) =>
        this.#commit(this.#statement(change, announces), this.#withSuffix(values, announces)),
      ),
    )
    if (this.#table.isDistributed) await this.#announceCommitted(rows)
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
  #announceCommitted(rows: readonly Row[]): Promise<void> {
    return this.#announcer.announce(notifiedChanges(rows))
  }

  /**
   * The flush goes along on the connection that made the change. If the server crashes or fails over between the two, that
   * connection is lost, and no flush on a new one can acknowledge a change that is lost.
   */
  async #commit(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    const { pipeline } = this.#connection
    if (pipeline === undefined || !this.#table.canFlush) {
      const rows = await this.#connection.query(statement, values)
      if (mustFlush(rows)) await this.#flusher.flush()
      return rows
    }
    const { flushIfAsked } = this.#statements
    const [rows, flushed] = await pipeline.call(this.#connection, statement, values, flushIfAsked, mustFlush)
    if (!mustFlush(rows)) return rows
    if (flushed instanceof Error) throw flushed
    // A pooler may have run the two on different connections.
    if (flushed[0]?.flushed !== true) await this.#flusher.flush()
    return rows
  }

  #withSuffix(values: readonly unknown[], announces: boolean): readonly unknown[] {
    return this.#notifiesInline && announces ? [...values, this.#payloadSuffix()] : values
  }

  #run(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    return this.#redacting(values, () => this.#connection.query(statement, values))
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

/** Returns what no codec is to encode. Throws an `EncodeError` if any of it looks encoded. */
function assertPlain<T extends Write | Replacement>(writes: readonly T[]): readonly T[] {
  for (const { json } of writes) if (json !== null) plainToColumn(json)
  return writes
}

function mustFlush(rows: readonly Row[]): boolean {
  return rows[0]?.must_flush === true
}

async function decode(codec: Codec | undefined, session: StoredSession): Promise<StoredSession> {
  return { ...session, json: await fromColumn(codec, session.json, { id: handleOf(session.id) }) }
}

function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
