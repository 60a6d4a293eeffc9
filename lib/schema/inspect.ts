// Reads the catalog: what is there, what is missing, and what keeps the table from being used.
import type { Connection } from '../postgres/connection.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { hashedMark, psqlCommand, qualifiedName, quote } from './table.js'

export interface TableState {
  server: number
  role: string
  exists: boolean
  schemaExists: boolean
  columns: { name: string; type: string; needed: boolean }[]
  missingRights: string[]
  unique: boolean
  idsHashed: boolean
  hashedLongAgo: boolean
  triggers: number
  triggersEnabled: number
  distributed: boolean
  userIndex: boolean
  small: boolean
  ordinary: boolean
}

/** How long after the last raw row was turned another process may still write one: a rolling deployment. */
const rawIdGracePeriod = `interval '1 day'`

/** A bigger table isn't rewritten, or indexed, while requests wait. */
const maxRewriteBytes = 256 * 1024 * 1024

/** Those that go together are used together: a table that somebody has made may lack one. */
export function usableColumns(found: TableState): Set<string> {
  const columns = new Set(found.columns.map((column) => column.name))
  const together = ['created_at', 'last_access', 'version']
  if (!together.every((name) => columns.has(name))) for (const name of together.slice(1)) columns.delete(name)
  return columns
}

export const upgradedColumns = ['user_id', 'created_at', 'last_access', 'version']

export function commentOnId(relation: string): string {
  return `pg_catalog.col_description(${relation}, (select attnum::int from pg_attribute where attrelid = ${relation} and attname = 'id'))`
}

export function isSmall(relation: string): string {
  return `pg_table_size(${relation}) < ${maxRewriteBytes}`
}

export function userIndex(relation: string): string {
  return `exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = ${relation} and i.indisvalid and a.attname = 'user_id')`
}

/** By `pg_class`, as `to_regclass` alone knows of a table whose columns this statement can't see yet. */
export async function inspect(connection: Connection, settings: Settings): Promise<TableState> {
  const { schema } = settings
  const [row] = await connection.query(
    `select pg_catalog.json_build_object(
      'server', current_setting('server_version_num')::int,
      'role', current_user,
      'schemaExists', exists (select from pg_namespace where nspname = $2::text),
      'exists', t.oid is not null,
      'columns', (
        select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
          'name', attname, 'type', pg_catalog.format_type(atttypid, null::int), 'needed', attnotnull and not atthasdef and attidentity = ''
        ) order by attnum), '[]') from pg_attribute where attrelid = t.oid and attnum > 0 and not attisdropped),
      'missingRights', (
        select coalesce(pg_catalog.json_agg(p), '[]') from pg_catalog.unnest(array['select', 'insert', 'update', 'delete']) p
        where t.oid is not null and not has_table_privilege(t.oid, p)),
      'unique', exists (
        select from pg_index i join pg_attribute a on a.attrelid = t.oid and a.attname = 'id'
        where i.indrelid = t.oid and i.indisunique and i.indisvalid and i.indpred is null
          and i.indnkeyatts = 1 and i.indkey[0] = a.attnum),
      'idsHashed', coalesce(c.comment like '${hashedMark}%', false),
      'hashedLongAgo', coalesce(substring(c.comment from 'since (\\S+)$')::timestamptz < now() - ${rawIdGracePeriod}, true),
      'triggers', (select count(*) from pg_trigger where tgrelid = t.oid and tgname like 'koa\\_pg\\_store\\_%'),
      'triggersEnabled', (select count(*) from pg_trigger where tgrelid = t.oid and tgname like 'koa\\_pg\\_store\\_%'
        and tgenabled in ('O', 'A')),
      'distributed', exists (select from pg_extension where extname = 'citus'),
      'userIndex', ${userIndex('t.oid')},
      'small', coalesce(${isSmall('t.oid')}, true),
      'ordinary', exists (select from pg_class c join pg_am a on a.oid = c.relam
        where c.oid = t.oid and c.relkind = 'r' and not c.relhassubclass and a.amname = 'heap')
    )::text as found
    from (select (select oid from pg_class where oid = to_regclass($1::text)) as oid) t
    cross join lateral (select ${commentOnId('t.oid')} as comment) c`,
    [qualifiedName(settings), schema],
  )
  return JSON.parse(row?.found as string) as TableState
}

