// Every statement that runs on a request's path, each for many sessions at once.
import { hash } from 'node:crypto'
import { Batch } from './batch.js'
import type { Stored } from './cache.js'
import type { Connection, Statement } from './connection.js'
import { codeOf, withoutSecrets } from './errors.js'
import { nameOf, payloads } from './notice.js'
import { isDigest, separator } from './record.js'
import type { Table } from './schema.js'
import type { Touch } from './touches.js'
import type { Row } from './types.js'

/** How long a destroyed session's row stays, so that a save that was under way can't bring it back. */
const destroyedFor = `interval '1 hour'`

/** The version of a change made now. Grows even where a row went and came again; see DESIGN, 5. */
const versionNow = '(extract(epoch from now()) * 1000000)::bigint'

/**
 * How many sessions one statement reads or changes, and how many characters of JSON it carries. Names of 43 characters and
 * versions of 16 at most, so many of them fit into the 8000 bytes of a notice's payload.
 */
const most = 128
const mostText = 4 * 1024 * 1024

/** More are worth nothing, but one that waits for a row's lock must not make everybody wait. */
const atOnce = 4

/** Errors of PostgreSQL that one row of many can be the cause of: bad data, constraints, deadlocks, limits. */
const forOneRowsSake = /^(21|22|23|40|54)/

/** What came of a change: the version that the row has now, how long it lives, whether others were told. */
export interface Changed {
  readonly id: string
  readonly version: number
  left: number
  readonly notify: boolean
}

/** What the options say: the ends of a session's life, in ms, and what the table's ids are. */
export interface Limits {
  readonly hashIds: boolean
  readonly maxLifetime: number | undefined
  readonly idleTimeout: number | undefined
}

interface Write {
  readonly text: string
  readonly ttl: number
}

