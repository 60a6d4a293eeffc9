// Reads the table's state from the catalog: what it has, what an upgrade would add, and what makes it unusable.
import { unreachableCode } from '../postgres/circuit-breaker.js'
import type { Connection } from '../postgres/connection.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { type Distribution, inspectDistribution, notDistributed } from './citus.js'
import {
  hashedIdComment,
  literal,
  psqlCommand,
  qualifiedName,
  quote,
  rawIdComment,
  replacedIdComment,
} from './table.js'

export interface TableState extends Distribution {
  hasCitus: boolean
  serverVersion: number
  encoding: string
  emitMessage: { signature: string; isAllowed: boolean } | null
  role: string
  schemaExists: boolean
  exists: boolean
  columns: { name: string; type: string; maxLength: number | null; isRequired: boolean }[]
  missingRights: string[]
  hasUniqueId: boolean
  /** The comment on the column `id` says that all ids are digests. */
  hasHashedIds: boolean
  /** A store with `hashIds: false` has recorded that it uses the table. */
  hasDeclaredRawIds: boolean
  /** It is recorded that no process needs raw ids any more. */
  replacesRawIds: boolean
  hasIdComment: boolean
  /** koa-pg-session can insert into it: `version`, which it doesn't set, has a default or isn't there. */
  suitsOldSoftware: boolean
  /** The last raw id was hashed so long ago that no process of an earlier deployment is still running. */
  wasHashedLongAgo: boolean
  triggers: number
  enabledTriggers: number
  hasUserIndex: boolean
  isSmall: boolean
  /** Neither partitioned nor inherited from, and stored by PostgreSQL's default access method. */
  isOrdinary: boolean
}

/** For this long after the last raw id was hashed, another process may still write one: during a rolling deployment. */
const rawIdGracePeriod = `interval '1 day'`

/** A larger table isn't rewritten or indexed during setup, as requests wait for that. */
const maxRewriteBytes = 256 * 1024 * 1024

/** The length of a digest with its prefix; the ids of the middlewares are of about this length, too. */
const storedIdLength = 50

/** The columns that a table of koa-pg-session lacks. */
export const upgradedColumns = ['user_id', 'created_at', 'last_access', 'version']

/** Returns SQL for the comment on the column `id`. */
export function idCommentSql(relation: string): string {
  return `pg_catalog.col_description(${relation}, (select attnum::int from pg_attribute where attrelid = ${relation} and attname = 'id'))`
}

/** Returns a condition in SQL: the table is small enough to be rewritten or indexed during setup. */
export function isSmallSql(relation: string): string {
  return `pg_table_size(${relation}) < ${maxRewriteBytes}`
}

/** Returns a condition in SQL: the table has a valid index that begins with `user_id`. */
export function hasUserIndexSql(relation: string): string {
  return `exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = ${relation} and i.indisvalid and a.attname = 'user_id')`
}

/**
 * Looks the table up in `pg_class`: `to_regclass` alone would find a table that was created after this statement's snapshot,
 * whose columns it can't see.
 */
