// Runs every statement that is on a request's path: concurrent calls together, and with the notices of what they change.
import { hash } from 'node:crypto'
import { fromColumn, toColumn } from '../codec/codec.js'
import { payloads } from '../notifications/payload.js'
import type { Connection, Statement } from '../postgres/connection.js'
import { joined } from '../postgres/sql-params.js'
import type { Table } from '../schema/table.js'
import { handleOf, separator } from '../session/session-id.js'
import type { Stored } from '../session/stored-session.js'
import { EncodeError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import { Batch } from '../util/batcher.js'
import { codeOf, withoutSecrets } from '../util/driver-errors.js'
import {
  asError,
  type Changed,
  changed,
  column,
  ids,
  inOrder,
  named,
  type Replacement,
  stored,
  type Write,
} from './row-mapper.js'
import type { Statements } from './session-statements.js'
import type { Touch } from './touch-buffer.js'

/**
 * How many sessions one statement reads or changes, and how many characters of JSON it carries. Names of 43 characters and
 * versions of 16 at most, so many of them fit into the 8000 bytes of a notice's payload.
 */
export const most = 128
const mostText = 4 * 1024 * 1024

/** More are worth nothing, but one that waits for a row's lock must not make everybody wait. */
const atOnce = 4

/** Errors of PostgreSQL that one row of many can be the cause of: bad data, constraints, deadlocks, limits. */
const forOneRowsSake = /^(21|22|23|40|54)/

/** How batches of these calls are made; see `Batch`. */
export const batching = {
  max: most,
  maxWeight: mostText,
  concurrency: atOnce,
  isDivisible: (error: unknown): boolean =>
    error instanceof EncodeError || forOneRowsSake.test(codeOf(error) ?? ''),
}

type Ask = (statement: Statement, values: unknown[]) => Promise<Row[]>

export class Queries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #idleTimeout: number
  readonly #codec: Codec | undefined
  readonly #statements: ReturnType<typeof prepareAll>
  readonly #reads: Batch<undefined, Stored | undefined>
  readonly #destroys: Batch<undefined, Changed | undefined>
  readonly #touches: Batch<Touch, undefined>

  constructor(
    connection: Connection,
    table: Table,
    channel: string,
    statements: Statements,
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
    this.#reads = new Batch({
      ...batching,
      isShared: true,
      // Alone, a session is asked for as every PostgreSQL plans best; many by their array, whose plan suits its length.
      run: async (calls) => {
        const rows = await (calls.length === 1
          ? this.#ask(readOne, ids(calls))
          : this.#ask(readMany, [joined(ids(calls))]))
        const sessions = rows.map(stored)
        if (this.#codec === undefined) return inOrder(calls, sessions)
        // What can't be decoded is the error of who asks for it alone.
        const opened = await Promise.all(sessions.map((session) => this.#opened(session).catch(asError)))
        const byId = new Map(sessions.map(({ id }, n) => [id, opened[n]]))
        return calls.map(({ key }) => byId.get(key))
      },
    })
    this.#destroys = new Batch({
      ...batching,
      run: async (calls) => inOrder(calls, await this.destroyAll(ids(calls))),
    })
    this.#touches = new Batch({
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
  read(id: string): Promise<Stored | undefined> {
    return this.#reads.add(id, undefined)
  }

  /** Writes sessions over whatever is there, but for those that were destroyed, and notifies of it. */
  async write(writes: readonly Write[]): Promise<Changed[]> {
    return this.#written(await this.#change(...this.#writing(await this.#sealed(writes))))
  }

  /** Writes sessions that are there, in the version given; the others are missing from the answer. */
  async replace(replacements: readonly Replacement[]): Promise<Changed[]> {
    return this.#written(await this.#change(...this.#replacing(await this.#sealed(replacements))))
  }

  /**
   * Writes a session that comes to belong to its user, who may have `max`: the longest unused are destroyed. Whoever does the
   * same for this user waits meanwhile. A query function can't lock: there, more may be destroyed than had to be.
   */
  async admit(
    write: Write | Replacement,
    max: number,
  ): Promise<{ written: Changed | undefined; evicted: Changed[] }> {
    const { evict, lockUser } = this.#statements
    const [statement, values] =
      'base' in write
        ? this.#replacing(await this.#sealed([write]))
        : this.#writing(await this.#sealed([write]))
    return this.#connection.transaction(
      async (query) => {
        const change = async (statement: Statement, values: unknown[]): Promise<Changed[]> => {
          const rows = await this.#guarded(values, () => query(statement, values))
          if (this.#table.distributed) await this.#tell(query, rows)
          return rows.map(changed)
        }
        await query(lockUser, [this.#channel, write.userId])
        const evicted = await change(evict, [write.id, write.userId, max])
        const [written] = this.#written(await change(statement, values))
        // Nobody has to go for a session that is gone or has changed.
        return { written, evicted: written === undefined && this.#connection.canUndo ? [] : evicted }
      },
      ({ written }) => written !== undefined,
    )
  }

  /** A session as it was before the option `codec` made something else of it. */
  async #opened(session: Stored): Promise<Stored> {
    const { id, text } = session
    return this.#codec
      ? { ...session, text: await fromColumn(this.#codec, text, { id: handleOf(id) }) }
      : session
  }

  async #sealed<T extends Write>(writes: readonly T[]): Promise<readonly T[]> {
    const codec = this.#codec
    if (codec === undefined) return writes
    const seal = async (write: T): Promise<T> => ({
      ...write,
      text: await toColumn(codec, write.text, { id: handleOf(write.id) }),
    })
    return Promise.all(writes.map(seal))
  }

  #writing(writes: readonly Write[]): [Statement, unknown[]] {
    const { writeOne, writeMany } = this.#statements
    const values = [...column(writes, 'id', 'text', 'ttl'), this.#users(writes)]
    return writes.length === 1 ? [writeOne, values.flat()] : [writeMany, values.map(joined)]
  }

  #replacing(writes: readonly Replacement[]): [Statement, unknown[]] {
    const { replaceOne, replaceMany } = this.#statements
    const values = [...column(writes, 'id', 'text', 'ttl'), this.#users(writes), ...column(writes, 'base')]
    return writes.length === 1 ? [replaceOne, values.flat()] : [replaceMany, values.map(joined)]
  }

  #users(writes: readonly Write[]): unknown[] {
    return writes.map(({ userId }) => userId ?? null)
  }

  /** A session that is written has just been used. */
  #written(rows: Changed[]): Changed[] {
    const idle = this.#idleTimeout
    return rows.map((row) => (row.left > idle ? { ...row, left: idle } : row))
  }

  /** Moves the expiry of sessions that are alive, never back, and their last access; each once. */
  async touch(touches: readonly Touch[]): Promise<void> {
    const [first, ...more] = touches
    if (first !== undefined && more.length === 0) await this.#touches.add(first.id, first)
    else await this.#touchAll(touches)
  }

  async #touchAll(touches: readonly Touch[]): Promise<void> {
    await this.#ask(this.#statements.touch, column(touches, 'id', 'ttl', 'age').map(joined))
  }

  /** Empties a session's row, leaves it as a mark that this id is over, and notifies of it. */
  destroy(id: string): Promise<Changed | undefined> {
    return this.#destroys.add(id, undefined)
  }

  /** The same for many, each once. */
  destroyAll(ids: readonly string[]): Promise<Changed[]> {
    return this.#change(this.#statements.destroy, [joined(ids)])
  }

  /** The same for those that belong to this user. */
  destroyAllOf(userId: string, ids: readonly string[]): Promise<Changed[]> {
    return this.#change(this.#statements.destroyOf, [joined(ids), userId])
  }

  /** Gives a row that older software wrote under the raw id its digest; one that has both keeps the digest's. */
  async turn(raw: string, id: string): Promise<void> {
    const { turn } = this.#statements
    try {
      await this.#connection.query(turn, [raw, id])
    } catch (error) {
      // Somebody wrote the digest's row meanwhile: now it is there, and the raw one goes at the next use.
      if (codeOf(error) !== '23505') throw error
      await this.#connection.query(turn, [raw, id])
    }
  }

  async #change(statement: Statement, values: unknown[]): Promise<Changed[]> {
    if (!this.#table.distributed) return (await this.#ask(statement, values)).map(changed)
    // Citus may run a CTE on a worker, and what is notified there is lost: statements of their own, then.
    return this.#guarded(values, () =>
      this.#connection.transaction(async (query) => {
        const rows = await query(statement, values)
        await this.#tell(query, rows)
        return rows.map(changed)
      }),
    )
  }

  async #tell(query: Ask, rows: readonly Row[]): Promise<void> {
    for (const payload of payloads(named(rows.map(changed))))
      await query({ text: 'select pg_notify($1, $2)', name: '' }, [this.#channel, payload])
  }

  #ask(statement: Statement, values: unknown[]): Promise<Row[]> {
    return this.#guarded(values, () => this.#connection.query(statement, values))
  }

  /** Each of those who share a statement gets its error: none may learn of the others' ids and sessions. */
  async #guarded<T>(values: unknown[], work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw withoutSecrets(
        error,
        values.flatMap((value) => String(value).split(separator)),
      )
    }
  }
}

/** Each with the name under which a connection prepares it once: the same for the same text. */
function prepareAll(statements: Statements) {
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
    turn: prepared(statements.turn),
    lockUser: prepared(`select pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1 || ' ' || $2))`),
  }
}