export class Queries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #limits: Limits
  readonly #count: string
  readonly #turn: string
  readonly #reads: Batch<undefined, Stored | undefined>
  readonly #writes: Batch<Write, Changed | undefined>
  readonly #destroys: Batch<undefined, Changed | undefined>
  readonly #touches: Batch<Touch, undefined>
  readonly #touch: Statement

  constructor(connection: Connection, table: Table, channel: string, limits: Limits) {
    this.#connection = connection
    this.#table = table
    this.#channel = channel
    this.#limits = limits
    const { name } = table
    this.#count = `select count(*)::float8 as count from ${name} where ${this.#alive}`
    this.#turn =
      `with gone as (delete from ${name} where id = $1 and exists (select from ${name} where id = $2))` +
      ` update ${name} set id = $2 where id = $1 and not exists (select from ${name} where id = $2)`
    const bounds = {
      max: most,
      concurrency: atOnce,
      isDivisible: (error: unknown) => forOneRowsSake.test(codeOf(error) ?? ''),
    }
    // Alone, a session is asked for as every PostgreSQL plans best; many by their array, whose plan suits its length.
    const readOne = prepared(this.#readStatement('t.id = $1'))
    const readMany = prepared(this.#readStatement(`t.id = any(${list('$1')})`))
    const writeOne = prepared(this.#toldOfOne(this.#writeStatement(one)))
    const writeMany = prepared(this.#told(this.#writeStatement(many)))
    const destroy = prepared(this.#told(this.#destroyStatement()))
    this.#touch = prepared(this.#touchStatement())
    this.#reads = new Batch({
      ...bounds,
      isShared: true,
      run: async (calls) => {
        const rows = await (calls.length === 1
          ? this.#ask(readOne, ids(calls))
          : this.#ask(readMany, [joined(ids(calls))]))
        return inOrder(calls, rows.map(stored))
      },
    })
    this.#writes = new Batch({
      ...bounds,
      weigh: ({ text }) => text.length,
      maxWeight: mostText,
      run: async (calls) => {
        const values = [ids(calls), calls.map(({ value }) => value.text), calls.map(({ value }) => value.ttl)]
        const rows = await (calls.length === 1
          ? this.#change(writeOne, values.flat())
          : this.#change(writeMany, values.map(joined)))
        // A session that is written has just been used.
        const idle = limits.idleTimeout ?? Number.POSITIVE_INFINITY
        for (const row of rows) row.left = Math.min(row.left, idle)
        return inOrder(calls, rows)
      },
    })
    this.#touches = new Batch({
      ...bounds,
      run: async (calls) => {
        await this.#touchAll(calls.map(({ value }) => value))
        return calls.map(() => undefined)
      },
    })
    this.#destroys = new Batch({
      ...bounds,
      run: async (calls) => inOrder(calls, await this.#change(destroy, [joined(ids(calls))])),
    })
  }

  /** A session that is alive. */
  read(id: string): Promise<Stored | undefined> {
    return this.#reads.add(id, undefined)
  }

  /** Writes a session over whatever is there, unless it was destroyed (`undefined`), and notifies of the change. */
  write(id: string, text: string, ttl: number): Promise<Changed | undefined> {
    return this.#writes.add(id, { text, ttl })
  }

  /** Moves the expiry of sessions that are alive, never back, and their last access; each once. */
  async touch(touches: readonly Touch[]): Promise<void> {
    const [first, ...more] = touches
    if (first !== undefined && more.length === 0) await this.#touches.add(first.id, first)
    else await this.#touchAll(touches)
  }

  async #touchAll(touches: readonly Touch[]): Promise<void> {
    const values = [touches.map(({ id }) => id), touches.map(({ ttl }) => ttl), touches.map(({ age }) => age)]
    await this.#ask(this.#touch, values.map(joined))
  }

  /** Empties a session's row, leaves it as a mark that this id is over, and notifies of it. */
  destroy(id: string): Promise<Changed | undefined> {
    return this.#destroys.add(id, undefined)
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
      if (codeOf(error) !== '23505') throw error
      await this.#connection.query(this.#turn, [raw, id])
    }
  }

  async #change(change: Statement, values: unknown[]): Promise<Changed[]> {
    const rows = (await this.#ask(change, values, this.#table.distributed)) as unknown as Changed[]
    // A driver answers a bigint as a string.
    return rows.map(({ id, version, left, notify }) => ({ id, version: Number(version), left, notify }))
  }

  async #ask(statement: Statement, values: unknown[], isToldApart = false): Promise<Row[]> {
    try {
      if (!isToldApart) return await this.#connection.query(statement, values)
      // Citus may run a CTE on a worker, and what is notified there is lost: statements of their own, then.
      return await this.#connection.transaction(async (query) => {
        const rows = await query(statement, values)
        for (const payload of payloads(named(rows)))
          await query('select pg_notify($1, $2)', [this.#channel, payload])
        return rows
      })
    } catch (error) {
      // Each of those who share a statement gets its error: none may learn of the others' ids and sessions.
      throw withoutSecrets(
        error,
        values.flatMap((value) => String(value).split(separator)),
      )
    }
  }

  /** What is alive, of a table called `t` or alone. */
  get #alive(): string {
    const { maxLifetime, idleTimeout } = this.#limits
    const since = (column: string, ms: number | undefined): string =>
      ms === undefined ? '' : ` and ${column} > now() - ${ms} * interval '1 millisecond'`
    return `session is not null and expiry > now()${since('created_at', maxLifetime)}${since('last_access', idleTimeout)}`
  }

  /** The end of a session's life if it were to expire then. */
  #capped(expiry: string): string {
    const { maxLifetime } = this.#limits
    if (maxLifetime === undefined) return expiry
    // With immutable functions alone: Citus refuses `created_at + interval`.
    const since = `extract(epoch from (t.created_at - timestamptz 'epoch'))::float8`
    return `least(${expiry}, to_timestamp(${since} + ${maxLifetime / 1000}))`
  }

  /**
   * How many ms a session has to live at a time, unless it is used. In numbers: `date_part` costs PostgreSQL a tenth of
   * `extract` and of intervals. A koa-pg-session table may have its expiry without a time zone.
   */
  get #left(): string {
    const { maxLifetime, idleTimeout } = this.#limits
    const end = (column: string, ms: number | undefined): string =>
      ms === undefined ? '' : `, date_part('epoch', t.${column}) + ${ms / 1000}`
    const ends = `date_part('epoch', t.expiry::timestamptz)${end('created_at', maxLifetime)}${end('last_access', idleTimeout)}`
    return `(least(${ends}) - date_part('epoch', now())) * 1000 as left`
  }

  /** A part that needs a column which a table of koa-pg-session lacks. */
  #with(column: string, part: string): string {
    return this.#table.columns.has(column) ? part : ''
  }

  #readStatement(which: string): string {
    const version = this.#with('version', 't.version') || '0'
    return (
      `select t.id, t.session::text as session, ${version} as version,` +
      ` ${this.#left}` +
      ` from ${this.#table.name} as t where ${which} and ${this.#alive}`
    )
  }

  /** In the order of ids, as all statements that lock several rows: instances never wait for each other in a circle. */
  #writeStatement(source: string): string {
    const at = (part: string): string => this.#with('last_access', part)
    const version = (part: string): string => this.#with('version', part)
    // A row that was just made is in no cache yet. `last_access` is the statement's now().
    const outcome =
      version(
        `t.version, date_part('epoch', t.expiry - t.last_access) * 1000 as left, t.last_access is distinct from t.created_at as notify`,
      ) || '0 as version, 0::float8 as left, false as notify'
    return (
      `insert into ${this.#table.name} as t (id, session, expiry${at(', last_access')}${version(', version')})` +
      ` select u.id, u.session::json, now() + u.ttl * interval '1 millisecond'${at(', now()')}${version(`, ${versionNow}`)}` +
      ` from ${source} order by u.id` +
      ` on conflict (id) do update set session = excluded.session, expiry = ${this.#capped('excluded.expiry')}` +
      at(', last_access = excluded.last_access') +
      version(', version = greatest(excluded.version, t.version + 1)') +
      ` where t.session is not null returning t.id, ${outcome}`
    )
  }

  #destroyStatement(): string {
    const version = (part: string): string => this.#with('version', part)
    return (
      `update ${this.#table.name} as t set session = null, expiry = now() + ${destroyedFor}` +
      `${this.#with('user_id', ', user_id = null')}${version(`, version = greatest(${versionNow}, t.version + 1)`)}` +
      ` from ${this.#inOrder(`unnest(${list('$1')}) as u (id)`, 'session is not null')} where t.id = due.id` +
      ` returning t.id, ${version('t.version') || '0 as version'}, 0::float8 as left, ${version('true') || 'false'} as notify`
    )
  }

  #touchStatement(): string {
    const later = this.#capped(`greatest(t.expiry, now() + due.ttl * interval '1 millisecond')`)
    const used = `, last_access = greatest(t.last_access, now() - due.age * interval '1 millisecond')`
    return (
      `update ${this.#table.name} as t set expiry = ${later}${this.#with('last_access', used)}` +
      ` from ${this.#inOrder(touched, this.#alive)} where t.id = due.id`
    )
  }

  /**
   * The rows of `source` that are to be changed, locked in the order of ids where that can be. Nothing but ids of the table
   * is joined: without an index PostgreSQL could choose to compare each of thousands with each.
   */
  #inOrder(source: string, condition: string): string {
    const lock = this.#table.distributed ? '' : ' order by s.id for update of s'
    return `(select u.* from ${source} join ${this.#table.name} as s on s.id = u.id where ${condition}${lock}) as due`
  }

  /** The same for a statement that changes one row. */
  #toldOfOne(change: string): string {
    if (!this.#tells) return change
    return (
      `with changed as (${change}) select id, version, "left", notify,` +
      ` case when notify then pg_notify('${this.#channel}', ${this.#news})::text end as payload from changed`
    )
  }

  /** A statement that changes rows, with the notice of it where that can be in the same. */
  #told(change: string): string {
    if (!this.#tells) return change
    return (
      `with changed as (${change}), told as (select pg_notify('${this.#channel}', string_agg(${this.#news}, ','))` +
      ` from changed where notify having count(*) > 0)` +
      ` select id, version, "left", notify, (select count(*) from told)::int as payloads from changed`
    )
  }

  get #tells(): boolean {
    return this.#table.columns.has('version') && !this.#table.distributed
  }

  /** What lib/notice.ts reads: the name of a session, as `nameOf` and the trigger in sql/006-notify.sql make it, and its version. */
  get #news(): string {
    return `${this.#limits.hashIds ? 'substr(id, 8)' : nameInSql} || to_hex(version)`
  }
}