export async function inspect(connection: Connection, settings: Settings): Promise<TableState> {
  const { schema } = settings
  const [row] = await connection.query(
    `select pg_catalog.json_build_object(
      'serverVersion', current_setting('server_version_num')::int,
      'encoding', getdatabaseencoding(),
      'emitMessage', (select json_build_object('signature', oid::regprocedure::text, 'isAllowed', has_function_privilege(oid, 'execute'))
        from pg_proc where proname = 'pg_logical_emit_message' and pronamespace = 'pg_catalog'::regnamespace and proargtypes[2] = 'pg_catalog.text'::regtype),
      'role', current_user,
      'schemaExists', exists (select from pg_namespace where nspname = $2::text),
      'exists', t.oid is not null,
      'columns', (
        select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
          'name', attname, 'type', case when y.typnamespace = 'pg_catalog'::regnamespace
            then replace(format_type(y.oid, null::int), 'pg_catalog.', '') else y.typnamespace::regnamespace || '.' || y.typname end,
          'maxLength', case when atttypid = 'varchar'::regtype and atttypmod > 4 then atttypmod - 4 end, 'isRequired', attnotnull and not atthasdef and attidentity = ''
        ) order by attnum), '[]') from pg_attribute join pg_type y on y.oid = atttypid where attrelid = t.oid and attnum > 0 and not attisdropped),
      'missingRights', (
        select coalesce(pg_catalog.json_agg(p), '[]') from pg_catalog.unnest(array['select', 'insert', 'update', 'delete']) p
        where t.oid is not null and not has_table_privilege(t.oid, p)),
      'hasUniqueId', exists (
        select from pg_index i join pg_attribute a on a.attrelid = t.oid and a.attname = 'id'
        where i.indrelid = t.oid and i.indisunique and i.indisvalid and i.indpred is null
          and i.indnkeyatts = 1 and i.indkey[0] = a.attnum),
      'hasHashedIds', coalesce(c.comment like '${hashedIdComment}%', false),
      'hasDeclaredRawIds', coalesce(c.comment = '${rawIdComment}', false),
      'replacesRawIds', coalesce(c.comment = '${replacedIdComment}', false),
      'hasIdComment', c.comment is not null,
      'suitsOldSoftware', not exists (select from pg_attribute where attrelid = t.oid and attname = 'version' and attnotnull and not atthasdef),
      'wasHashedLongAgo', coalesce(substring(c.comment from 'since (\\S+)$')::timestamptz < now() - ${rawIdGracePeriod}, true),
      'triggers', (select count(*) from pg_trigger where tgrelid = t.oid and tgname like 'koa\\_pg\\_store\\_%'),
      'enabledTriggers', (select count(*) from pg_trigger where tgrelid = t.oid and tgname like 'koa\\_pg\\_store\\_%'
        and tgenabled in ('O', 'A')),
      'hasCitus', exists (select from pg_extension where extname = 'citus'),
      'hasUserIndex', ${hasUserIndexSql('t.oid')},
      'isSmall', coalesce(${isSmallSql('t.oid')}, true),
      'isOrdinary', exists (select from pg_class c join pg_am a on a.oid = c.relam
        where c.oid = t.oid and c.relkind = 'r' and not c.relhassubclass and a.amname = 'heap')
    )::text as state
    from (select (select oid from pg_class where oid = to_regclass($1::text)) as oid) t
    cross join lateral (select ${idCommentSql('t.oid')} as comment) c`,
    [qualifiedName(settings), schema],
  )
  const state = JSON.parse(row?.state as string) as Omit<TableState, keyof Distribution>
  const distribution = state.hasCitus
    ? await inspectDistribution(connection, qualifiedName(settings))
    : notDistributed
  return { ...state, ...distribution }
}

/**
 * Returns the columns that the store can use. `last_access` and `version` are only used together, and with `created_at`: a
 * table that was not made by this package may lack one of them.
 */
export function usableColumns(state: TableState): Set<string> {
  const columns = new Set(state.columns.map((column) => column.name))
  const together = ['created_at', 'last_access', 'version']
  if (!together.every((name) => columns.has(name))) for (const name of together.slice(1)) columns.delete(name)
  return columns
}

/** Returns what an upgrade would add. */
export function missing(state: TableState): string[] {
  if (!state.exists) return ['the table']
  const names = state.columns.map((column) => column.name)
  const list = upgradedColumns.filter((name) => !names.includes(name))
  const expiry = state.columns.find((column) => column.name === 'expiry')
  if (expiry?.type === 'timestamp without time zone') list.push('timestamptz for expiry')
  return list
}

/** Refuses the table of another program before an upgrade changes it: connect-pg-simple's has the same name. */
export function assertCompatible({ columns }: TableState, name: string): void {
  const names = columns.map((column) => column.name)
  const absent = ['id', 'expiry', 'session'].filter((column) => !names.includes(column))
  if (absent.length > 0)
    throw new SetupError(
      `${name} can't be used: it lacks ${absent.join(', ')} (it has ${names.join(', ')}). If it is another program's` +
        ` table, choose another name with the option "table"`,
    )
}

