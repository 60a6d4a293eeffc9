// The SQL of every statement of a request's path, each for one session or for many. Pure. Over 300
// lines: the statements are built of the same parts.
import { unsealedSql } from '../codec/seal.js'
import { standbySetting } from '../postgres/connection.js'
import { columnParams, listParam, rowParams } from '../postgres/sql-params.js'
import { activeCondition, type ExpiryLimits } from '../schema/expiry.js'
import type { Table } from '../schema/table.js'
import { announceAny, announceMany, announceOne, recordUnannounced, versionNow } from './announce-sql.js'
import { cappedSql, remainingTtlSql, writtenTtlSql } from './expiry-sql.js'
import { inTimeSql } from './server-clock.js'

/** The options that the statements depend on. */
export interface StatementOptions extends ExpiryLimits {
  /** Without a codec, nothing is written over a session that a codec has encoded, unless that version was read. */
  readonly codec?: unknown
}

/** How long a tombstone stays, so that a save in flight can't bring a destroyed session back. */
export const tombstoneInterval = `interval '1 hour'`

export type Columns = readonly (readonly [name: string, type: string])[]

export const idColumn = [['id', 'text']] as const
const writeColumns = [
  ['id', 'text'],
  ['session', 'text'],
  ['ttl_ms', 'float8'],
  ['user_id', 'text'],
] as const
export const replaceColumns = [...writeColumns, ['base_version', 'bigint']] as const
export const touchColumns = [
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
    const check = `case when pg_catalog.pg_is_in_recovery() then pg_catalog.current_setting('${standbySetting}') else '' end`
    return `${this.activeCondition} and (select ${check}) is not null`
  }

  get readOne(): string {
    if (this.#table.hasRawIds) return this.#readEither(rowParams(idColumn))
    return (
      `select ${this.#head("'1'")} as heads, t.session::text as sessions` +
      ` from ${this.#table.name} as t where t.id = $1 and ${this.readCondition}`
    )
  }

  /**
   * Returns all sessions as one row of two values, each joined by separators: what stands in a session's row beside it, after
   * the number of its id in the list, and the sessions. A row for each would cost Node twice as much to read.
   */
  get readMany(): string {
    if (this.#table.hasRawIds) return this.#readEither(columnParams(idColumn))
    return (
      `select string_agg(${this.#head('u.n')}, chr(30)) as heads, string_agg(t.session::text, chr(30)) as sessions` +
      ` from unnest(${listParam('$1')}) with ordinality as u (id, n) join ${this.#table.name} as t on t.id = u.id` +
      ` where ${this.readCondition}`
    )
  }

  /** What stands in a session's row beside it. `n`: the number of its id in the list. */
  #head(n: string): string {
    const version = this.#with('version', 't.version') || '0'
    return `${n} || ' ' || ${version} || ' ' || least(${remainingTtlSql(this.#options)}, 1e15)::int8`
  }

  /** Reads the row under the digest of an id or, if there is none, under the raw id. */
  #readEither(source: string): string {
    const { name } = this.#table
    const id = `coalesce((select h.id from ${name} as h where h.id = ${hashedIdSql('u.id')}), u.id)`
    const version = this.#with('version', 't.version') || '0'
    return (
      `select u.id as id, t.session::text as session, ${version} as version, ${remainingTtlSql(this.#options)} as ttl_ms` +
      ` from ${source} join ${name} as t on t.id = ${id} where ${this.readCondition}`
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
        `t.version, ${writtenTtlSql(this.#options)} as ttl_ms, (t.last_access = t.created_at) is not true as notify`,
      ) || unversionedColumns
    const { id, order } = this.#insertedId
    return (
      `insert into ${this.#table.name} as t (id, session, expiry${user(', user_id')}${at(', last_access')}${version(', version')})` +
      ` select ${id}, u.session::json, now() + u.ttl_ms * interval '1 millisecond'${user(', u.user_id')}${at(', now()')}` +
      `${version(`, ${versionNow}`)} from ${source} where ${inTimeSql('$5')} order by ${order}` +
      ` on conflict (id) do update set session = excluded.session, expiry = ${cappedSql(this.#options, 'excluded.expiry')}` +
      user(', user_id = excluded.user_id') +
      at(', last_access = excluded.last_access') +
      version(', version = greatest(excluded.version, t.version + 1)') +
      ` where t.session is not null${this.#unsealed} and ${inTimeSql('$5', 'clock_timestamp()')} returning t.id, ${outcome}`
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
    const expiry = cappedSql(this.#options, `coalesce(now() + u.ttl_ms * interval '1 millisecond', t.expiry)`)
    // Without a ttl, last_access isn't now(), and Citus can't return now() here: the remaining life is unknown.
    const ttl = `case when u.ttl_ms is null then 0 else ${writtenTtlSql(this.#options)} end as ttl_ms`
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
      ` from ${source} where ${this.#matches('t')} and t.session is not null and ${inTimeSql('$6')}` +
      (version(` and (t.version = u.base_version or u.base_version is null${this.#unsealed})`) ||
        this.#unsealed) +
      ` returning u.id, ${outcome}`
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
      ` from ${source} where ${this.#matches('t')}${condition} returning u.id, ${outcome}`
    )
  }

  /**
   * Makes room for session `$1` among the `$3` that user `$2` may have: destroys the least recently used. Does nothing if
   * `$1` is a tombstone, which can't be saved again.
   */
  get evict(): string {
    const own = this.#table.hasRawIds ? `$1, ${hashedIdSql('$1::text')}` : '$1'
    return this.#announce(
      announceAny,
      `with candidates as materialized (select id, last_access, session is null as is_tombstone from ${this.#table.name}` +
        ` where id in (${own}) or (user_id = $2 and ${this.activeCondition}) order by id for update),` +
        ` surplus as (select id from candidates where id not in (${own})` +
        ` and not exists (select from candidates where id in (${own}) and is_tombstone)` +
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
    const ids = listParam('$1')
    return (
      `with touched as (${this.#touch(' skip locked')} returning u.id)` +
      ` select case when (select count(*) from touched) < array_length(${ids}, 1) then` +
      ` (select string_agg(u.id, chr(30)) from unnest(${ids}) as u (id) join ${this.#table.name} as s on ${this.#matches('s')}` +
      ` where ${alias(this.activeCondition)} and u.id not in (select id from touched)) end as locked`
    )
  }

  #touch(ifLocked: '' | ' skip locked'): string {
    const beforeAccess = (ms: number): string => `now() - (u.age_ms + ${ms}) * interval '1 millisecond'`
    const expiry = cappedSql(this.#options, `greatest(t.expiry, now() + u.ttl_ms * interval '1 millisecond')`)
    const lastAccess = `, last_access = greatest(t.last_access, ${beforeAccess(0)})`
    const condition = activeCondition(this.#options, beforeAccess)
    return (
      `update ${this.#table.name} as t set expiry = ${expiry}${this.#with('last_access', lastAccess)}` +
      ` from ${this.#inOrder(columnParams(touchColumns), condition, ifLocked)} where ${this.#matches('t')}`
    )
  }

  /**
   * The condition that a row is the one of `u.id`. Where ids are being replaced by digests, it is under either. As the
   * condition holds for both, PostgreSQL also finds a row whose id is replaced while the statement waits for it.
   */
  #matches(row: 's' | 't'): string {
    return this.#table.hasRawIds ? `${row}.id in (u.id, ${hashedIdSql('u.id')})` : `${row}.id = u.id`
  }

  get #unsealed(): string {
    return this.#options.codec === undefined ? ` and ${unsealedSql('t.session')}` : ''
  }

  /** The id under which a session is inserted or replaced, and the order in which rows are locked. */
  get #insertedId(): { id: string; order: string } {
    const { name, hasRawIds, insertsRawIds } = this.#table
    if (!hasRawIds) return { id: 'u.id', order: 'u.id' }
    const hashed = hashedIdSql('u.id')
    const existing = (id: string): string => `(select h.id from ${name} as h where h.id = ${id})`
    const id = insertsRawIds
      ? `coalesce(${existing(hashed)}, u.id)`
      : `coalesce(${existing(hashed)}, ${existing('u.id')}, ${hashed})`
    return { id, order: '1' }
  }

  /** A part that needs a column which a koa-pg-session table lacks. */
  #with(column: string, part: string): string {
    return this.#table.columns.has(column) ? part : ''
  }

  /**
   * The rows of `source` that are to be changed, locked in the order of ids. `source` is joined with
   * nothing but ids: without statistics PostgreSQL could choose to compare thousands of rows with each other.
   */
  #inOrder(source: string, condition: string, ifLocked: '' | ' skip locked' = ''): string {
    return `(select u.* from ${source} join ${this.#table.name} as s on ${this.#matches('s')} where ${alias(condition)} order by s.id for update of s${ifLocked}) as u`
  }

  /** A statement that changes rows, together with the notification of it where one statement can do both. */
  #announce(form: typeof announceOne, change: string, suffix: string, digest = this.#digest): string {
    if (!this.notifiesInline) return change
    const announcement = { change, suffix, digest, channel: this.#channel, canFlush: this.#table.canFlush }
    return this.#announces ? form(announcement) : recordUnannounced(announcement, this.#table.name)
  }

  /** Whether the statements that change rows take a suffix of their payload as a last parameter. */
  get notifiesInline(): boolean {
    return this.#table.columns.has('version')
  }

  /** The digest of a row that was changed under the id that this store gives it. */
  get #digest(): string {
    return this.#table.hasRawIds || this.#table.insertsRawIds ? digestSql : 'substr(id, 8)'
  }
}

/** What a change of a table without versions returns. */
const unversionedColumns = '0 as version, 0::float8 as ttl_ms, false as notify'

/** The digest of any row's id, as `handleOf` and the trigger in sql/006-notify.sql make it. */
export const digestSql = `substr(${hashedIdSql('id')}, 8)`

/** The id in the form of a digest. */
export function hashedIdSql(id: string): string {
  return (
    `case when ${id} like 'sha256:%' and length(${id}) = 50 then ${id}` +
    ` else 'sha256:' || rtrim(translate(encode(sha256(pg_catalog.convert_to(${id}, 'UTF8'::name)), 'base64'), '+/', '-_'), '=') end`
  )
}

/** The condition on `s`: the values to be written have columns of the same names. */
export function alias(condition: string): string {
  return condition.replace(/\b(session|expiry|user_id|created_at|last_access)\b/g, 's.$1')
}
