// The SQL of every statement of a request's path, each for one session or for many. Pure.
import { standbySetting } from '../postgres/connection.js'
import { columnParams, listParam, rowParams } from '../postgres/sql-params.js'
import { activeCondition, type ExpiryLimits } from '../schema/expiry.js'
import type { Table } from '../schema/table.js'
import { announceAny, announceMany, announceOne, recordUnannounced, versionNow } from './announce-sql.js'
import { inTimeSql } from './server-clock.js'

/** The options that the statements depend on. */
export interface StatementOptions extends ExpiryLimits {
  readonly hashIds: boolean
}

/** How long a tombstone stays, so that a save in flight can't bring a destroyed session back. */
const tombstoneInterval = `interval '1 hour'`

const idColumn = [['id', 'text']] as const
const writeColumns = [
  ['id', 'text'],
  ['session', 'text'],
  ['ttl_ms', 'float8'],
  ['user_id', 'text'],
] as const
const replaceColumns = [...writeColumns, ['base_version', 'bigint']] as const
const touchColumns = [
  ['id', 'text'],
  ['ttl_ms', 'float8'],
  ['age_ms', 'float8'],
] as const

export class SessionStatements {
  readonly #table: Table
  readonly #options: StatementOptions
  readonly #channel: string
  readonly #announces: boolean

  /** `announces: false`: changes are made without a notification, which the server's queue has no room for. */
  constructor(table: Table, options: StatementOptions, channel: string, announces = true) {
    this.#table = table
    this.#options = options
    this.#channel = channel
    this.#announces = announces
  }

