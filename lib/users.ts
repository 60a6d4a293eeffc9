// What a user, or an operator, asks of sessions: whose they are, and to end them. Beside a request's path.

import { type Codec, fromColumn } from './codec.js'
import type { Connection } from './connection.js'
import { noteId } from './expired.js'
import { handleOf, nameOf } from './notice.js'
import { type Changed, most, type Queries } from './queries.js'
import { decode } from './record.js'
import type { Table } from './schema.js'
import type { Row, SessionInfo } from './types.js'

/** How many sessions are read at a time: each may have a megabyte. */
const readAtOnce = 100

/** Listing many sessions takes longer than a request may. */
const listMs = 60_000

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
    const rows = await this.#of(userId)
    const list = await Promise.all(rows.map((row) => this.#info(row)))
    return list.flat().sort((a, b) => Number(b.lastAccess) - Number(a.lastAccess))
  }

  /** Those rows, with the text and version of each. */
  async #of(userId: string): Promise<Row[]> {
    this.#mustKnowUsers()
    return this.#options.connection.query(`${this.#select} and user_id = $1`, [userId], listMs)
  }

  /** A user's sessions as they are stored. */
  async stored(userId: string): Promise<{ id: string; text: string; version: number }[]> {
    const rows = await this.#of(userId)
    return Promise.all(
      rows.map(async (row) => ({
        id: row.id as string,
        text: await this.#text(row),
        version: Number(row.version),
      })),
    )
  }

  /** Destroys a user's sessions but one, given by its id or handle. Answers how many. */
  async destroyUser(userId: string, except: string | undefined): Promise<number> {
    this.#mustKnowUsers()
    const { connection, table, alive } = this.#options
    const rows = await connection.query(
      `select id from ${table.name} where user_id = $1 and ${alive}`,
      [userId],
      listMs,
    )
    const ids = rows.map(({ id }) => id as string)
    const isKept = (id: string): boolean =>
      except !== undefined && (handleOf(id) === except || handleOf(id) === nameOf(except))
    return this.#destroy(ids.filter((id) => !isKept(id)))
  }

  /** Destroys every session that is there now. Answers how many. */
  async destroyAll(): Promise<number> {
    const { connection, table } = this.#options
    let count = 0
    for (let after = ''; ; ) {
      const rows = await connection.query(
        `select id from ${table.name} where id > $1 and session is not null and id <> '${noteId}' order by id limit 1000`,
        [after],
        listMs,
      )
      if (rows.length === 0) return count
      const ids = rows.map(({ id }) => id as string)
      count += await this.#destroy(ids)
      after = ids.at(-1) as string
    }
  }

  /** Destroys the session with this handle. Answers whether there was one. */
  async revoke(handle: string): Promise<boolean> {
    if (this.#options.hashIds && (await this.#destroy([`sha256:${handle}`])) > 0) return true
    // A table of raw ids can't be asked for a digest: look through all of them.
    const { connection, table } = this.#options
    const digest = `rtrim(translate(encode(sha256(convert_to(id, 'UTF8')), 'base64'), '+/', '-_'), '=')`
    const find = `select id from ${table.name} where session is not null and id not like 'sha256:%' and ${digest} = $1`
    if (this.#options.hashIds && !table.hasRawIds) return false
    const rows = await connection.query(find, [handle], listMs)
    return (await this.#destroy(rows.map(({ id }) => id as string))) > 0
  }

  /** Many at a time, each of them a transaction of its own: nobody waits long for one of the rows. */
  async #destroy(ids: readonly string[]): Promise<number> {
    let count = 0
    const sorted = ids.toSorted()
    for (let n = 0; n < sorted.length; n += most) {
      const destroyed = await this.#options.queries.destroyAll(sorted.slice(n, n + most))
      this.#options.onDestroyed(destroyed)
      count += destroyed.length
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
      throw new Error(`${name} has no column user_id: see sql/003-columns.sql, or use create: true`)
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
