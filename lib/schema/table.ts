// What the store knows of its table; the names of what belongs to it, and quoting.
import { hash } from 'node:crypto'
import type { Settings } from '../types/settings.js'
import { sql } from './sql.js'

/** What the store has to know of its table. */
export interface Table {
  /** Schema and table, quoted. */
  readonly name: string
  readonly columns: ReadonlySet<string>
  /** There may be rows with raw ids although `hashIds` is on: koa-pg-session wrote them. */
  readonly hasRawIds: boolean
  /** Changes made outside the store send notifications. */
  readonly hasTriggers: boolean
  /** Citus distributes the rows over several servers. */
  readonly isDistributed: boolean
  /** Changes may be committed asynchronously and flushed afterwards; see repository/flush-sql.ts. */
  readonly canFlush: boolean
  /** The index on user_id is missing, and the table is too large to create it during setup. */
  readonly lacksUserIndex: boolean
  /** Rows can be found by their page: it is an ordinary table, on PostgreSQL 14 or newer. */
  readonly hasPages: boolean
  /** It could not be upgraded because another connection holds a lock on it. */
  readonly isLocked: boolean
}

/** The comment on the column `id` begins with this if all ids are digests. */
export const hashedIdComment = 'SHA-256 of the session id'

/** The comment on the column `id` if ids are raw. */
export const rawIdComment = 'session id'

/** Returns the command that runs a file of sql/, for messages. */
export function psqlCommand(file: keyof typeof sql, settings: Settings): string {
  const used = Object.entries(variables(settings)).filter(([name]) =>
    new RegExp(`:['"]${name}['"]`).test(sql[file]),
  )
  const flags = used.map(
    ([name, value]) => `-v ${name}=${/^\w+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`}`,
  )
  return `psql ${flags.join(' ')} -f node_modules/koa-pg-store/sql/${file}.sql`
}

/** The values of the psql variables in the files of sql/. */
export function variables(settings: Settings): Record<string, string> {
  const { schema, table, hashIds } = settings
  return {
    schema,
    table,
    ids: hashIds ? hashedIdComment : rawIdComment,
    function: functionOf(settings),
    index: userIndexOf(settings),
  }
}

/** Schema and name of the index on user_id, quoted. */
export function userIndexName(settings: Settings): string {
  return qualifiedName({ schema: settings.schema, table: userIndexOf(settings) })
}

function userIndexOf({ table }: Settings): string {
  return Buffer.byteLength(table) <= 50
    ? `${table}_user_id`
    : `koa_pg_store_${hash('sha256', table).slice(0, 16)}_user_id`
}

/** The name of the table's trigger function. */
export function functionOf({ table }: Settings): string {
  return Buffer.byteLength(table) <= 40
    ? `koa_pg_store_${table}`
    : `koa_pg_store_${hash('sha256', table).slice(0, 16)}`
}

/** Replaces variables as psql does: :"name" by an identifier, :'name' by a string literal. */
export function substituteVariables(text: string, values: Record<string, string>): string {
  return text.replace(/:(["'])(\w+)\1/g, (match, quotes: string, name: string) => {
    const value = values[name]
    if (value === undefined) return match
    return quotes === '"' ? quote(value) : literal(value)
  })
}

/** Returns schema and table, quoted. */
export function qualifiedName({ schema, table }: { schema: string; table: string }): string {
  return `${quote(schema)}.${quote(table)}`
}

export function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`
}

export function literal(text: string): string {
  // Independent of the setting standard_conforming_strings.
  return text.includes('\\')
    ? `e'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
    : `'${text.replaceAll("'", "''")}'`
}

/**
 * The id of the row that records the last sweep: in the table, as a role may be allowed to write nowhere else. It has the form
 * of a digest, so that no cookie opens it, and the row expired at '-infinity', so that it is no session by any clock.
 */
export const sweepRecordId = `sha256:${'koa-pg-store-sweep'.padEnd(43, '_')}`

/** SQL that returns how long ago the last sweep ended, in ms, and its result as JSON; no row if there was none. */
export function lastSweepSql(name: string): string {
  return (
    `select extract(epoch from now())::float8 * 1000 - (session->>'at')::float8 as ago, session->>'result' as result` +
    ` from ${name} where id = '${sweepRecordId}'`
  )
}