  /** The condition that a session is active: neither expired nor destroyed. */
  get activeCondition(): string {
    return activeCondition(this.#options)
  }

  /**
   * The same for reads, which fail on a standby: it may lack the latest changes. That a connection once led to the primary doesn't
   * say where a pooler leads it now. A subquery that depends on no row is run even if there are none.
   */
  get readCondition(): string {
    if (this.#table.isDistributed) return this.activeCondition
    const check = `case when pg_catalog.pg_is_in_recovery() then pg_catalog.current_setting('${standbySetting}') else '' end`
    return `${this.activeCondition} and (select ${check}) is not null`
  }

  get readOne(): string {
    return this.#read('t.id = $1')
  }

  /**
   * Returns all sessions as one row of two values, each joined by separators: what stands in a session's row beside it, after
   * the number of its id in the list, and the sessions. A row for each would cost Node twice as much to read.
   */
  get readMany(): string {
    // Citus runs no join with a function.
    if (this.#table.isDistributed) return this.#read(`t.id = any(${listParam('$1')})`)
    const version = this.#with('version', 't.version') || '0'
    return (
      `select string_agg(u.n || ' ' || ${version} || ' ' || least(${this.#ttl}, 1e15)::int8, chr(30)) as heads,` +
      ` string_agg(t.session::text, chr(30)) as sessions` +
      ` from unnest(${listParam('$1')}) with ordinality as u (id, n) join ${this.#table.name} as t on t.id = u.id` +
      ` where ${this.readCondition}`
    )
  }

  #read(idCondition: string): string {
    const version = this.#with('version', 't.version') || '0'
    return (
      `select t.id, t.session::text as session, ${version} as version, ${this.#ttl} as ttl_ms` +
      ` from ${this.#table.name} as t where ${idCondition} and ${this.readCondition}`
    )
  }

  /** Inserts sessions, or replaces existing ones except tombstones. After the columns comes the time until which it may. */
  get writeOne(): string {
    return this.#announce(announceOne, this.#write(rowParams(writeColumns)), '$6')
  }

  get writeMany(): string {
    return this.#announce(announceMany, this.#write(columnParams(writeColumns)), '$6')
  }

  /** In the order of ids, as all statements that lock several rows: otherwise two processes could deadlock. */
  #write(source: string): string {
    const at = (part: string): string => this.#with('last_access', part)
    const version = (part: string): string => this.#with('version', part)
    const user = (part: string): string => this.#with('user_id', part)
    // No cache holds a row that was just inserted. `last_access` is the statement's now().
    const outcome =
      version(
        `t.version, ${this.#writtenTtl} as ttl_ms, t.last_access is distinct from t.created_at as notify`,
      ) || unversionedColumns
    return (
      `insert into ${this.#table.name} as t (id, session, expiry${user(', user_id')}${at(', last_access')}${version(', version')})` +
      ` select u.id, u.session::json, now() + u.ttl_ms * interval '1 millisecond'${user(', u.user_id')}${at(', now()')}` +
      `${version(`, ${versionNow}`)} from ${source} where ${this.#inTime('$5')} order by u.id` +
      ` on conflict (id) do update set session = excluded.session, expiry = ${this.#capped('excluded.expiry')}` +
      user(', user_id = excluded.user_id') +
      at(', last_access = excluded.last_access') +
      version(', version = greatest(excluded.version, t.version + 1)') +
      ` where t.session is not null and ${this.#inTime('$5', 'clock_timestamp()')} returning t.id, ${outcome}`
    )
  }

  /**
   * Replaces existing sessions in a version, or in any where none is given. Without a ttl their expiry stays as it is, and
   * without JSON their session and user.
   */
  get replaceOne(): string {
    return this.#announce(announceOne, this.#replace(rowParams(replaceColumns)), '$7')
  }

  get replaceMany(): string {
    const source = this.#inOrder(columnParams(replaceColumns), 'session is not null')
    return this.#announce(announceMany, this.#replace(source), '$7')
  }

  #replace(source: string): string {
    const version = (part: string): string => this.#with('version', part)
    const expiry = this.#capped(`coalesce(now() + u.ttl_ms * interval '1 millisecond', t.expiry)`)
    // Without a ttl, last_access isn't now(), and Citus can't return now() here: the remaining life is unknown.
    const ttl = `case when u.ttl_ms is null then 0 else ${this.#writtenTtl} end as ttl_ms`
    const outcome = version(`t.version, ${ttl}, true as notify`) || unversionedColumns
    const user = ', user_id = case when u.session is null then t.user_id else u.user_id end'
    return (
      `update ${this.#table.name} as t set session = coalesce(u.session::json, t.session::json), expiry = ${expiry}` +
      this.#with('user_id', user) +
      this.#with(
        'last_access',
        ', last_access = case when u.ttl_ms is null then t.last_access else now() end',
      ) +
      version(`, version = greatest(${versionNow}, t.version + 1)`) +
      ` from ${source} where t.id = u.id and t.session is not null and ${this.#inTime('$6')}` +
      version(' and (u.base_version is null or t.version = u.base_version)') +
      ` returning t.id, ${outcome}`
    )
  }

  /** Turns rows into tombstones. */
  get destroyOne(): string {
    const change = this.#destroy(rowParams(idColumn), ' and t.session is not null')
    return this.#announce(announceOne, change, '$2', digestSql)
  }

  get destroyMany(): string {
    const source = this.#inOrder(columnParams(idColumn), 'session is not null')
    return this.#announce(announceMany, this.#destroy(source), '$2', digestSql)
  }

  /** The same for those that belong to user `$2`. */
  get destroyOf(): string {
    const source = this.#inOrder(columnParams(idColumn), 'session is not null and user_id = $2::text')
    return this.#announce(announceMany, this.#destroy(source), '$3', digestSql)
  }

  #destroy(source: string, condition = ''): string {
    const version = (part: string): string => this.#with('version', part)
    const outcome = version('t.version, 0::float8 as ttl_ms, true as notify') || unversionedColumns
    return (
      `update ${this.#table.name} as t set session = null, expiry = now() + ${tombstoneInterval}` +
      `${this.#with('user_id', ', user_id = null')}${version(`, version = greatest(${versionNow}, t.version + 1)`)}` +
      ` from ${source} where t.id = u.id${condition} returning t.id, ${outcome}`
    )
  }

  /**
   * Makes room for session `$1` among the `$3` that user `$2` may have: destroys the least recently used. Does nothing if
   * `$1` is a tombstone, which can't be saved again.
   */
  get evict(): string {
    const lock = this.#table.isDistributed ? '' : ' order by id for update'
    return this.#announce(
      announceAny,
      `with candidates as materialized (select id, last_access, session is null as is_tombstone from ${this.#table.name}` +
        ` where id = $1 or (user_id = $2 and ${this.activeCondition})${lock}),` +
        ` surplus as (select id from candidates where id <> $1` +
        ` and not exists (select from candidates where id = $1 and is_tombstone)` +
        ` order by last_access desc, id offset $3::int - 1) ${this.#destroy('surplus as u')}`,
      '$4',
      digestSql,
    )
  }

  /**
   * Writes the last access of sessions that were active then, and moves their expiry, never back. A session that has expired
   * since, because an outage delayed this, is active again. Waits for rows that are locked.
   */
  get touch(): string {
    return this.#touch('')
  }

  /** The same, leaving out rows that are locked. Returns their ids as `locked`. */
  get touchUnlocked(): string {
    const { name, isDistributed } = this.#table
    // Citus can't leave out rows.
    if (isDistributed) return this.touch
    const ids = listParam('$1')
    return (
      `with touched as (${this.#touch(' skip locked')} returning t.id)` +
      ` select case when (select count(*) from touched) < array_length(${ids}, 1) then` +
      ` (select string_agg(s.id, chr(30)) from unnest(${ids}) as u (id) join ${name} as s on s.id = u.id` +
      ` where ${alias(this.activeCondition)} and s.id not in (select id from touched)) end as locked`
    )
  }

  #touch(ifLocked: '' | ' skip locked'): string {
    const accessedAt = `now() - u.age_ms * interval '1 millisecond'`
    const expiry = this.#capped(`greatest(t.expiry, now() + u.ttl_ms * interval '1 millisecond')`)
    const lastAccess = `, last_access = greatest(t.last_access, ${accessedAt})`
    const condition = activeCondition(this.#options, accessedAt)
    return (
      `update ${this.#table.name} as t set expiry = ${expiry}${this.#with('last_access', lastAccess)}` +
      ` from ${this.#inOrder(columnParams(touchColumns), condition, ifLocked)} where t.id = u.id`
    )
  }

  /** Renames the row under the raw id `$1` to the digest `$2`; if there is a row of each, deletes the one under the raw id. */
  get hashRawId(): string {
    const { name } = this.#table
    return (
      `with deleted as (delete from ${name} where id = $1 and exists (select from ${name} where id = $2))` +
      ` update ${name} set id = $2 where id = $1 and not exists (select from ${name} where id = $2)`
    )
  }

  /** This expiry, but no later than `maxLifetime` allows. */
  #capped(expiry: string): string {
    const { maxLifetime } = this.#options
    if (maxLifetime === undefined) return expiry
    // Only with immutable functions: Citus rejects `created_at + interval`.
    const createdAt = `extract(epoch from (t.created_at - timestamptz 'epoch'))::float8`
    return `least(${expiry}, to_timestamp(${createdAt} + ${maxLifetime / 1000}))`
  }

  /**
   * How many ms a session has to live if it isn't used. Calculated in numbers: `extract` and intervals cost PostgreSQL ten
   * times as much as `date_part`. The expiry in a koa-pg-session table may have no time zone.
   */
  get #ttl(): string {
    const { maxLifetime, idleTimeout } = this.#options
    const end = (column: string, ms: number | undefined): string =>
      ms === undefined ? '' : `, date_part('epoch', t.${column}) + ${ms / 1000}`
    const ends = `date_part('epoch', t.expiry::timestamptz)${end('created_at', maxLifetime)}${end('last_access', idleTimeout)}`
    return `(least(${ends}) - date_part('epoch', now())) * 1000`
  }

  /**
   * The same for a session that was just written; 0 where that is what was asked for. Without `now()`, which Citus doesn't let
   * an upsert return.
   */
  get #writtenTtl(): string {
    if (this.#options.maxLifetime === undefined) return '0::float8'
    return `date_part('epoch', t.expiry - t.last_access) * 1000`
  }

  /** Citus runs no volatile function here, and needs the parameter all the same. */
  #inTime(parameter: string, clock?: 'clock_timestamp()'): string {
    return this.#table.isDistributed ? `coalesce(${parameter}::float8, 1) > 0` : inTimeSql(parameter, clock)
  }

  /** A part that needs a column which a koa-pg-session table lacks. */
  #with(column: string, part: string): string {
    return this.#table.columns.has(column) ? part : ''
  }

  /**
   * The rows of `source` that are to be changed, locked in the order of ids where that is possible. `source` is joined with
   * nothing but ids: without statistics PostgreSQL could choose to compare thousands of rows with each other.
   */
  #inOrder(source: string, condition: string, ifLocked: '' | ' skip locked' = ''): string {
    const lock = this.#table.isDistributed ? '' : ` order by s.id for update of s${ifLocked}`
    return `(select u.* from ${source} join ${this.#table.name} as s on s.id = u.id where ${alias(condition)}${lock}) as u`
  }

  /** A statement that changes rows, together with the notification of it where one statement can do both. */
  #announce(form: typeof announceOne, change: string, suffix: string, digest = this.#digest): string {
    if (!this.notifiesInline) return change
    const announcement = { change, suffix, digest, channel: this.#channel, canFlush: this.#table.canFlush }
    return this.#announces ? form(announcement) : recordUnannounced(announcement, this.#table.name)
  }

  /** Whether the statements that change rows take a suffix of their payload as a last parameter. */
  get notifiesInline(): boolean {
    return this.#table.columns.has('version') && !this.#table.isDistributed
  }

  /** The digest of a row that was changed under the id that this store gives it. */
  get #digest(): string {
    return this.#options.hashIds && !this.#table.hasRawIds ? 'substr(id, 8)' : digestSql
  }
}

/** What a change of a table without versions returns. */
const unversionedColumns = '0 as version, 0::float8 as ttl_ms, false as notify'

/** The digest of any row's id, as `handleOf` and the trigger in sql/006-notify.sql make it. */
export const digestSql =
  `case when id like 'sha256:%' and length(id) = 50 then substr(id, 8)` +
  ` else rtrim(translate(encode(sha256(pg_catalog.convert_to(id, 'UTF8'::name)), 'base64'), '+/', '-_'), '=') end`

/** The condition on `s`: the values to be written have columns of the same names. */
function alias(condition: string): string {
  return condition.replace(/\b(session|expiry|user_id|created_at|last_access)\b/g, 's.$1')
}
