// Every statement that runs on a request's path, each for many sessions at once.
import { hash } from 'node:crypto'
import { Batch } from './batch.js'
import type { Stored } from './cache.js'
import type { Connection, Statement } from './connection.js'
import { codeOf, withoutSecrets } from './errors.js'
import { nameOf, payloads } from './notice.js'
import { isDigest } from './record.js'
import type { Table } from './schema.js'
import type { Touch } from './touches.js'
import type { Row } from './types.js'

/** How long a destroyed session's row stays, so that a save that was under way can't bring it back. */
const destroyedFor = `interval '1 hour'`

/** The version of a change made now. Grows even where a row went and came again; see DESIGN, 5. */
const versionNow = '(extract(epoch from now()) * 1000000)::bigint'

/** How many sessions one statement reads or changes, and how many characters of JSON it carries. */
const most = 128
const mostText = 4 * 1024 * 1024

/** More are worth nothing, but one that waits for a row's lock must not make everybody wait. */
const atOnce = 4

/** So many names of 43 characters and versions stay below the 8000 bytes of a payload. */
const namesInPayload = 120

/** Errors of PostgreSQL that one row of many can be the cause of: bad data, constraints, deadlocks, limits. */
const forOneRowsSake = /^(21|22|23|40|54)/

/** What came of a change: the version that the row has now, how long it lives, whether others were told. */
export interface Changed {
  readonly id: string
  readonly version: number
  readonly left: number
  readonly notify: boolean
}