/** Returns what makes the table unusable, each with what to do about it. */
export function problems(state: TableState, settings: Settings): string[] {
  if (!state.schemaExists)
    return [`schema ${quote(settings.schema)} is missing: run ${psqlCommand('001-schema', settings)}`]
  if (!state.exists)
    return [`it doesn't exist: run ${psqlCommand('002-table', settings)}, or use create: true`]
  const types = new Map(state.columns.map((column) => [column.name, column.type]))
  const list: string[] = []
  const checkType = (name: string, allowed: string[]): void => {
    const actual = types.get(name) ?? ''
    if (!allowed.includes(actual))
      list.push(`column ${name} is ${actual}, and must be ${allowed.join(' or ')}`)
  }
  checkType('id', ['text', 'character varying'])
  const maxLength = state.columns.find(({ name }) => name === 'id')?.maxLength ?? Number.POSITIVE_INFINITY
  if (maxLength < storedIdLength)
    list.push(
      `column id holds ${maxLength} characters, and must hold ${storedIdLength}: run alter table ${qualifiedName(settings)} alter column id type text`,
    )
  checkType('expiry', ['timestamp with time zone', 'timestamp without time zone'])
  checkType('session', ['json', 'jsonb'])
  if (types.has('version')) checkType('version', ['bigint'])
  if (types.has('user_id')) checkType('user_id', ['text', 'character varying'])
  for (const name of ['created_at', 'last_access'])
    if (types.has(name)) checkType(name, ['timestamp with time zone'])
  if (!state.hasUniqueId)
    list.push(`id isn't unique: run alter table ${qualifiedName(settings)} add primary key (id)`)
  const ownColumns = ['id', 'expiry', 'session', ...upgradedColumns]
  for (const { name, isRequired } of state.columns)
    if (isRequired && !ownColumns.includes(name))
      list.push(`column ${name} must have a default or allow null`)
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
  if (state.isDistributed) list.push(...distributionProblems(state, settings, missing(state)))
  if (state.missingRights.length > 0)
    list.push(
      `run grant ${state.missingRights.join(', ')} on ${qualifiedName(settings)} to ${quote(state.role)}`,
    )
  return list
}

/** What is possible in a table of PostgreSQL's own, but not in one that Citus has distributed. */
function distributionProblems(state: TableState, settings: Settings, absent: string[]): string[] {
  const name = qualifiedName(settings)
  const list: string[] = []
  if (absent.length > 0)
    list.push(
      `Citus has distributed it, and it lacks ${absent.join(', ')}: run ${psqlCommand('003-columns', settings)} and, for expiry, ${psqlCommand('004-expiry', settings)}`,
    )
  if (settings.hashIds && !state.hasHashedIds)
    list.push(
      `Citus has distributed it by its ids, which can't be replaced by digests in place: set hashIds: false or, if no id in it is a raw one, run comment on column ${name}.id is ${literal(hashedIdComment)}`,
    )
  return list
}

/** Returns an error's message, followed by what to do about it. */
export function hint(error: unknown, settings: Settings): string {
  const advice: Record<string, string> = {
    '28P01': 'check user and password of the connection',
    '28000': 'check user and password of the connection, and pg_hba.conf',
    '3D000': 'create the database, or connect to another one',
    '42501': `run as the owner: ${psqlCommand('001-schema', settings)} (if the schema is missing), ${psqlCommand('002-table', settings)}, or for a table of koa-pg-session ${psqlCommand('003-columns', settings)}, and grant select, insert, update, delete on it`,
    '55P03': 'another connection holds a lock on the table; the store will try again',
    ECONNREFUSED: 'is PostgreSQL running, and are host and port right?',
    ENOTFOUND: 'check the host of the connection',
    ENOENT: 'check the path of the unix socket',
  }
  const cause = error instanceof Error && codeOf(error) === unreachableCode ? error.cause : error
  const code = codeOf(cause) ?? (cause instanceof AggregateError ? codeOf(cause.errors[0]) : undefined)
  const help = isStatementMode(error)
    ? "the connection goes through a pooler in statement mode, which isn't supported, as the store needs transactions: use PgBouncer's pool_mode = transaction or session"
    : code && advice[code]
  return help ? `${messageOf(error)}: ${help}` : messageOf(error)
}

function isStatementMode(error: unknown): boolean {
  return messageOf(error).includes('transaction blocks not allowed')
}