/** What an upgrade would add. */
export function missing(found: TableState, settings: Settings): string[] {
  if (!found.exists) return ['the table']
  const names = found.columns.map((column) => column.name)
  const lacking = upgradedColumns.filter((name) => !names.includes(name))
  if (expiryType(found) === 'timestamp without time zone') lacking.push('timestamptz for expiry')
  if (!settings.hashIds && found.idsHashed) lacking.push('the comment that its ids are raw')
  return lacking
}

function expiryType(found: TableState): string | undefined {
  return found.columns.find((column) => column.name === 'expiry')?.type
}

/** Keeps hands off the table of another program: connect-pg-simple's has the same name. */
export function assertCompatible({ columns }: TableState, name: string): void {
  const there = columns.map((column) => column.name)
  const absent = ['id', 'expiry', 'session'].filter((column) => !there.includes(column))
  if (absent.length > 0)
    throw new SetupError(
      `${name} can't be used: it lacks ${absent.join(', ')} (it has ${there.join(', ')}). If it is another program's` +
        ` table, choose another name by the option "table"`,
    )
}

/** What keeps the table from being used, each with what to do. */
export function problems(found: TableState, settings: Settings): string[] {
  if (!found.schemaExists)
    return [`schema ${quote(settings.schema)} is missing: run ${psqlCommand('001-schema', settings)}`]
  if (!found.exists)
    return [`it doesn't exist: run ${psqlCommand('002-table', settings)}, or use create: true`]
  const types = new Map(found.columns.map((column) => [column.name, column.type]))
  const list: string[] = []
  const type = (name: string, right: string[]): void => {
    const is = types.get(name) ?? ''
    if (!right.includes(is)) list.push(`column ${name} is ${is}, and must be ${right.join(' or ')}`)
  }
  type('id', ['text', 'character varying'])
  type('expiry', ['timestamp with time zone', 'timestamp without time zone'])
  type('session', ['json', 'jsonb'])
  if (types.has('version')) type('version', ['bigint'])
  if (types.has('user_id')) type('user_id', ['text', 'character varying'])
  for (const name of ['created_at', 'last_access'])
    if (types.has(name)) type(name, ['timestamp with time zone'])
  if (!found.unique)
    list.push(`id isn't unique: run alter table ${qualifiedName(settings)} add primary key (id)`)
  const known = ['id', 'expiry', 'session', ...upgradedColumns]
  for (const { name, needed } of found.columns)
    if (needed && !known.includes(name)) list.push(`column ${name} must have a default or allow null`)
  if (settings.maxLifetime !== undefined && !types.has('created_at'))
    list.push(
      `maxLifetime needs the column created_at: run ${psqlCommand('003-columns', settings)}, or use create: true`,
    )
  if (settings.idleTimeout !== undefined && !types.has('last_access'))
    list.push(
      `idleTimeout needs the column last_access: run ${psqlCommand('003-columns', settings)}, or use create: true`,
    )
  if (settings.maxSessionsPerUser !== undefined && !(types.has('user_id') && types.has('last_access')))
    list.push(
      `maxSessionsPerUser needs the columns user_id and last_access: run ${psqlCommand('003-columns', settings)}, or use create: true`,
    )
  if (found.missingRights.length > 0)
    list.push(
      `run grant ${found.missingRights.join(', ')} on ${qualifiedName(settings)} to ${quote(found.role)}`,
    )
  return list
}

/** What PostgreSQL said, and what to do about it. */
export function hint(error: unknown, settings: Settings): string {
  const advice: Record<string, string> = {
    '28P01': 'check user and password of the connection',
    '28000': 'check user and password of the connection, and pg_hba.conf',
    '3D000': 'create the database, or name another in the connection',
    '42501': `run as the owner: ${psqlCommand('001-schema', settings)} (if the schema is missing), ${psqlCommand('002-table', settings)}, or for a table of koa-pg-session ${psqlCommand('003-columns', settings)}, and grant select, insert, update, delete on it`,
    '55P03': 'another session holds a lock on the table; it will be tried again',
    ECONNREFUSED: 'is PostgreSQL running, and are host and port right?',
    ENOTFOUND: 'check the host of the connection',
    ENOENT: 'check the path of the unix socket',
  }
  const code = codeOf(error) ?? (error instanceof AggregateError ? codeOf(error.errors[0]) : undefined)
  const what = code === undefined ? undefined : advice[code]
  return what === undefined ? messageOf(error) : `${messageOf(error)}: ${what}`
}
