// The table: what the store knows of it, its names, and quoting.
import { hash } from 'node:crypto'
import type { Settings } from '../types/settings.js'
import { sql } from './sql.js'

/** What the rest of the store has to know of the table. */
export interface Table {
  /** Schema and name, quoted. */
  readonly name: string
  readonly columns: ReadonlySet<string>
  /** Rows under raw ids may be there, though ids are to be hashed: they came from older software. */
  readonly hasRawIds: boolean
  /** Changes made past the store are notified. */
  readonly hasTriggers: boolean
  /** Citus has spread the rows over other servers. */
  readonly isDistributed: boolean
  /** A user's sessions could be found faster, and the index for that can't be made at once: the table is big. */
  readonly lacksUserIndex: boolean
  /** Its rows can be found by the page that they are on: an ordinary table, on PostgreSQL 14 or newer. */
  readonly hasPages: boolean
  /** It would have been upgraded, but for somebody's lock. */
  readonly isLocked: boolean
}

/** What the comment on the column `id` begins with, once nothing but digests is there. */
export const hashedMark = 'SHA-256 of the session id'

export const rawMark = 'session id'

export function psqlCommand(file: keyof typeof sql, settings: Settings): string {
  const used = Object.entries(variables(settings)).filter(([name]) =>
    new RegExp(`:['"]${name}['"]`).test(sql[file]),
  )
  const given = used.map(
    ([name, value]) => `-v ${name}=${/^\w+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`}`,
  )
  return `psql ${given.join(' ')} -f node_modules/koa-pg-store/sql/${file}.sql`
}

/** What the files of sql/ have to be told. */
export function variables(settings: Settings): Record<string, string> {
  const { schema, table, hashIds } = settings
  return {
    schema,
    table,
    ids: hashIds ? hashedMark : rawMark,
    function: functionOf(settings),
    index: userIndexOf(settings),
  }
}

/** The name of the table's index of users, with its schema, quoted. */
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

/** Fills in a file's variables as psql does: :"name" an identifier, :'name' a string. */
export function substituteVariables(text: string, values: Record<string, string>): string {
  return text.replace(/:(["'])(\w+)\1/g, (all, mark: string, name: string) => {
    const value = values[name]
    if (value === undefined) return all
    return mark === '"' ? quote(value) : literal(value)
  })
}

/** Schema and table, quoted. */
export function qualifiedName({ schema, table }: { schema: string; table: string }): string {
  return `${quote(schema)}.${quote(table)}`
}

export function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`
}

export function literal(text: string): string {
  // Holds whatever standard_conforming_strings says.
  return text.includes('\\')
    ? `e'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
    : `'${text.replaceAll("'", "''")}'`
}

/**
 * The row that notes the last sweep. It has the form of a digest, so that no session id can be presented for it, and counts
 * as a session that has expired.
 */
export const sweepRecordId = `sha256:${'koa-pg-store-sweep'.padEnd(43, '_')}`
