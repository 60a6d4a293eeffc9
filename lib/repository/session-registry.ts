// Finds, counts and destroys sessions by user, by handle, or all of them: what users and operators need beside requests.

import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { joinValues, listParam } from '../postgres/sql-params.js'
import { notRecordSql, type Table } from '../schema/table.js'
import { splitDevice } from '../session/device.js'
import { parse } from '../session/json.js'
import { digestOf, handleOf } from '../session/session-id.js'
import { DecodeError, SetupError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import type { SessionInfo } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import { maxBatchSize } from './batching.js'
import type { Change } from './row-mapper.js'
import type { SessionQueries } from './session-queries.js'
import { digestSql, hashedIdSql } from './session-statements.js'
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
  readonly userId: string | undefined
}

export interface SessionRegistryOptions {
  readonly connection: Connection
  readonly table: Table
  readonly queries: SessionQueries
  readonly codec: Codec | undefined
  /** The SQL condition that a session is active. */
  readonly activeCondition: string
  readonly onDestroyed: (destroyed: readonly Change[]) => void
  /** Receives the handle and the user of each active session that was destroyed. */
  readonly onRevoked?: (handle: string, userId: string | undefined) => void
}

export class SessionRegistry {
  readonly #options: SessionRegistryOptions
  readonly #selectActive: string
  /** The columns of a `SessionRow`. */
  readonly #rowColumns: string

  constructor(options: SessionRegistryOptions) {
    this.#options = options
    const { name, columns } = options.table
    const userId = columns.has('user_id') ? 'user_id' : 'null::text as user_id'
    this.#rowColumns = `id, ${options.activeCondition} as is_active, ${userId}`
    const ms = (column: string): string =>
      columns.has(column) ? `(extract(epoch from ${column}) * 1000)::float8` : 'null::float8'
    this.#selectActive =
      `select id, session::text as session, ${userId},` +
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
    // The id of a row may be replaced by its digest after it was read.
    const condition = table.hasRawIds ? `id in (u.id, ${hashedIdSql('u.id')})` : 'id = u.id'
    const select =
      `select t.id, t.session::text as session, ${version} from unnest(${listParam('$1')}) as u (id)` +
      ` join ${table.name} as t on t.${condition} where user_id = $2 and session is not null`
    const rowIds = (await this.#rowsOf(userId)).map(({ id }) => id)
    for (let n = 0; n < rowIds.length; n += readBatchSize)
      yield await this.#query(select, [joinValues(rowIds.slice(n, n + readBatchSize)), userId])
  }

  /** All of a user's sessions, also expired ones: a request in flight may still save them. */
  async #rowsOf(userId: string): Promise<SessionRow[]> {
    this.#assertUserColumn()
    const select = `select ${this.#rowColumns} from ${this.#options.table.name} where session is not null and user_id = $1`
    return (await this.#query(select, [userId])).map(toSessionRow)
  }

  /** Resolves with the user of the session that the table has under one of these ids, if any. */
  async userOf(ids: readonly string[]): Promise<string | undefined> {
    const { name, columns } = this.#options.table
    if (!columns.has('user_id')) return undefined
    const { connection } = this.#options
    const select = `select user_id from ${name} where id = any(${listParam('$1')}) and user_id is not null`
    const [row] = await connection.query(select, [joinValues(ids)])
    return row?.user_id as string | undefined
  }

  /**
   * Destroys a user's sessions, except the one with this id or handle. Resolves with the number of active sessions that were
   * destroyed, or with `undefined`, having destroyed none, if the user has no such session to except.
   */
  async destroySessionsOf(userId: string, except: string | undefined): Promise<number | undefined> {
    const kept = except === undefined ? [] : [except, digestOf(except)]
    const all = await this.#rowsOf(userId)
    const rows = all.filter(({ id }) => !kept.includes(handleOf(id)))
    if (except !== undefined && rows.length === all.length) return undefined
    // Checks the user again: a session may belong to another one by now.
    return this.#destroy(rows, (ids) => this.#options.queries.destroyAllOf(userId, ids))
  }

  /** Destroys every session. Resolves with the number of active sessions that were destroyed. */
  async destroyAll(): Promise<number> {
    // The first pass, in the order of ids, may miss a row whose raw id is replaced by its digest.
    const passes = this.#options.table.hasRawIds ? 2 : 1
    let count = 0
    for (let pass = 1; pass <= passes; pass++) count += await this.#destroyOnce()
    return count
  }

  async #destroyOnce(): Promise<number> {
    const { table } = this.#options
    const select = `select ${this.#rowColumns} from ${table.name} where session is not null and id > $1 and ${notRecordSql()} order by id limit ${idBatchSize}`
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
    if (!/^[\w-]{43}$/.test(handle)) return false
    const { table } = this.#options
    const select = `select ${this.#rowColumns} from ${table.name} where session is not null and`
    // A session may have rows under its raw id and its digest. Raw ids have no index by digest: that reads all rows.
    const rows =
      table.hasRawIds || table.insertsRawIds
        ? await this.#query(`${select} ${digestSql} = $1`, [handle])
        : await this.#query(`${select} id = $1`, [`sha256:${handle}`])
    return (await this.#destroy(rows.map(toSessionRow))) > 0
  }

  /** In batches, each a transaction of its own, so that no row is locked for long. */
  async #destroy(
    rows: readonly SessionRow[],
    destroy = (ids: string[]) => this.#options.queries.destroyAll(ids),
  ): Promise<number> {
    const handles = new Set<string>()
    const byId = new Map(rows.map((row) => [row.id, row]))
    const ids = [...byId.keys()].sort()
    for (let n = 0; n < ids.length; n += maxBatchSize) {
      const destroyed = await destroy(ids.slice(n, n + maxBatchSize))
      this.#options.onDestroyed(destroyed)
      for (const { id } of destroyed) {
        const row = byId.get(id)
        const handle = handleOf(id)
        // A session may have two rows, under its raw id and its digest.
        if (!row?.isActive || handles.has(handle)) continue
        handles.add(handle)
        this.#options.onRevoked?.(handle, row.userId)
      }
    }
    return handles.size
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
    const stored = await this.#parse(row)
    const { session, device } =
      stored instanceof DecodeError ? { session: undefined, device: undefined } : splitDevice(stored)
    const date = (ms: unknown): Date | undefined => (ms == null ? undefined : new Date(Number(ms)))
    return {
      handle: handleOf(row.id as string),
      userId: (row.user_id as string | null) ?? undefined,
      session,
      error: stored instanceof DecodeError ? stored : undefined,
      device,
      createdAt: date(row.created_ms),
      lastAccessedAt: date(row.accessed_ms),
      expiresAt: new Date(Number(row.expires_ms)),
    }
  }

  /** Resolves with a row's session, or with why it can't be decoded. */
  async #parse({ id, session }: Row): Promise<Session | DecodeError> {
    const { codec } = this.#options
    try {
      const json = await fromColumn(codec, session as string, { id: handleOf(id as string) })
      return (
        parse(json) ?? new DecodeError("the session can't be decoded: its column doesn't hold a JSON object")
      )
    } catch (error) {
      if (error instanceof DecodeError) return error
      throw error
    }
  }
}

function toSessionRow({ id, is_active, user_id }: Row): SessionRow {
  return {
    id: id as string,
    isActive: is_active as boolean,
    userId: (user_id as string | null) ?? undefined,
  }
}
