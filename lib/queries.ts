// Every statement that runs on a request's path.
import type { Stored } from './cache.js'
import type { Connection } from './connection.js'
import { payloads } from './notice.js'
import type { Table } from './schema.js'
import type { Row } from './types.js'

/** How long a destroyed session's row stays, so that a save that was under way can't bring it back. */
const destroyedFor = `interval '1 hour'`

/** The version of a change made now. Grows even where a row went and came again; see DESIGN, 5. */
const versionNow = '(extract(epoch from now()) * 1000000)::bigint'

/** What came of a change: the version that the row has now, how long it lives, whether others were told. */
export interface Changed {
  readonly version: number
  readonly left: number
  readonly notify: boolean
}

export class Queries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #read: string
  readonly #readMany: string
  readonly #write: string
  readonly #touch: string
  readonly #destroy: string
  readonly #count: string
  readonly #turn: string

  constructor(connection: Connection, table: Table, channel: string, maxLifetime: number | undefined) {
    this.#connection = connection
    this.#table = table
    this.#channel = channel
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

    const end = limited ? `least(t.expiry, ${last})` : 't.expiry'
    const versioned = columns.has('version')
    const version = versioned ? 't.version::float8 as version' : '0::float8 as version'

    this.#read =
      `select id, session::text as session, ${version}, (extract(epoch from ${end} - now()) * 1000)::float8 as left` +
      ` from ${name} as t where id = $1 and ${alive}`
    this.#readMany = this.#read.replace('id = $1', 'id = any($1)')
    // Immutable again: `last_access` is the now() of the statement. A row that was just made is in no cache yet.
    const written = versioned
      ? `${version}, (extract(epoch from t.expiry - t.last_access) * 1000)::float8 as left, t.last_access > t.created_at as notify`
      : `${version}, 0::float8 as left, false as notify`
    this.#write = this.#change(
      `insert into ${name} as t (id, session, expiry${when('last_access', 'last_access')}${when('version', 'version')})` +
        ` select $1::text, $2::json, now() + $3::float8 * interval '1 millisecond'` +
        `${when('last_access', 'now()')}${when('version', versionNow)}` +
        ` on conflict (id) do update set session = excluded.session, expiry = ${capped('excluded.expiry')}` +
        when('last_access', 'last_access = excluded.last_access') +
        when('version', 'version = greatest(excluded.version, t.version + 1)') +
        ` where t.session is not null returning ${written}`,
      '$4',
    )
    this.#touch =
      `update ${name} as t set expiry = ${capped(`greatest(t.expiry, now() + $2::float8 * interval '1 millisecond')`)}` +
      `${when('last_access', 'last_access = now()')} where id = $1 and ${alive}`
    this.#destroy = this.#change(
      `update ${name} as t set session = null, expiry = now() + ${destroyedFor}${when('user_id', 'user_id = null')}` +
        when('version', `version = greatest(${versionNow}, t.version + 1)`) +
        ` where id = $1 and session is not null returning ${version}, 0::float8 as left, ${versioned} as notify`,
      '$2',
    )
    this.#count = `select count(*)::float8 as count from ${name} where ${alive}`
    this.#turn =
      `with gone as (delete from ${name} where id = $1 and exists (select from ${name} where id = $2))` +
      ` update ${name} set id = $2 where id = $1 and not exists (select from ${name} where id = $2)`
  }

  /** A statement that changes one row, with the notice of it (whose name is the given parameter) where that can be. */
  #change(statement: string, name: string): string {
    if (!this.#table.columns.has('version') || this.#table.distributed) return statement
    // Hexadecimal, as lib/notice.ts reads it.
    const payload = `${name}::text || to_hex(version::bigint)`
    return (
      `with changed as (${statement}) select version, "left", notify,` +
      ` case when notify then pg_notify('${this.#channel}', ${payload})::text end from changed`
    )
  }

  async #run(statement: string, values: unknown[], name: string): Promise<Changed | undefined> {
    if (!this.#table.columns.has('version')) return first(await this.#connection.query(statement, values))
    if (!this.#table.distributed) return first(await this.#connection.query(statement, [...values, name]))
    // Citus may run a CTE on a worker, and what is notified there is lost: a statement of its own, then.
    return this.#connection.transaction(async (query) => {
      const changed = first(await query(statement, values))
      if (changed?.notify)
        await query('select pg_notify($1, $2)', [this.#channel, ...payloads([{ name, ...changed }])])
      return changed
    })
  }

  /** A session that is alive. */
  async read(id: string): Promise<Stored | undefined> {
    const [row] = await this.#connection.query(this.#read, [id])
    return row && stored(row)
  }

  /** Those of some sessions that are alive, by id. */
  async readMany(ids: string[]): Promise<Map<string, Stored>> {
    const rows = await this.#connection.query(this.#readMany, [ids])
    return new Map(rows.map((row) => [row.id as string, stored(row)]))
  }

  /** Writes a session over whatever is there, unless it was destroyed (`undefined`), and notifies of the change. */
  write(id: string, text: string, ttl: number, name: string): Promise<Changed | undefined> {
    return this.#run(this.#write, [id, text, ttl], name)
  }

  /** Moves the expiry of a session that is alive; never back. */
  async touch(id: string, ttl: number): Promise<void> {
    await this.#connection.query(this.#touch, [id, ttl])
  }

  /** Empties a session's row, leaves it as a mark that this id is over, and notifies of it. */
  destroy(id: string, name: string): Promise<Changed | undefined> {
    return this.#run(this.#destroy, [id], name)
  }

  /** Tells every instance something, this one too. */
  async notify(payload: string): Promise<void> {
    await this.#connection.query('select pg_notify($1, $2)', [this.#channel, payload])
  }

  /** How full the server's queue of notifications is, from 0 to 1; full, it fails commits. */
  async queueUsage(): Promise<number> {
    const [row] = await this.#connection.query('select pg_notification_queue_usage()::float8 as usage')
    return row?.usage as number
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

function stored(row: Row): Stored {
  return {
    id: row.id as string,
    text: row.session as string,
    version: row.version as number,
    left: row.left as number,
  }
}

function first(rows: Row[]): Changed | undefined {
  return rows[0] as Changed | undefined
}