/** Values between separators: quoting each of an array, and reading that, costs more than all else that is done to it. */
function joined(values: readonly unknown[]): string {
  return values.join(separator)
}

/** The list as an array; what is empty is null. */
function list(parameter: string): string {
  return `string_to_array(${parameter}::text, chr(30), '')`
}

/** What is to be written: one session, or many. */
const one = '(select $1::text, $2::text, $3::float8) as u (id, session, ttl)'
// PostgreSQL would plan a prepared statement anew for each array that it sees: behind a select it sees none.
const many =
  `unnest((select ${list('$1')}), (select ${list('$2')}), (select ${list('$3')}::float8[]))` +
  ' as u (id, session, ttl)'

/** What is to be touched: its id, its new life in ms, and how long ago it was used. */
const touched =
  `rows from (pg_catalog.unnest(${list('$1')}), pg_catalog.unnest(${list('$2')}::float8[]),` +
  ` pg_catalog.unnest(${list('$3')}::float8[])) as u (id, ttl, age)`

const nameInSql =
  `case when id like 'sha256:%' and length(id) = 50 then substr(id, 8)` +
  ` else rtrim(translate(encode(sha256(pg_catalog.convert_to(id, 'UTF8'::name)), 'base64'), '+/', '-_'), '=') end`

function named(rows: Row[]): { name: string; version: number }[] {
  const news = rows as unknown as Changed[]
  return news
    .filter(({ notify }) => notify)
    .map(({ id, version }) => ({
      name: isDigest(id) ? id.slice('sha256:'.length) : nameOf(id),
      version: Number(version),
    }))
}

function ids(calls: readonly { readonly key: string }[]): string[] {
  return calls.map(({ key }) => key)
}

/** The row of each call, if it has one. */
function inOrder<T extends { readonly id: string }>(
  calls: readonly { readonly key: string }[],
  rows: T[],
): (T | undefined)[] {
  if (calls.length === 1) return [rows[0]]
  const byId = new Map(rows.map((row) => [row.id, row]))
  return calls.map(({ key }) => byId.get(key))
}

function stored(row: Row): Stored {
  return {
    id: row.id as string,
    text: row.session as string,
    version: Number(row.version),
    left: row.left as number,
  }
}

/** With the name under which a connection prepares it once: the same for the same text. */
function prepared(text: string): Statement {
  return { text, name: `koa_pg_store_${hash('sha256', text).slice(0, 16)}` }
}
