// Inserts sessions that come from another store, and leaves those alone that the table has.
import { plainToColumn, toColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { columnParams, joinValues } from '../postgres/sql-params.js'
import type { Table } from '../schema/table.js'
import { handleOf } from '../session/session-id.js'
import type { Codec } from '../types/options.js'
import { hashedIdSql } from './session-statements.js'

export interface ImportedSession {
  /** The id, raw or in the form of a digest. */
  readonly id: string
  /** The id as older software stores it, under which the table may still have the session; `undefined` if it isn't known. */
  readonly rawId: string | undefined
  readonly json: string
  readonly userId: string | undefined
  /** When it expires: ms from now, or a time. */
  readonly expires: number | Date
  /** `undefined`: now. */
  readonly createdAt?: Date | undefined
  /** `undefined`: now. */
  readonly lastAccessedAt?: Date | undefined
}

export interface ImporterOptions {
  readonly connection: Connection
  readonly table: Table
  readonly codec: Codec | undefined
}

const columns = [
  ['id', 'text'],
  ['raw_id', 'text'],
  ['session', 'text'],
  ['user_id', 'text'],
  ['ttl_ms', 'float8'],
  ['expires_at', 'timestamptz'],
  ['created_at', 'timestamptz'],
  ['last_access', 'timestamptz'],
] as const

/** These statements may take longer than those of a request. */
const queryTimeoutMs = 60_000

export class SessionImporter {
  readonly #options: ImporterOptions

  constructor(options: ImporterOptions) {
    this.#options = options
  }

  /**
   * Resolves with the ids of the sessions that were inserted, once that is committed. Every other one is in the table
   * already, was destroyed there within the last hour, or has expired. No cache holds a session that was not in the table,
   * so nothing is announced.
   */
  async insert(sessions: readonly ImportedSession[]): Promise<Set<string>> {
    const { connection, codec } = this.#options
    const texts = await Promise.all(
      sessions.map(({ id, json }) =>
        codec === undefined ? plainToColumn(json) : toColumn(codec, json, { id: handleOf(id) }),
      ),
    )
    const rows = await connection.query(
      this.#insertStatement(),
      toValues(this.#underTableIds(sessions), texts),
      queryTimeoutMs,
    )
    return new Set(rows.map(({ id }) => id as string))
  }

  /** Resolves with the ids that `insert` would insert. Changes nothing. */
  async findInsertable(sessions: readonly ImportedSession[]): Promise<Set<string>> {
    const texts = sessions.map(() => '{}')
    const stored = this.#underTableIds(sessions)
    const statement = `select u.id from ${this.#source()}`
    const rows = await this.#options.connection.query(statement, toValues(stored, texts), queryTimeoutMs)
    const { name } = this.#options.table
    const existing = await this.#options.connection.query(
      `select id from ${name} where id = any(string_to_array($1::text, chr(30)))`,
      [joinValues(stored.map(({ id }) => id))],
      queryTimeoutMs,
    )
    const ids = new Set(rows.map(({ id }) => id as string))
    for (const { id } of existing) ids.delete(id as string)
    return ids
  }

  /** The same sessions, under the ids that they get in this table. */
  #underTableIds(sessions: readonly ImportedSession[]): readonly ImportedSession[] {
    const { insertsRawIds } = this.#options.table
    return sessions.map((session) => {
      const digest = `sha256:${handleOf(session.id)}`
      return { ...session, id: insertsRawIds ? (session.rawId ?? digest) : digest }
    })
  }

  /** In the order of ids, as all statements that lock several rows: otherwise two imports could deadlock. */
  #insertStatement(): string {
    const { name } = this.#options.table
    const optional = (column: string, part: string): string =>
      this.#options.table.columns.has(column) ? part : ''
    return (
      `insert into ${name} (id, session, expiry${optional('user_id', ', user_id')}${optional('created_at', ', created_at')}` +
      `${optional('last_access', ', last_access')}${optional('version', ', version')})` +
      ` select u.id, u.session::json, ${expirySql}${optional('user_id', ', u.user_id')}` +
      `${optional('created_at', ', coalesce(u.created_at, now())')}${optional('last_access', ', coalesce(u.last_access, now())')}` +
      `${optional('version', ', (extract(epoch from now()) * 1000000)::bigint')}` +
      ` from ${this.#source()} order by u.id on conflict (id) do nothing returning id`
    )
  }

  /** The rows to insert: those that haven't expired, and aren't in the table under the raw id or its digest. */
  #source(): string {
    const { name, hasRawIds } = this.#options.table
    const isNew = hasRawIds
      ? ` and not exists (select from ${name} as r where r.id in (u.raw_id, ${hashedIdSql('u.id')}))`
      : ''
    return `${columnParams(columns)} where ${expirySql} > now()${isNew}`
  }
}

const expirySql = `coalesce(u.expires_at, now() + u.ttl_ms * interval '1 millisecond')`

function toValues(sessions: readonly ImportedSession[], texts: readonly string[]): string[] {
  const isoTime = (time: Date | number | undefined): string | undefined =>
    time instanceof Date ? time.toISOString() : undefined
  return [
    sessions.map(({ id }) => id),
    sessions.map(({ rawId }) => rawId),
    texts,
    sessions.map(({ userId }) => userId),
    sessions.map(({ expires }) => (expires instanceof Date ? undefined : expires)),
    sessions.map(({ expires }) => isoTime(expires)),
    sessions.map(({ createdAt }) => isoTime(createdAt)),
    sessions.map(({ lastAccessedAt }) => isoTime(lastAccessedAt)),
  ].map(joinValues)
}
