// Runs every statement that is on a request's path: concurrent calls together, and with the notices of what they change.
import { hash } from 'node:crypto'
import { fromColumn, toColumn } from '../codec/codec.js'
import { payloads } from '../notifications/payload.js'
import type { Connection, Statement } from '../postgres/connection.js'
import { joinValues } from '../postgres/sql-params.js'
import type { Table } from '../schema/table.js'
import { handleOf, separator } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import { EncodeError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import { Batcher } from '../util/batcher.js'
import { codeOf, redact } from '../util/driver-errors.js'
import {
  announced,
  asError,
  type Change,
  column,
  ids,
  inOrder,
  type Replacement,
  toChange,
  toStoredSession,
  type Write,
} from './row-mapper.js'
import type { SessionStatements } from './session-statements.js'
import type { Touch } from './touch-buffer.js'

/**
 * How many sessions one statement reads or changes, and how many characters of JSON it carries. Names of 43 characters and
 * versions of 16 at most, so many of them fit into the 8000 bytes of a notice's payload.
 */
export const maxBatchSize = 128
const maxBatchChars = 4 * 1024 * 1024

/** More are worth nothing, but one that waits for a row's lock must not make everybody wait. */
const maxConcurrentBatches = 4

/** Errors of PostgreSQL that one row of many can be the cause of: bad data, constraints, deadlocks, limits. */
const rowErrorCodes = /^(21|22|23|40|54)/

/** How batches of these calls are made; see `Batch`. */
export const batching = {
  maxBatchSize,
  maxSize: maxBatchChars,
  maxConcurrentBatches,
  canBisect: (error: unknown): boolean =>
    error instanceof EncodeError || rowErrorCodes.test(codeOf(error) ?? ''),
}

type Ask = (statement: Statement, values: unknown[]) => Promise<Row[]>

export class SessionQueries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #idleTimeout: number
  readonly #codec: Codec | undefined
  readonly #statements: ReturnType<typeof prepareAll>
  readonly #reads: Batcher<undefined, StoredSession | undefined>
  readonly #destroys: Batcher<undefined, Change | undefined>
  readonly #touches: Batcher<Touch, undefined>

  constructor(
    connection: Connection,
    table: Table,
    channel: string,
    statements: SessionStatements,
    {
      idleTimeout,
      codec,
    }: { readonly idleTimeout?: number | undefined; readonly codec?: Codec | undefined } = {},
  ) {
    this.#connection = connection
    this.#table = table
    this.#channel = channel
    this.#codec = codec
    this.#idleTimeout = idleTimeout ?? Number.POSITIVE_INFINITY
    this.#statements = prepareAll(statements)
    const { readOne, readMany } = this.#statements
    this.#reads = new Batcher({
      ...batching,
      dedupe: true,
      // Alone, a session is asked for as every PostgreSQL plans best; many by their array, whose plan suits its length.
      run: async (calls) => {
        const rows = await (calls.length === 1
          ? this.#run(readOne, ids(calls))
          : this.#run(readMany, [joinValues(ids(calls))]))
        const sessions = rows.map(toStoredSession)
        if (this.#codec === undefined) return inOrder(calls, sessions)
        // What can't be decoded is the error of who asks for it alone.
        const opened = await Promise.all(sessions.map((session) => this.#decodeRow(session).catch(asError)))
        const byId = new Map(sessions.map(({ id }, n) => [id, opened[n]]))
        return calls.map(({ key }) => byId.get(key))
      },
    })
    this.#destroys = new Batcher({
      ...batching,
      run: async (calls) => inOrder(calls, await this.destroyAll(ids(calls))),
    })
    this.#touches = new Batcher({
      ...batching,
      run: async (calls) => {
        await this.#touchAll(calls.map(({ value }) => value))
        return calls.map(() => undefined)
      },
    })
  }

  /** Whether the table knows versions. */
  get hasVersions(): boolean {
    return this.#table.columns.has('version')
  }

  /** A session that is alive. */
  read(id: string): Promise<StoredSession | undefined> {
    return this.#reads.add(id, undefined)
  }

  /** Writes sessions over whatever is there, but for those that were destroyed, and notifies of it. */
  async write(writes: readonly Write[]): Promise<Change[]> {
    return this.#capByIdleTimeout(await this.#change(...this.#writeStatement(await this.#encodeAll(writes))))
  }

  /** Writes sessions that are there, in the version given; the others are missing from the answer. */
  async replace(replacements: readonly Replacement[]): Promise<Change[]> {
    return this.#capByIdleTimeout(
      await this.#change(...this.#replaceStatement(await this.#encodeAll(replacements))),
    )
  }

  /**
   * Writes a session that comes to belong to its user, who may have `max`: the longest unused are destroyed. Whoever does the
   * same for this user waits meanwhile. A query function can't lock: there, more may be destroyed than had to be.
   */
  async writeWithLimit(
    write: Write | Replacement,
    max: number,
  ): Promise<{ written: Change | undefined; evicted: Change[] }> {
    const { evict, lockUser } = this.#statements
    const [statement, values] =
      'base' in write
        ? this.#replaceStatement(await this.#encodeAll([write]))
        : this.#writeStatement(await this.#encodeAll([write]))
    return this.#connection.transaction(
      async (query) => {
        const change = async (statement: Statement, values: unknown[]): Promise<Change[]> => {
          const rows = await this.#redacting(values, () => query(statement, values))
          if (this.#table.isDistributed) await this.#notify(query, rows)
          return rows.map(toChange)
        }
        await query(lockUser, [this.#channel, write.userId])
        const evicted = await change(evict, [write.id, write.userId, max])
        const [written] = this.#capByIdleTimeout(await change(statement, values))
        // Nobody has to go for a session that is gone or has changed.
        return { written, evicted: written === undefined && this.#connection.isTransactional ? [] : evicted }
      },
      ({ written }) => written !== undefined,
    )
  }

  /** A session as it was before the option `codec` made something else of it. */
  async #decodeRow(session: StoredSession): Promise<StoredSession> {
    const { id, json } = session
    return this.#codec
      ? { ...session, json: await fromColumn(this.#codec, json, { id: handleOf(id) }) }
      : session
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
    const values = [...column(writes, 'id', 'json', 'ttl'), this.#users(writes)]
    return writes.length === 1 ? [writeOne, values.flat()] : [writeMany, values.map(joinValues)]
  }

  #replaceStatement(writes: readonly Replacement[]): [Statement, unknown[]] {
    const { replaceOne, replaceMany } = this.#statements
    const values = [...column(writes, 'id', 'json', 'ttl'), this.#users(writes), ...column(writes, 'base')]
    return writes.length === 1 ? [replaceOne, values.flat()] : [replaceMany, values.map(joinValues)]
  }

  #users(writes: readonly Write[]): unknown[] {
    return writes.map(({ userId }) => userId ?? null)
  }

  /** A session that is written has just been used. */
  #capByIdleTimeout(rows: Change[]): Change[] {
    const idle = this.#idleTimeout
    return rows.map((row) => (row.ttlMs > idle ? { ...row, ttlMs: idle } : row))
  }

  /** Moves the expiry of sessions that are alive, never back, and their last access; each once. */
  async touch(touches: readonly Touch[]): Promise<void> {
    const [first, ...more] = touches
    if (first !== undefined && more.length === 0) await this.#touches.add(first.id, first)
    else await this.#touchAll(touches)
  }

  async #touchAll(touches: readonly Touch[]): Promise<void> {
    await this.#run(this.#statements.touch, column(touches, 'id', 'ttl', 'ageMs').map(joinValues))
  }

  /** Empties a session's row, leaves it as a mark that this id is over, and notifies of it. */
  destroy(id: string): Promise<Change | undefined> {
    return this.#destroys.add(id, undefined)
  }

  /** The same for many, each once. */
  destroyAll(ids: readonly string[]): Promise<Change[]> {
    return this.#change(this.#statements.destroy, [joinValues(ids)])
  }

  /** The same for those that belong to this user. */
  destroyAllOf(userId: string, ids: readonly string[]): Promise<Change[]> {
    return this.#change(this.#statements.destroyOf, [joinValues(ids), userId])
  }

  /** Gives a row that older software wrote under the raw id its digest; one that has both keeps the digest's. */
  async hashRawId(raw: string, id: string): Promise<void> {
    const { turn } = this.#statements
    try {
      await this.#connection.query(turn, [raw, id])
    } catch (error) {
      // Somebody wrote the digest's row meanwhile: now it is there, and the raw one goes at the next use.
      if (codeOf(error) !== '23505') throw error
      await this.#connection.query(turn, [raw, id])
    }
  }

  async #change(statement: Statement, values: unknown[]): Promise<Change[]> {
    if (!this.#table.isDistributed) return (await this.#run(statement, values)).map(toChange)
    // Citus may run a CTE on a worker, and what is notified there is lost: statements of their own, then.
    return this.#redacting(values, () =>
      this.#connection.transaction(async (query) => {
        const rows = await query(statement, values)
        await this.#notify(query, rows)
        return rows.map(toChange)
      }),
    )
  }

  async #notify(query: Ask, rows: readonly Row[]): Promise<void> {
    for (const payload of payloads(announced(rows.map(toChange))))
      await query({ text: 'select pg_notify($1, $2)', name: '' }, [this.#channel, payload])
  }

  #run(statement: Statement, values: unknown[]): Promise<Row[]> {
    return this.#redacting(values, () => this.#connection.query(statement, values))
  }

  /** Each of those who share a statement gets its error: none may learn of the others' ids and sessions. */
  async #redacting<T>(values: unknown[], work: () => Promise<T>): Promise<T> {
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

/** Each with the name under which a connection prepares it once: the same for the same text. */
function prepareAll(statements: SessionStatements) {
  const prepared = (text: string): Statement => ({
    text,
    name: `koa_pg_store_${hash('sha256', text).slice(0, 16)}`,
  })
  return {
    readOne: prepared(statements.readOne),
    readMany: prepared(statements.readMany),
    writeOne: prepared(statements.writeOne),
    writeMany: prepared(statements.writeMany),
    replaceOne: prepared(statements.replaceOne),
    replaceMany: prepared(statements.replaceMany),
    destroy: prepared(statements.destroy),
    destroyOf: prepared(statements.destroyOf),
    evict: prepared(statements.evict),
    touch: prepared(statements.touch),
    turn: prepared(statements.hashRawId),
    lockUser: prepared(`select pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1 || ' ' || $2))`),
  }
}
