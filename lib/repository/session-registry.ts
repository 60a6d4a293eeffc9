// What a user, or an operator, asks of sessions: whose they are, and to end them. Beside a request's path.

import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { joinValues, listParam } from '../postgres/sql-params.js'
import { sweepRecordId, type Table } from '../schema/table.js'
import { parse } from '../session/json.js'
import { digestOf, handleOf } from '../session/session-id.js'
import { SetupError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import type { SessionInfo } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import type { Change } from './row-mapper.js'
import { maxBatchSize, type SessionQueries } from './session-queries.js'
import { digestSql } from './session-statements.js'
import type { SaveRequest } from './session-writer.js'

/** How many sessions are read at a time: each may have a megabyte. */
const readBatchSize = 100

/** Listing many sessions takes longer than a request may. */
const listTimeoutMs = 60_000

/** A row that is no mark of a destroyed session. */
interface Row_ {
  readonly id: string
  readonly alive: boolean
}

export interface SessionRegistryOptions {
  readonly connection: Connection
  readonly table: Table
  readonly queries: SessionQueries
  readonly hashIds: boolean
  readonly codec: Codec | undefined
  /** What is alive, as a condition. */
  readonly activeCondition: string
  /** Sessions that were destroyed. */
  readonly onDestroyed: (destroyed: readonly Change[]) => void
}

export class SessionRegistry {
  readonly #options: SessionRegistryOptions
  readonly #select: string

  constructor(options: SessionRegistryOptions) {
    this.#options = options
    const { name, columns } = options.table
    const ms = (column: string): string =>
      columns.has(column) ? `(extract(epoch from ${column}) * 1000)::float8` : 'null::float8'
    this.#select =
      `select id, session::text as session, ${columns.has('user_id') ? 'user_id' : 'null::text as user_id'},` +
      ` ${columns.has('version') ? 'version' : '0 as version'}, ${ms('created_at')} as created, ${ms('last_access')} as used,` +
      ` (extract(epoch from expiry::timestamptz) * 1000)::float8 as ends from ${name} where ${options.activeCondition}`
  }

  /** How many sessions are alive. */
  async count(): Promise<number> {
    const { connection, table, activeCondition: alive } = this.#options
    const [row] = await connection.query(
      `select count(*)::float8 as count from ${table.name} where ${alive}`,
      [],
      listTimeoutMs,
    )
    return row?.count as number
  }

  /** A user's sessions that are alive, the last used first. */
  async sessionsOf(userId: string): Promise<SessionInfo[]> {
    this.#assertUserColumn()
    const order = this.#options.table.columns.has('last_access') ? ' order by last_access desc' : ''
    const rows = await this.#options.connection.query(
      `${this.#select} and user_id = $1${order}`,
      [userId],
      listTimeoutMs,
    )
    return (await Promise.all(rows.map((row) => this.#toSessionInfo(row)))).flat()
  }

  /** Removes an attribute from all of a user's sessions, merging with what is saved at the same time. Answers how many had it. */
  async deleteAttribute(
    userId: string,
    name: string,
    save: (save: Omit<SaveRequest, 'userId'>, session: Session) => Promise<void>,
  ): Promise<number> {
    let count = 0
    for await (const some of this.#stored(userId))
      await Promise.all(
        some.map(async ({ id, json, version }) => {
          const session = parse(json)
          if (session === undefined || !Object.hasOwn(session, name)) return
          delete session[name]
          count++
          const base = { digest: handleOf(id), json, version }
          await save({ id, json: JSON.stringify(session), ttl: null, base, concurrency: 'merge' }, session)
        }),
      )
    return count
  }

  /** A user's sessions as they are stored, some at a time; one that has expired may be saved again yet. */
  async *#stored(userId: string): AsyncGenerator<{ id: string; json: string; version: number }[]> {
    const { connection, table } = this.#options
    const version = table.columns.has('version') ? 'version' : '0 as version'
    const select = `select id, session::text as session, ${version} from ${table.name} where id = any(${listParam('$1')}) and user_id = $2 and session is not null`
    const ids = (await this.#rowsOf(userId)).map(({ id }) => id)
    for (let n = 0; n < ids.length; n += readBatchSize) {
      const rows = await connection.query(
        select,
        [joinValues(ids.slice(n, n + readBatchSize)), userId],
        listTimeoutMs,
      )
      yield await Promise.all(
        rows.map(async (row) => ({
          id: row.id as string,
          json: await this.#json(row),
          version: Number(row.version),
        })),
      )
    }
  }

  /** All that belong to a user, those that have expired too: a request that had one before may save it yet. */
  async #rowsOf(userId: string): Promise<Row_[]> {
    this.#assertUserColumn()
    const { connection, table, activeCondition: alive } = this.#options
    const select = `select id, ${alive} as alive from ${table.name} where session is not null and user_id = $1`
    return (await connection.query(select, [userId], listTimeoutMs)) as unknown[] as Row_[]
  }

  /** Destroys a user's sessions but one, given by its id or handle. Answers how many were alive. */
  async destroySessionsOf(userId: string, except: string | undefined): Promise<number> {
    const kept = except === undefined ? [] : [except, digestOf(except)]
    const rows = (await this.#rowsOf(userId)).filter(({ id }) => !kept.includes(handleOf(id)))
    // One that has changed its user meanwhile isn't theirs any more.
    return this.#destroy(rows, (ids) => this.#options.queries.destroyAllOf(userId, ids))
  }

  /** Destroys every session that is there now. Answers how many were alive. */
  async destroyAll(): Promise<number> {
    const { table } = this.#options
    // One whose raw id was turned into its digest meanwhile may have been passed over.
    const times = table.hasRawIds ? 2 : 1
    let count = 0
    for (let n = 0; n < times; n++) count += await this.#destroyOnce()
    return count
  }

  async #destroyOnce(): Promise<number> {
    const { connection, table, activeCondition: alive } = this.#options
    const select = `select id, ${alive} as alive from ${table.name} where session is not null and id > $1 and id <> '${sweepRecordId}' order by id limit 1000`
    let count = 0
    for (let after = ''; ; ) {
      const rows = (await connection.query(select, [after], listTimeoutMs)) as unknown[] as Row_[]
      const last = rows.at(-1)
      if (last === undefined) return count
      count += await this.#destroy(rows)
      after = last.id
    }
  }

  /** Destroys the session with this handle. Answers whether there was one. */
  async revoke(handle: string): Promise<boolean> {
    const { connection, table, hashIds } = this.#options
    const isThere = (ids: string[]): Promise<number> => this.#destroy(ids.map((id) => ({ id, alive: true })))
    if (!/^[\w-]{43}$/.test(handle)) return false
    if (hashIds && (await isThere([`sha256:${handle}`])) > 0) return true
    if (hashIds && !table.hasRawIds) return false
    // A table of raw ids can't be asked for a digest: look through all of them.
    const find = `select id from ${table.name} where session is not null and ${digestSql} = $1`
    const rows = await connection.query(find, [handle], listTimeoutMs)
    if ((await isThere(rows.map(({ id }) => id as string))) > 0) return true
    // Its id may have been turned into the digest meanwhile.
    return hashIds && (await isThere([`sha256:${handle}`])) > 0
  }

  /** Many at a time, each of them a transaction of its own: nobody waits long for one of the rows. */
  async #destroy(
    rows: readonly Row_[],
    destroy = (ids: string[]) => this.#options.queries.destroyAll(ids),
  ): Promise<number> {
    let count = 0
    const alive = new Map(rows.map(({ id, alive }) => [id, alive]))
    const sorted = [...alive.keys()].sort()
    for (let n = 0; n < sorted.length; n += maxBatchSize) {
      const destroyed = await destroy(sorted.slice(n, n + maxBatchSize))
      this.#options.onDestroyed(destroyed)
      count += destroyed.filter(({ id }) => alive.get(id)).length
    }
    return count
  }

  /** Every session that is alive, in no order. */
  async *sessions(): AsyncGenerator<SessionInfo, void, undefined> {
    const { connection } = this.#options
    const rows = connection.stream?.(this.#select, [], readBatchSize) ?? this.#pages()
    for await (const some of rows) for (const row of some) yield* await this.#toSessionInfo(row)
  }

  /** Where there is no cursor: in the order of ids. */
  async *#pages(): AsyncGenerator<Row[]> {
    for (let after = ''; ; ) {
      const text = `${this.#select} and id > $1 order by id limit ${readBatchSize}`
      const rows = await this.#options.connection.query(text, [after], listTimeoutMs)
      if (rows.length === 0) return
      yield rows
      after = rows.at(-1)?.id as string
    }
  }

  #assertUserColumn(): void {
    const { name, columns } = this.#options.table
    if (!columns.has('user_id'))
      throw new SetupError(`${name} has no column user_id: see sql/003-columns.sql, or use create: true`)
  }

  /** Of what other software has written that is no session, nothing. */
  async #toSessionInfo(row: Row): Promise<SessionInfo[]> {
    const session = parse(await this.#json(row))
    if (session === undefined) return []
    const date = (ms: unknown): Date | undefined => (typeof ms === 'number' ? new Date(ms) : undefined)
    return [
      {
        handle: handleOf(row.id as string),
        userId: (row.user_id as string | null) ?? undefined,
        session,
        createdAt: date(row.created),
        lastAccessedAt: date(row.used),
        expiresAt: new Date(row.ends as number),
      },
    ]
  }

  async #json({ id, session }: Row): Promise<string> {
    const { codec } = this.#options
    return codec ? fromColumn(codec, session as string, { id: handleOf(id as string) }) : (session as string)
  }
}
