// What a user, or an operator, asks of sessions: whose they are, and to end them. Beside a request's path.

import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { joined, list } from '../postgres/sql-params.js'
import { noteId, type Table } from '../schema/table.js'
import { decode } from '../session/json.js'
import { handleOf, nameOf } from '../session/session-id.js'
import { SetupError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import type { SessionInfo } from '../types/results.js'
import type { Session } from '../types/session-store.js'
import type { Changed } from './row-mapper.js'
import { most, type Queries } from './session-queries.js'
import { anyName } from './session-statements.js'
import type { Save } from './session-writer.js'

/** How many sessions are read at a time: each may have a megabyte. */
const readAtOnce = 100

/** Listing many sessions takes longer than a request may. */
const listMs = 60_000

/** A row that is no mark of a destroyed session. */
interface Found {
  readonly id: string
  readonly alive: boolean
}

export interface UsersOptions {
  readonly connection: Connection
  readonly table: Table
  readonly queries: Queries
  readonly hashIds: boolean
  readonly codec: Codec | undefined
  /** What is alive, as a condition. */
  readonly alive: string
  /** Sessions that were destroyed. */
  readonly onDestroyed: (destroyed: readonly Changed[]) => void
}

export class Users {
  readonly #options: UsersOptions
  readonly #select: string

  constructor(options: UsersOptions) {
    this.#options = options
    const { name, columns } = options.table
    const ms = (column: string): string =>
      columns.has(column) ? `(extract(epoch from ${column}) * 1000)::float8` : 'null::float8'
    this.#select =
      `select id, session::text as session, ${columns.has('user_id') ? 'user_id' : 'null::text as user_id'},` +
      ` ${columns.has('version') ? 'version' : '0 as version'}, ${ms('created_at')} as created, ${ms('last_access')} as used,` +
      ` (extract(epoch from expiry::timestamptz) * 1000)::float8 as ends from ${name} where ${options.alive}`
  }

  /** How many sessions are alive. */
  async count(): Promise<number> {
    const { connection, table, alive } = this.#options
    const [row] = await connection.query(
      `select count(*)::float8 as count from ${table.name} where ${alive}`,
      [],
      listMs,
    )
    return row?.count as number
  }

  /** A user's sessions that are alive, the last used first. */
  async sessionsOf(userId: string): Promise<SessionInfo[]> {
    this.#mustKnowUsers()
    const order = this.#options.table.columns.has('last_access') ? ' order by last_access desc' : ''
    const rows = await this.#options.connection.query(
      `${this.#select} and user_id = $1${order}`,
      [userId],
      listMs,
    )
    return (await Promise.all(rows.map((row) => this.#info(row)))).flat()
  }

  /** Removes an attribute from all of a user's sessions, merging with what is saved at the same time. Answers how many had it. */
  async deleteAttribute(
    userId: string,
    name: string,
    save: (save: Omit<Save, 'userId'>, session: Session) => Promise<void>,
  ): Promise<number> {
    let count = 0
    for await (const some of this.#stored(userId))
      await Promise.all(
        some.map(async ({ id, text, version }) => {
          const session = decode(text)
          if (session === undefined || !Object.hasOwn(session, name)) return
          delete session[name]
          count++
          const base = { name: handleOf(id), text, version }
          await save({ id, text: JSON.stringify(session), ttl: null, base, concurrency: 'merge' }, session)
        }),
      )
    return count
  }

  /** A user's sessions as they are stored, some at a time; one that has expired may be saved again yet. */
  async *#stored(userId: string): AsyncGenerator<{ id: string; text: string; version: number }[]> {
    const { connection, table } = this.#options
    const version = table.columns.has('version') ? 'version' : '0 as version'
    const select = `select id, session::text as session, ${version} from ${table.name} where id = any(${list('$1')}) and user_id = $2 and session is not null`
    const ids = (await this.#rowsOf(userId)).map(({ id }) => id)
    for (let n = 0; n < ids.length; n += readAtOnce) {
      const rows = await connection.query(select, [joined(ids.slice(n, n + readAtOnce)), userId], listMs)
      yield await Promise.all(
        rows.map(async (row) => ({
          id: row.id as string,
          text: await this.#text(row),
          version: Number(row.version),
        })),
      )
    }
  }

  /** All that belong to a user, those that have expired too: a request that had one before may save it yet. */
  async #rowsOf(userId: string): Promise<Found[]> {
    this.#mustKnowUsers()
    const { connection, table, alive } = this.#options
    const select = `select id, ${alive} as alive from ${table.name} where session is not null and user_id = $1`
    return (await connection.query(select, [userId], listMs)) as unknown[] as Found[]
  }

  /** Destroys a user's sessions but one, given by its id or handle. Answers how many were alive. */
  async destroyUser(userId: string, except: string | undefined): Promise<number> {
    const kept = except === undefined ? [] : [except, nameOf(except)]
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
    const { connection, table, alive } = this.#options
    const select = `select id, ${alive} as alive from ${table.name} where session is not null and id > $1 and id <> '${noteId}' order by id limit 1000`
    let count = 0
    for (let after = ''; ; ) {
      const rows = (await connection.query(select, [after], listMs)) as unknown[] as Found[]
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
    const find = `select id from ${table.name} where session is not null and ${anyName} = $1`
    const rows = await connection.query(find, [handle], listMs)
    if ((await isThere(rows.map(({ id }) => id as string))) > 0) return true
    // Its id may have been turned into the digest meanwhile.
    return hashIds && (await isThere([`sha256:${handle}`])) > 0
  }

  /** Many at a time, each of them a transaction of its own: nobody waits long for one of the rows. */
  async #destroy(
    rows: readonly Found[],
    destroy = (ids: string[]) => this.#options.queries.destroyAll(ids),
  ): Promise<number> {
    let count = 0
    const alive = new Map(rows.map(({ id, alive }) => [id, alive]))
    const sorted = [...alive.keys()].sort()
    for (let n = 0; n < sorted.length; n += most) {
      const destroyed = await destroy(sorted.slice(n, n + most))
      this.#options.onDestroyed(destroyed)
      count += destroyed.filter(({ id }) => alive.get(id)).length
    }
    return count
  }

  /** Every session that is alive, in no order. */
  async *entries(): AsyncGenerator<SessionInfo, void, undefined> {
    const { connection } = this.#options
    const rows = connection.read?.(this.#select, [], readAtOnce) ?? this.#pages()
    for await (const some of rows) for (const row of some) yield* await this.#info(row)
  }

  /** Where there is no cursor: in the order of ids. */
  async *#pages(): AsyncGenerator<Row[]> {
    for (let after = ''; ; ) {
      const text = `${this.#select} and id > $1 order by id limit ${readAtOnce}`
      const rows = await this.#options.connection.query(text, [after], listMs)
      if (rows.length === 0) return
      yield rows
      after = rows.at(-1)?.id as string
    }
  }

  #mustKnowUsers(): void {
    const { name, columns } = this.#options.table
    if (!columns.has('user_id'))
      throw new SetupError(`${name} has no column user_id: see sql/003-columns.sql, or use create: true`)
  }

  /** Of what other software has written that is no session, nothing. */
  async #info(row: Row): Promise<SessionInfo[]> {
    const session = decode(await this.#text(row))
    if (session === undefined) return []
    const date = (ms: unknown): Date | undefined => (typeof ms === 'number' ? new Date(ms) : undefined)
    return [
      {
        handle: handleOf(row.id as string),
        userId: (row.user_id as string | null) ?? undefined,
        session,
        createdAt: date(row.created),
        lastAccess: date(row.used),
        expiry: new Date(row.ends as number),
      },
    ]
  }

  async #text({ id, session }: Row): Promise<string> {
    const { codec } = this.#options
    return codec ? fromColumn(codec, session as string, { id: handleOf(id as string) }) : (session as string)
  }
}