/** The ends of a session's life that the options set, in ms. */
export interface Limits {
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
    const readMany = prepared(this.#readStatement('t.id = any($1::text[])'))
    const writeOne = prepared(this.#toldOfOne(this.#writeStatement(one)))
    const writeMany = prepared(this.#told(this.#writeStatement(many)))
    const destroy = prepared(this.#told(this.#destroyStatement()))
    this.#touch = prepared(this.#touchStatement())
    this.#reads = new Batch({
      ...bounds,
      isShared: true,
      run: async (calls) => {
        const [only, ...more] = ids(calls)
        const rows = await (more.length === 0
          ? this.#ask(readOne, [only])
          : this.#ask(readMany, [[only, ...more]]))
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
          : this.#change(writeMany, values))
        // A session that is written has just been used.
        const idle = limits.idleTimeout ?? Number.POSITIVE_INFINITY
        return inOrder(
          calls,
          rows.map((row) => ({ ...row, left: Math.min(row.left, idle) })),
        )
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
      run: async (calls) => inOrder(calls, await this.#change(destroy, [ids(calls)])),
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
    await this.#ask(this.#touch, values)
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
    const rows = (await this.#ask(change, values, this.#isToldApart)) as unknown as Changed[]
    // A driver answers a bigint as a string.
    return rows.map((row) => ({ ...row, version: Number(row.version) }))
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
      throw withoutSecrets(error, values.flat().map(String))
    }
  }

  get #isToldApart(): boolean {
    return this.#table.distributed && this.#table.columns.has('version')
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
    return earliest(expiry, after('t.created_at', this.#limits.maxLifetime))
  }

  /** How many ms a session has to live at a time, unless it is used. */
  #left(at: string): string {
    const idle = after('t.last_access', this.#limits.idleTimeout)
    const end = earliest(this.#capped('t.expiry'), idle, `${at} + interval '100 years'`)
    return `(extract(epoch from ${end} - ${at}) * 1000)::float8 as left`
  }

  /** A part that needs a column which a table of koa-pg-session lacks. */
  #with(column: string, part: string): string {
    return this.#table.columns.has(column) ? part : ''
  }

  #readStatement(which: string): string {
    const version = this.#with('version', 't.version::float8') || '0::float8'
    return (
      `select t.id, t.session::text as session, ${version} as version,` +
      ` ${this.#left('now()')}` +
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
        't.version, (extract(epoch from t.expiry - t.last_access) * 1000)::float8 as left, t.last_access is distinct from t.created_at as notify',
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
      ` from ${this.#inOrder('session is not null')} where t.id = due.id` +
      ` returning t.id, ${version('t.version') || '0 as version'}, 0::float8 as left, ${version('true') || 'false'} as notify`
    )
  }

  #touchStatement(): string {
    const later = this.#capped(`greatest(t.expiry, now() + u.ttl * interval '1 millisecond')`)
    const used = `, last_access = greatest(t.last_access, now() - u.age * interval '1 millisecond')`
    const unnest = (arrays: string[]): string =>
      `rows from (${arrays.map((array) => `pg_catalog.unnest(${array})`).join(', ')}) as u (id, ttl, age)`
    const arrays = ['$1::text[]', '$2::float8[]', '$3::float8[]']
    // Behind a select, PostgreSQL plans for few whatever comes: each row is looked up by its id, and thousands cost no
    // more each. Two lists to join would be compared each with each.
    const due = this.#table.distributed
      ? `${this.#inOrder(this.#alive)}, ${unnest(arrays)} where t.id = due.id and u.id = due.id`
      : `(select s.id, u.ttl, u.age from ${unnest(arrays.map((array) => `(select ${array})`))}, ${this.#table.name} as s` +
        ` where s.id = u.id and ${this.#alive} order by s.id for update of s) as u where t.id = u.id`
    return `update ${this.#table.name} as t set expiry = ${later}${this.#with('last_access', used)} from ${due}`
  }

  /** The rows of `$1` that are to be changed, locked in the order of ids where that can be. */
  #inOrder(condition: string): string {
    const lock = this.#table.distributed ? '' : ' order by id for update'
    return `(select id from ${this.#table.name} where id = any($1::text[]) and ${condition}${lock}) as due`
  }

  /** The same for a statement that changes one row. */
  #toldOfOne(change: string): string {
    if (!this.#table.columns.has('version') || this.#isToldApart) return change
    return (
      `with changed as (${change}) select id, version::float8, "left", notify, case when notify then` +
      ` pg_notify('${this.#channel}', ${nameInSql} || to_hex(version))::text end as payload from changed`
    )
  }

  /** A statement that changes rows, with the notice of it where that can be in the same. */
  #told(change: string): string {
    if (!this.#table.columns.has('version') || this.#isToldApart) return change
    // Hexadecimal, as lib/notice.ts reads it.
    return (
      `with changed as (${change}), told as (` +
      `select pg_notify('${this.#channel}', string_agg(name || to_hex(version), ',')) from (` +
      `select ${nameInSql} as name, version, (row_number() over () - 1) / ${namesInPayload} as part` +
      ` from changed where notify) as news group by part)` +
      ` select id, version::float8, "left", notify, (select count(*) from told)::int as payloads from changed`
    )
  }
}

/** What is to be written: one session, or many. */
const one = '(select $1::text, $2::text, $3::float8) as u (id, session, ttl)'
// PostgreSQL would plan a prepared statement anew for each array that it sees: behind a select it sees none.
const many = 'unnest((select $1::text[]), (select $2::text[]), (select $3::float8[])) as u (id, session, ttl)'

/** A time some ms after a column's, with immutable functions alone: Citus refuses `created_at + interval`. */
function after(column: string, ms: number | undefined): string | undefined {
  if (ms === undefined) return undefined
  return `to_timestamp(extract(epoch from (${column} - timestamptz 'epoch'))::float8 + ${ms / 1000})`
}

function earliest(...ends: (string | undefined)[]): string {
  const given = ends.filter((end) => end !== undefined)
  return given.length === 1 ? (given[0] as string) : `least(${given.join(', ')})`
}

/** What notices call a session, as `nameOf` in lib/notice.ts and the trigger in sql/006-notify.sql do. */
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
    version: row.version as number,
    left: row.left as number,
  }
}

/** With the name under which a connection prepares it once: the same for the same text. */
function prepared(text: string): Statement {
  return { text, name: `koa_pg_store_${hash('sha256', text).slice(0, 16)}` }
}
