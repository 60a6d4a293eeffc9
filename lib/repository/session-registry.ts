// Finds, counts and destroys sessions by user, by handle, or all of them: what users and operators need beside requests.

import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { joinValues, listParam } from '../postgres/sql-params.js'
import { sweepRecordId, type Table } from '../schema/table.js'
import { parse } from '../session/json.js'
import { digestOf, handleOf } from '../session/session-id.js'
import { DecodeError, SetupError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import type { SessionInfo } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import { maxBatchSize } from './batching.js'
import type { Change } from './row-mapper.js'
import type { SessionQueries } from './session-queries.js'
import { digestSql } from './session-statements.js'
import type { SaveRequest } from './session-writer.js'

/** How many sessions are in memory at a time: each may have a megabyte. */
const readBatchSize = 100

/** How many ids are read at a time. */
const idBatchSize = 1_000

/** How many sessions an error names. */
const maxNamedHandles = 10

/** A row that isn't a tombstone. */
interface SessionRow {
  readonly id: string
  /** `false`: the session has expired. */
  readonly isActive: boolean
}

export interface SessionRegistryOptions {
  readonly connection: Connection
  readonly table: Table
  readonly queries: SessionQueries
  readonly hashIds: boolean
  readonly codec: Codec | undefined
  /** The SQL condition that a session is active. */
  readonly activeCondition: string
  readonly onDestroyed: (destroyed: readonly Change[]) => void
}

export class SessionRegistry {
  readonly #options: SessionRegistryOptions
  readonly #selectActive: string

  constructor(options: SessionRegistryOptions) {
    this.#options = options
    const { name, columns } = options.table
    const ms = (column: string): string =>
      columns.has(column) ? `(extract(epoch from ${column}) * 1000)::float8` : 'null::float8'
    this.#selectActive =
      `select id, session::text as session, ${columns.has('user_id') ? 'user_id' : 'null::text as user_id'},` +
      ` ${columns.has('version') ? 'version' : '0 as version'}, ${ms('created_at')} as created_ms, ${ms('last_access')} as accessed_ms,` +
      ` (extract(epoch from expiry::timestamptz) * 1000)::float8 as expires_ms from ${name} where ${options.activeCondition}`
  }

  /** Resolves with the number of active sessions. */
  async count(): Promise<number> {
    const { table, activeCondition } = this.#options
    const [row] = await this.#query(
      `select count(*)::float8 as count from ${table.name} where ${activeCondition}`,
    )
    return Number(row?.count)
  }

  /** Resolves with a user's active sessions, the most recently used first. */
  async sessionsOf(userId: string): Promise<SessionInfo[]> {
    this.#assertUserColumn()
    const order = this.#options.table.columns.has('last_access') ? ' order by last_access desc' : ''
    const rows = await this.#query(`${this.#selectActive} and user_id = $1${order}`, [userId])
    return Promise.all(rows.map((row) => this.#toSessionInfo(row)))
  }

  /**
   * Removes an attribute from all of a user's sessions, merging with changes of other requests. Resolves with the number of
   * sessions that had it. If some can't be decoded, removes it from the others and then rejects.
   */
  async deleteAttribute(
    userId: string,
    name: string,
    save: (request: Omit<SaveRequest, 'userId' | 'digest'>, session: Session) => Promise<void>,
  ): Promise<number> {
    let count = 0
    const undecoded: DecodeError[] = []
    const handles: string[] = []
    for await (const rows of this.#storedSessionsOf(userId))
      await Promise.all(
        rows.map(async (row) => {
          const id = row.id as string
          const session = await this.#parse(row)
          if (session instanceof DecodeError) {
            undecoded.push(session)
            handles.push(handleOf(id))
            return
          }
          if (!Object.hasOwn(session, name)) return
          const base = { digest: handleOf(id), json: JSON.stringify(session), version: Number(row.version) }
          delete session[name]
          count++
          await save({ id, json: JSON.stringify(session), ttlMs: null, base, concurrency: 'merge' }, session)
        }),
      )
    const [first] = undecoded
    if (first !== undefined)
      throw new DecodeError(
        `"${name}" was removed from ${count} sessions, but ${undecoded.length} can't be decoded (${first.message}):` +
          ` to destroy them, call revoke with ${handles.slice(0, maxNamedHandles).join(', ')}${handles.length > maxNamedHandles ? ', …' : ''}`,
        first.key,
      )
    return count
  }

  /** A user's sessions in batches, also expired ones: a request in flight may still save them. */
  async *#storedSessionsOf(userId: string): AsyncGenerator<Row[]> {
    const { table } = this.#options
    const version = table.columns.has('version') ? 'version' : '0 as version'
    const select = `select id, session::text as session, ${version} from ${table.name} where id = any(${listParam('$1')}) and user_id = $2 and session is not null`
    const ids = (await this.#rowsOf(userId)).map(({ id }) => id)
    for (let n = 0; n < ids.length; n += readBatchSize)
      yield await this.#query(select, [joinValues(ids.slice(n, n + readBatchSize)), userId])
  }

  /** All of a user's sessions, also expired ones: a request in flight may still save them. */
  async #rowsOf(userId: string): Promise<SessionRow[]> {
    this.#assertUserColumn()
    const { table, activeCondition } = this.#options
    const select = `select id, ${activeCondition} as is_active from ${table.name} where session is not null and user_id = $1`
    return (await this.#query(select, [userId])).map(toSessionRow)
  }

  /**
   * Destroys a user's sessions, except the one with this id or handle. Resolves with the number of active sessions that were
   * destroyed.
   */
  async destroySessionsOf(userId: string, except: string | undefined): Promise<number> {
    const kept = except === undefined ? [] : [except, digestOf(except)]
    const rows = (await this.#rowsOf(userId)).filter(({ id }) => !kept.includes(handleOf(id)))
    // Checks the user again: a session may belong to another one by now.
    return this.#destroy(rows, (ids) => this.#options.queries.destroyAllOf(userId, ids))
  }

  /** Destroys every session. Resolves with the number of active sessions that were destroyed. */
  async destroyAll(): Promise<number> {
    // The first pass may miss a row that another request moves from its raw id to its digest.
    const passes = this.#options.table.hasRawIds ? 2 : 1
    let count = 0
    for (let pass = 1; pass <= passes; pass++) count += await this.#destroyOnce()
    return count
  }

  async #destroyOnce(): Promise<number> {
    const { table, activeCondition } = this.#options
    const select = `select id, ${activeCondition} as is_active from ${table.name} where session is not null and id > $1 and id <> '${sweepRecordId}' order by id limit ${idBatchSize}`
    let count = 0
    for (let lastId = ''; ; ) {
      const rows = (await this.#query(select, [lastId])).map(toSessionRow)
      const last = rows.at(-1)
      if (last === undefined) return count
      count += await this.#destroy(rows)
      lastId = last.id
    }
  }

  /** Destroys the session with this handle. Resolves with whether there was one. */
  async revoke(handle: string): Promise<boolean> {
    const { table, hashIds } = this.#options
    const destroyAny = async (ids: string[]): Promise<boolean> =>
      (await this.#destroy(ids.map((id) => ({ id, isActive: true })))) > 0
    if (!/^[\w-]{43}$/.test(handle)) return false
    if (hashIds && (await destroyAny([`sha256:${handle}`]))) return true
    if (hashIds && !table.hasRawIds) return false
    // Raw ids have no index by digest: the query hashes every row's id.
    const find = `select id from ${table.name} where session is not null and ${digestSql} = $1`
    const rows = await this.#query(find, [handle])
    if (await destroyAny(rows.map(({ id }) => id as string))) return true
    // Another request may have moved the row from its raw id to its digest since the first attempt.
    return hashIds && destroyAny([`sha256:${handle}`])
  }

  /** In batches, each a transaction of its own, so that no row is locked for long. */
  async #destroy(
    rows: readonly SessionRow[],
    destroy = (ids: string[]) => this.#options.queries.destroyAll(ids),
  ): Promise<number> {
    let count = 0
    const isActiveById = new Map(rows.map(({ id, isActive }) => [id, isActive]))
    const ids = [...isActiveById.keys()].sort()
    for (let n = 0; n < ids.length; n += maxBatchSize) {
      const destroyed = await destroy(ids.slice(n, n + maxBatchSize))
      this.#options.onDestroyed(destroyed)
      count += destroyed.filter(({ id }) => isActiveById.get(id)).length
    }
    return count
  }

  /**
   * Iterates over all active sessions, in the order of ids: each page by a statement of its own, as the caller may take longer
   * than the server lets a statement or transaction take, and shouldn't hold vacuum back.
   */
  async *sessions(): AsyncGenerator<SessionInfo, void, undefined> {
    const select = `${this.#selectActive} and id > $1 order by id limit ${readBatchSize}`
    for (let lastId = ''; ; ) {
      const rows = await this.#query(select, [lastId])
      if (rows.length === 0) return
      for (const row of rows) yield await this.#toSessionInfo(row)
      lastId = rows.at(-1)?.id as string
    }
  }

  #query(text: string, values: readonly unknown[] = []): Promise<Row[]> {
    return this.#options.connection.query(text, values)
  }

  #assertUserColumn(): void {
    const { name, columns } = this.#options.table
    if (!columns.has('user_id'))
      throw new SetupError(`${name} has no column user_id: run sql/003-columns.sql, or set create: true`)
  }

  async #toSessionInfo(row: Row): Promise<SessionInfo> {
    const session = await this.#parse(row)
    const isDecoded = !(session instanceof DecodeError)
    const date = (ms: unknown): Date | undefined => (ms == null ? undefined : new Date(Number(ms)))
    return {
      handle: handleOf(row.id as string),
      userId: (row.user_id as string | null) ?? undefined,
      session: isDecoded ? session : undefined,
      error: isDecoded ? undefined : session,
      createdAt: date(row.created_ms),
      lastAccessedAt: date(row.accessed_ms),
      expiresAt: new Date(Number(row.expires_ms)),
    }
  }

  /** Resolves with a row's session, or with why it can't be decoded. */
  async #parse({ id, session }: Row): Promise<Session | DecodeError> {
    const { codec } = this.#options
    const column = session as string
    try {
      const json = codec ? await fromColumn(codec, column, { id: handleOf(id as string) }) : column
      return (
        parse(json) ?? new DecodeError("the session can't be decoded: its column doesn't hold a JSON object")
      )
    } catch (error) {
      if (error instanceof DecodeError) return error
      throw error
    }
  }
}

function toSessionRow({ id, is_active }: Row): SessionRow {
  return { id: id as string, isActive: is_active as boolean }
}
