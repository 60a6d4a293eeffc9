// Every statement that runs on a request's path.
import type { Connection } from './connection.js'
import type { Table } from './schema.js'

/** How long a destroyed session's row stays, so that a save that was under way can't bring it back. */
const destroyedFor = `interval '1 hour'`

/** The version of a change made now. Grows even where a row went and came again; see DESIGN, 5. */
const versionNow = '(extract(epoch from now()) * 1000000)::bigint'

export class Queries {
  readonly #connection: Connection
  readonly #read: string
  readonly #write: string
  readonly #touch: string
  readonly #destroy: string
  readonly #count: string
  readonly #turn: string

  constructor(connection: Connection, table: Table, maxLifetime: number | undefined) {
    this.#connection = connection
    const { name, columns } = table
    const limited = maxLifetime !== undefined
    const alive =
      'session is not null and expiry > now()' +
      (limited ? ` and created_at > now() - ${maxLifetime} * interval '1 millisecond'` : '')
    // Written with immutable functions alone: Citus refuses `created_at + interval` (it may depend on the TimeZone).
    const last = `to_timestamp(extract(epoch from (t.created_at - timestamptz 'epoch'))::float8 + ${(maxLifetime ?? 0) / 1000})`
    const capped = (expiry: string): string => (limited ? `least(${expiry}, ${last})` : expiry)
    const when = (column: string, assignment: string): string =>
      columns.has(column) ? `, ${assignment}` : ''

    this.#read = `select session::text as session from ${name} where id = $1 and ${alive}`
    this.#write =
      `insert into ${name} as t (id, session, expiry${when('last_access', 'last_access')}${when('version', 'version')})` +
      ` select $1::text, $2::json, now() + $3::float8 * interval '1 millisecond'` +
      `${when('last_access', 'now()')}${when('version', versionNow)}` +
      ` on conflict (id) do update set session = excluded.session, expiry = ${capped('excluded.expiry')}` +
      when('last_access', 'last_access = excluded.last_access') +
      when('version', 'version = greatest(excluded.version, t.version + 1)') +
      ' where t.session is not null'
    this.#touch =
      `update ${name} as t set expiry = ${capped(`greatest(t.expiry, now() + $2::float8 * interval '1 millisecond')`)}` +
      `${when('last_access', 'last_access = now()')} where id = $1 and ${alive}`
    this.#destroy =
      `update ${name} as t set session = null, expiry = now() + ${destroyedFor}${when('user_id', 'user_id = null')}` +
      `${when('version', `version = greatest(${versionNow}, t.version + 1)`)} where id = $1 and session is not null`
    this.#count = `select count(*)::float8 as count from ${name} where ${alive}`
    this.#turn =
      `with gone as (delete from ${name} where id = $1 and exists (select from ${name} where id = $2))` +
      ` update ${name} set id = $2 where id = $1 and not exists (select from ${name} where id = $2)`
  }

  /** The JSON of a session that is alive. */
  async read(id: string): Promise<string | undefined> {
    const [row] = await this.#connection.query(this.#read, [id])
    return row?.session as string | undefined
  }

  /** Writes a session over whatever is there, unless it was destroyed. */
  async write(id: string, text: string, ttl: number): Promise<void> {
    await this.#connection.query(this.#write, [id, text, ttl])
  }

  /** Moves the expiry of a session that is alive; never back. */
  async touch(id: string, ttl: number): Promise<void> {
    await this.#connection.query(this.#touch, [id, ttl])
  }

  /** Empties a session's row and leaves it as a mark that this id is over. */
  async destroy(id: string): Promise<void> {
    await this.#connection.query(this.#destroy, [id])
  }

  /** How many sessions are alive. */
  async count(): Promise<number> {
    const [row] = await this.#connection.query(this.#count)
    return row?.count as number
  }

  /** Gives a row that older software wrote under the raw id its digest; one that has both keeps the digest's. */
  async turn(raw: string, id: string): Promise<void> {
    try {
      await this.#connection.query(this.#turn, [raw, id])
    } catch (error) {
      // Somebody wrote the digest's row meanwhile: now it is there, and the raw one goes at the next use.
      if (!(error instanceof Error && Reflect.get(error, 'code') === '23505')) throw error
      await this.#connection.query(this.#turn, [raw, id])
    }
  }
}
