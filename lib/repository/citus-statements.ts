// The SQL of every statement of a request's path on a table that Citus has distributed. Pure.
//
// Citus plans a statement cheaply if it compares `id` with one value, and commits it on one worker alone if all its rows are in
// one shard. It has rules that PostgreSQL doesn't have; test/repository/citus-rules.test.ts checks each text against them:
// - what changes rows may call a stable function, such as now(), only where no column is an argument of it, and never within
//   `case`, `coalesce`, `do update` or `returning`;
// - rows to insert are `values`: an `insert … select` would read and write through the coordinator.
import { unsealedSql } from '../codec/seal.js'
import { listParam } from '../postgres/sql-params.js'
import { activeCondition } from '../schema/expiry.js'
import type { Table } from '../schema/table.js'
import { versionNow } from './announce-sql.js'
import { cappedSql, remainingTtlSql, writtenTtlSql } from './expiry-sql.js'
import {
  alias,
  type Columns,
  idColumn,
  replaceColumns,
  type StatementOptions,
  tombstoneInterval,
  touchColumns,
} from './session-statements.js'

/** The list of ids `$1`, which all belong to one shard. */
const ids = listParam('$1')

/** The time `ms` milliseconds from now, by a function that is immutable: `now() + interval` isn't, and `ms` may be a column. */
function msFromNow(ms: string): string {
  return `to_timestamp(date_part('epoch', now()) + ${ms} / 1000)`
}

export class CitusStatements {
  readonly #table: string
  readonly #options: StatementOptions

  constructor(table: Table, options: StatementOptions) {
    this.#table = table.name
    this.#options = options
  }

  /** Notifications are statements of their own: Citus may run a part of a statement on a worker, where one would be lost. */
  get notifiesInline(): boolean {
    return false
  }

  /** Citus would run a check for standbys on a worker. */
  get readCondition(): string {
    return activeCondition(this.#options)
  }

  get readOne(): string {
    return this.#read('t.id = $1')
  }

  get readMany(): string {
    return this.#read(`t.id = any(${ids})`)
  }

  #read(condition: string): string {
    return (
      `select t.id, t.session::text as session, t.version, ${remainingTtlSql(this.#options)} as ttl_ms` +
      ` from ${this.#table} as t where ${condition} and ${this.readCondition}`
    )
  }

  get writeOne(): string {
    return this.write(1)
  }

  /** Inserts `count` sessions or replaces existing ones except tombstones; takes the values of one after the other. */
  write(count: number): string {
    const row = (_: unknown, n: number): string => {
      const [id, session, ttlMs, userId] = [1, 2, 3, 4].map((column) => `$${4 * n + column}`)
      return `(${id}::text, ${session}::json, now() + ${ttlMs}::float8 * interval '1 millisecond', ${userId}::text, now(), ${versionNow})`
    }
    const outcome = `${writtenTtlSql(this.#options)} as ttl_ms, (t.last_access = t.created_at) is not true as notify`
    return (
      `insert into ${this.#table} as t (id, session, expiry, user_id, last_access, version)` +
      ` values ${Array.from({ length: count }, row).join(', ')}` +
      ` on conflict (id) do update set session = excluded.session, expiry = ${cappedSql(this.#options, 'excluded.expiry')},` +
      ` user_id = excluded.user_id, last_access = excluded.last_access, version = greatest(excluded.version, t.version + 1)` +
      ` where t.session is not null${this.#unsealed} returning t.id, t.version, ${outcome}`
    )
  }

  get replaceOne(): string {
    return this.#replace('where t.id = $1', '$2::json', '$3::float8', '$4::text', '$5::bigint')
  }

  get replaceMany(): string {
    const source = this.#inOrder(replaceColumns, 's.session is not null')
    return this.#replace(source, 'u.session::json', 'u.ttl_ms', 'u.user_id', 'u.base_version')
  }

  #replace(rows: string, session: string, ttlMs: string, userId: string, baseVersion: string): string {
    // Null without a ttl. `greatest` and `least` ignore that, and may call now(), which `case` and `coalesce` must not.
    const expiry = msFromNow(ttlMs)
    const lastAccess = msFromNow(`${ttlMs} * 0`)
    const writtenTtl = `case when ${ttlMs} is null then 0 else ${writtenTtlSql(this.#options)} end`
    return (
      `update ${this.#table} as t set session = coalesce(${session}, t.session::json),` +
      ` expiry = ${cappedSql(this.#options, `least(greatest(t.expiry, ${expiry}), ${expiry})`)},` +
      ` user_id = case when ${session} is null then t.user_id else ${userId} end,` +
      ` last_access = greatest(t.last_access, ${lastAccess}), version = greatest(${versionNow}, t.version + 1)` +
      ` ${rows} and t.session is not null and (t.version = ${baseVersion} or ${baseVersion} is null${this.#unsealed})` +
      ` returning t.id, t.version, ${writtenTtl} as ttl_ms, true as notify`
    )
  }

  /** Without a codec, nothing is written over a session that a codec has encoded, unless that version was read. */
  get #unsealed(): string {
    return this.#options.codec === undefined ? ` and ${unsealedSql('t.session')}` : ''
  }

  get destroyOne(): string {
    return this.#destroy('where t.id = $1')
  }

  get destroyMany(): string {
    return this.#destroy(this.#inOrder(idColumn, 's.session is not null'))
  }

  get destroyOf(): string {
    return this.#destroy(this.#inOrder(idColumn, 's.session is not null and s.user_id = $2::text'))
  }

  #destroy(rows: string): string {
    return (
      `update ${this.#table} as t set session = null, expiry = now() + ${tombstoneInterval}, user_id = null,` +
      ` version = greatest(${versionNow}, t.version + 1) ${rows} and t.session is not null` +
      ` returning t.id, t.version, 0::float8 as ttl_ms, true as notify`
    )
  }

  /** Returns the sessions beside `$1` that are too many when user `$2` may have `$3`: the least recently used. */
  get surplus(): string {
    return (
      `select t.id from ${this.#table} as t where t.user_id = $2::text and t.id <> $1 and ${this.readCondition}` +
      ` order by t.last_access desc, t.id offset $3::int - 1`
    )
  }

  get touch(): string {
    const expiry = cappedSql(this.#options, `greatest(t.expiry, ${msFromNow('u.ttl_ms')})`)
    const beforeAccess = (ms: number): string => msFromNow(`-(u.age_ms + ${ms})`)
    const lastAccess = `greatest(t.last_access, ${beforeAccess(0)})`
    return (
      `update ${this.#table} as t set expiry = ${expiry}, last_access = ${lastAccess}` +
      ` ${this.#inOrder(touchColumns, alias(activeCondition(this.#options, beforeAccess)))}`
    )
  }

  /** The same: Citus can't leave out rows that are locked. */
  get touchUnlocked(): string {
    return this.touch
  }

  /**
   * The rows that are to be changed, locked in the order of ids: otherwise two processes could deadlock. Citus finds the
   * shard by the lists of ids.
   */
  #inOrder(columns: Columns, condition: string): string {
    const lists = columns.map(
      ([, type], n) => `${listParam(`$${n + 1}`)}${type === 'text' ? '' : `::${type}[]`}`,
    )
    const names = columns.map(([name]) => name).join(', ')
    return (
      `from (select u.* from unnest(${lists.join(', ')}) as u (${names}) join ${this.#table} as s on s.id = u.id` +
      ` where s.id = any(${ids}) and ${condition} order by s.id for update of s) as u where t.id = u.id and t.id = any(${ids})`
    )
  }
}
