// The text of every statement that runs on a request's path, each for one session or for many. Pure.

import { columnParams, listParam, rowParams } from '../postgres/sql-params.js'
import { activeCondition, type ExpiryLimits } from '../schema/expiry.js'
import type { Table } from '../schema/table.js'

/** The options that the statements depend on. */
export interface StatementOptions extends ExpiryLimits {
  readonly hashIds: boolean
}

/** How long a destroyed session's row stays, so that a save that was under way can't bring it back. */
const tombstoneInterval = `interval '1 hour'`

/** The version of a change made now. Grows even where a row went and came again; see DESIGN, 5. */
const versionNow = '(extract(epoch from now()) * 1000000)::bigint'

const written = [
  ['id', 'text'],
  ['session', 'text'],
  ['ttl', 'float8'],
  ['user_id', 'text'],
] as const
const replaced = [...written, ['base', 'bigint']] as const
const touched = [
  ['id', 'text'],
  ['ttl', 'float8'],
  ['age', 'float8'],
] as const
const destroyed = [['id', 'text']] as const

export class SessionStatements {
  readonly #table: Table
  readonly #limits: StatementOptions
  readonly #channel: string

  constructor(table: Table, limits: StatementOptions, channel: string) {
    this.#table = table
    this.#limits = limits
    this.#channel = channel
  }

  /** For the table under its own name, without an alias. */
  get activeCondition(): string {
    return activeCondition(this.#limits)
  }

  get readOne(): string {
    return this.#read('t.id = $1')
  }

  get readMany(): string {
    return this.#read(`t.id = any(${listParam('$1')})`)
  }

  #read(which: string): string {
    const version = this.#with('version', 't.version') || '0'
    return (
      `select t.id, t.session::text as session, ${version} as version, ${this.#ttl}` +
      ` from ${this.#table.name} as t where ${which} and ${this.activeCondition}`
    )
  }

  /** Writes sessions, new ones or over whatever is there but a destroyed one. */
  get writeOne(): string {
    return this.#withNotifyOne(this.#write(rowParams(written)))
  }

  get writeMany(): string {
    return this.#withNotify(this.#write(columnParams(written)))
  }

  /** In the order of ids, as all statements that lock several rows: instances never wait for each other in a circle. */
  #write(source: string): string {
    const at = (part: string): string => this.#with('last_access', part)
    const version = (part: string): string => this.#with('version', part)
    const user = (part: string): string => this.#with('user_id', part)
    // A row that was just made is in no cache yet. `last_access` is the statement's now().
    const outcome =
      version(
        `t.version, ${this.#ttlWritten} as left, t.last_access is distinct from t.created_at as notify`,
      ) || unversionedColumns
    return (
      `insert into ${this.#table.name} as t (id, session, expiry${user(', user_id')}${at(', last_access')}${version(', version')})` +
      ` select u.id, u.session::json, now() + u.ttl * interval '1 millisecond'${user(', u.user_id')}${at(', now()')}` +
      `${version(`, ${versionNow}`)} from ${source} order by u.id` +
      ` on conflict (id) do update set session = excluded.session, expiry = ${this.#capped('excluded.expiry')}` +
      user(', user_id = excluded.user_id') +
      at(', last_access = excluded.last_access') +
      version(', version = greatest(excluded.version, t.version + 1)') +
      ` where t.session is not null returning t.id, ${outcome}`
    )
  }

  /** Writes sessions that are there in a version, or in any where none is given. With no ttl they live on as they did. */
  get replaceOne(): string {
    return this.#withNotifyOne(this.#replace(rowParams(replaced)))
  }

  get replaceMany(): string {
    return this.#withNotify(this.#replace(this.#inOrder(columnParams(replaced), 'session is not null')))
  }

  #replace(source: string): string {
    const version = (part: string): string => this.#with('version', part)
    const expiry = this.#capped(`coalesce(now() + u.ttl * interval '1 millisecond', t.expiry)`)
    // Of one that wasn't used nobody knows: `now()` can't be answered here on Citus.
    const left = `case when u.ttl is null then 0 else ${this.#ttlWritten} end as left`
    const outcome = version(`t.version, ${left}, true as notify`) || unversionedColumns
    return (
      `update ${this.#table.name} as t set session = u.session::json, expiry = ${expiry}` +
      this.#with('user_id', ', user_id = u.user_id') +
      this.#with('last_access', ', last_access = case when u.ttl is null then t.last_access else now() end') +
      version(`, version = greatest(${versionNow}, t.version + 1)`) +
      ` from ${source} where t.id = u.id and t.session is not null` +
      version(' and (u.base is null or t.version = u.base)') +
      ` returning t.id, ${outcome}`
    )
  }

  /** Empties rows, and leaves them as marks that these ids are over. */
  get destroy(): string {
    return this.#withNotify(
      this.#destroy(this.#inOrder(columnParams(destroyed), 'session is not null')),
      digestSql,
    )
  }

  /** The same of those that belong to user `$2`. */
  get destroyOf(): string {
    return this.#withNotify(
      this.#destroy(this.#inOrder(columnParams(destroyed), 'session is not null and user_id = $2::text')),
      digestSql,
    )
  }

  #destroy(source: string): string {
    const version = (part: string): string => this.#with('version', part)
    const outcome = version('t.version, 0::float8 as left, true as notify') || unversionedColumns
    return (
      `update ${this.#table.name} as t set session = null, expiry = now() + ${tombstoneInterval}` +
      `${this.#with('user_id', ', user_id = null')}${version(`, version = greatest(${versionNow}, t.version + 1)`)}` +
      ` from ${source} where t.id = u.id returning t.id, ${outcome}`
    )
  }

  /**
   * Makes room for session `$1` among the `$3` that user `$2` may have: ends the longest unused. Of a session that was
   * destroyed there is nothing to come.
   */
  get evict(): string {
    const lock = this.#table.isDistributed ? '' : ' order by id for update'
    return this.#withNotify(
      `with mine as materialized (select id, last_access, session is null as is_over from ${this.#table.name}` +
        ` where id = $1 or (user_id = $2 and ${this.activeCondition})${lock}),` +
        ` surplus as (select id from mine where id <> $1 and not exists (select from mine where id = $1 and is_over)` +
        ` order by last_access desc, id offset $3::int - 1) ${this.#destroy('surplus as u')}`,
      digestSql,
    )
  }

  /** Moves the expiry of sessions that are alive, never back, and their last access. */
  get touch(): string {
    const later = this.#capped(`greatest(t.expiry, now() + u.ttl * interval '1 millisecond')`)
    const used = `, last_access = greatest(t.last_access, now() - u.age * interval '1 millisecond')`
    return (
      `update ${this.#table.name} as t set expiry = ${later}${this.#with('last_access', used)}` +
      ` from ${this.#inOrder(columnParams(touched), this.activeCondition)} where t.id = u.id`
    )
  }

  /** Gives the row under the raw id `$1` its digest `$2`; of one that has both the digest's stays. */
  get hashRawId(): string {
    const { name } = this.#table
    return (
      `with gone as (delete from ${name} where id = $1 and exists (select from ${name} where id = $2))` +
      ` update ${name} set id = $2 where id = $1 and not exists (select from ${name} where id = $2)`
    )
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
   * How many ms a session has to live, unless it is used. In numbers: `date_part` costs PostgreSQL a tenth of `extract` and
   * of intervals. A koa-pg-session table may have its expiry without a time zone.
   */
  get #ttl(): string {
    const { maxLifetime, idleTimeout } = this.#limits
    const end = (column: string, ms: number | undefined): string =>
      ms === undefined ? '' : `, date_part('epoch', t.${column}) + ${ms / 1000}`
    const ends = `date_part('epoch', t.expiry::timestamptz)${end('created_at', maxLifetime)}${end('last_access', idleTimeout)}`
    return `(least(${ends}) - date_part('epoch', now())) * 1000 as left`
  }

  /** The same of a session that has just been written; without `now()`, which Citus allows no upsert to return. */
  get #ttlWritten(): string {
    return `date_part('epoch', t.expiry - t.last_access) * 1000`
  }

  /** A part that needs a column which a table of koa-pg-session lacks. */
  #with(column: string, part: string): string {
    return this.#table.columns.has(column) ? part : ''
  }

  /**
   * The rows of `source` that are to be changed, locked in the order of ids where that can be. Nothing but ids of the table
   * is joined: without statistics PostgreSQL could choose to compare each of thousands with each.
   */
  #inOrder(source: string, condition: string): string {
    const lock = this.#table.isDistributed ? '' : ' order by s.id for update of s'
    return `(select u.* from ${source} join ${this.#table.name} as s on s.id = u.id where ${alias(condition)}${lock}) as u`
  }

  /** A statement that changes rows, with the notice of it where that can be in the same. */
  #withNotify(change: string, name = this.#digest): string {
    if (!this.#notifiesInline) return change
    const news = `string_agg(${name} || to_hex(version), ',')`
    return (
      `with changed as (${change}), told as (select pg_notify('${this.#channel}', ${news})` +
      ` from changed where notify having count(*) > 0)` +
      ` select id, version, "left", notify, (select count(*) from told)::int as payloads from changed`
    )
  }

  /** The same for a statement that changes one row. */
  #withNotifyOne(change: string): string {
    if (!this.#notifiesInline) return change
    return (
      `with changed as (${change}) select id, version, "left", notify,` +
      ` case when notify then pg_notify('${this.#channel}', ${this.#digest} || to_hex(version))::text end as payload from changed`
    )
  }

  get #notifiesInline(): boolean {
    return this.#table.columns.has('version') && !this.#table.isDistributed
  }

  /** What notices call a session that is changed under the id that this store has for it. */
  get #digest(): string {
    return this.#limits.hashIds && !this.#table.hasRawIds ? 'substr(id, 8)' : digestSql
  }
}

/** What a change of a table without versions answers. */
const unversionedColumns = '0 as version, 0::float8 as left, false as notify'

/** A session's name as `nameOf`, and the trigger in sql/006-notify.sql, make it of an id, and as a digest has it. */
export const digestSql =
  `case when id like 'sha256:%' and length(id) = 50 then substr(id, 8)` +
  ` else rtrim(translate(encode(sha256(pg_catalog.convert_to(id, 'UTF8'::name)), 'base64'), '+/', '-_'), '=') end`

/** The columns of a condition as those of `s`: the values to be written have some of the same names. */
function alias(condition: string): string {
  return condition.replace(/\b(session|expiry|user_id|created_at|last_access)\b/g, 's.$1')
}
