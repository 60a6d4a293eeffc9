// Applies sql/ under an advisory lock, and says what the table can do.
import { hash } from 'node:crypto'
import type { Connection } from '../postgres/connection.js'
import type { Settings } from '../stores/options.js'
import { codeOf, messageOf, SetupError, withoutSecrets } from '../types/errors.js'
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
  readonly distributed: boolean
  /** A user's sessions could be found faster, and the index for that can't be made at once: the table is big. */
  readonly lacksUserIndex: boolean
  /** Its rows can be found by the page that they are on: an ordinary table, on PostgreSQL 14 or newer. */
  readonly hasPages: boolean
  /** It would have been upgraded, but for somebody's lock. */
  readonly isLocked: boolean
}

interface Found {
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

const oldestServer = 130_000

/** What the comment on the column `id` begins with, once nothing but digests is there. */
const hashedMark = 'SHA-256 of the session id'
const rawMark = 'session id'

/** How long after the last raw row was turned another process may still write one: a rolling deployment. */
const hashedLately = `interval '1 day'`

/** A bigger table isn't rewritten, or indexed, while requests wait. */
const rewritable = 256 * 1024 * 1024

const setupMs = 60_000

/** PostgreSQL's codes for: no such right, no lock in time. */
const refusals = new Set(['42501', '55P03'])

/** How many triggers sql/006-notify.sql makes. */
const triggerCount = 4

/**
 * Makes the table ready: creates or upgrades what is missing if `create` says so, then checks. Throws a `SetupError` that
 * says what to run. What couldn't be upgraded but can be used is used as it is, and told to `warn`.
 */
export async function prepare(
  connection: Connection,
  settings: Settings,
  warn: (error: Error) => void,
): Promise<Table> {
  const name = qualified(settings)
  try {
    let found = await inspect(connection, settings)
    if (found.server < oldestServer)
      throw new SetupError(
        `PostgreSQL is version ${Math.floor(found.server / 10_000)}; koa-pg-store needs 13 or newer`,
      )
    if (found.exists) checkOurs(found, name)
    let refusal: unknown
    const lacksIndex = !found.userIndex && found.small
    if (
      settings.create &&
      (missing(found, settings).length > 0 || found.triggers < triggerCount || lacksIndex)
    ) {
      refusal = await connection.query(upgrade(settings), [], setupMs).then(
        () => undefined,
        (error) => error,
      )
      found = await inspect(connection, settings)
    }
    const wrong = problems(found, settings)
    // Without the right or the lock that an upgrade needs, it isn't the table that is wrong.
    if (wrong.length > 0 && refusals.has(codeOf(refusal) ?? '')) throw refusal
    if (wrong.length > 0) throw new SetupError(`${name} can't be used: ${wrong.join('; ')}`)
    const lacking = settings.create ? missing(found, settings) : []
    if (lacking.length > 0) {
      const why =
        refusal === undefined
          ? `at a quiet time, run ${psql('004-expiry', settings)}`
          : hint(refusal, settings)
      warn(new SetupError(`${name} is used as it is, without ${lacking.join(', ')}: ${why}`))
    }
    return {
      name,
      columns: usableColumns(found),
      hasRawIds: settings.hashIds && !(found.idsHashed && found.hashedLongAgo),
      hasTriggers: found.triggersEnabled === triggerCount,
      distributed: found.distributed,
      lacksUserIndex: settings.create && !found.userIndex && !found.small,
      hasPages: found.ordinary && !found.distributed && found.server >= 140_000,
      isLocked: codeOf(refusal) === '55P03',
    }
  } catch (error) {
    if (error instanceof SetupError) throw error
    throw new SetupError(`can't set up ${name}: ${hint(error, settings)}`, { cause: withoutSecrets(error) })
  }
}

/** Notes at the table that it holds digests alone, so that the stores of tomorrow needn't look for raw ids. */
export async function markHashed(connection: Connection, settings: Settings): Promise<void> {
  const [row] = await connection.query(
    `select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as now`,
  )
  const comment = literal(`${hashedMark}, and of no other since ${row?.now}`)
  await connection.query(`comment on column ${qualified(settings)}.id is ${comment}`)
}

/** One statement, so that it is atomic over any kind of connection: the files of sql/ that are needed. */
export function upgrade(settings: Settings): string {
  const { schema, hashIds } = settings
  const relation = `to_regclass(${literal(qualified(settings))})`
  const column = (name: string) =>
    `(select 1 from pg_attribute where attrelid = ${relation} and attname = '${name}')`
  const utc = `current_setting('TimeZone') in ('UTC', 'Etc/UTC', 'GMT', 'Etc/GMT')`
  const steps: [keyof typeof sql, string][] = [
    ['001-schema', `not exists (select from pg_namespace where nspname = ${literal(schema)})`],
    ['002-table', `${relation} is null`],
    ['003-columns', upgradedColumns.map((name) => `not exists ${column(name)}`).join(' or ')],
  ]
  const triggers = `(select count(*) from pg_trigger where tgrelid = ${relation} and tgname like 'koa\\_pg\\_store\\_%')`
  const body = steps.map(
    ([file, condition]) => `if ${condition} then ${fill(sql[file], variables(settings))} end if;`,
  )
  // What a view, a right or the kind of the table forbids is done without; \`stats()\` tells whether there are triggers.
  const forbidden =
    'insufficient_privilege or feature_not_supported or wrong_object_type or dependent_objects_still_exist'
  const optional = (condition: string, file: keyof typeof sql): string =>
    `if ${condition} then begin ${fill(sql[file], variables(settings))} exception when ${forbidden} then null; end; end if;`
  body.push(
    optional(
      `(select atttypid = 'timestamp'::regtype from pg_attribute where attrelid = ${relation} and attname = 'expiry')` +
        ` and (${utc} or ${isSmall(relation)})`,
      '004-expiry',
    ),
    // A function of that name which somebody else has made, and could change, isn't ours to run.
    optional(
      `${triggers} < ${triggerCount} and not exists (select from pg_proc where proname = ${literal(functionOf(settings))}` +
        ` and pronamespace = ${literal(quote(schema))}::regnamespace and proowner <> current_user::regrole)`,
      '006-notify',
    ),
  )
  body.push(optional(`not ${userIndex(relation)} and ${isSmall(relation)}`, '007-users'))
  if (!hashIds)
    body.push(`if ${commentOnId(relation)} like '${hashedMark}%' then
      comment on column ${qualified(settings)}.id is ${literal(rawMark)}; end if;`)
  let tag = '$do$'
  while (body.some((step) => step.includes(tag))) tag = tag.replace('d', 'dd')
  return `do ${tag} begin
    perform set_config('lock_timeout', '2s', true);
    perform pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext('setup'));
    ${body.join('\n')}
  end ${tag}`
}

/** Those that go together are used together: a table that somebody has made may lack one. */
function usableColumns(found: Found): Set<string> {
  const columns = new Set(found.columns.map((column) => column.name))
  const together = ['created_at', 'last_access', 'version']
  if (!together.every((name) => columns.has(name))) for (const name of together.slice(1)) columns.delete(name)
  return columns
}

const upgradedColumns = ['user_id', 'created_at', 'last_access', 'version']

function commentOnId(relation: string): string {
  return `pg_catalog.col_description(${relation}, (select attnum::int from pg_attribute where attrelid = ${relation} and attname = 'id'))`
}

function isSmall(relation: string): string {
  return `pg_table_size(${relation}) < ${rewritable}`
}

function userIndex(relation: string): string {
  return `exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indrelid = ${relation} and i.indisvalid and a.attname = 'user_id')`
}

/** By `pg_class`, as `to_regclass` alone knows of a table whose columns this statement can't see yet. */
async function inspect(connection: Connection, settings: Settings): Promise<Found> {
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
      'hashedLongAgo', coalesce(substring(c.comment from 'since (\\S+)$')::timestamptz < now() - ${hashedLately}, true),
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
    [qualified(settings), schema],
  )
  return JSON.parse(row?.found as string) as Found
}

/** What an upgrade would add. */
function missing(found: Found, settings: Settings): string[] {
  if (!found.exists) return ['the table']
  const names = found.columns.map((column) => column.name)
  const lacking = upgradedColumns.filter((name) => !names.includes(name))
  if (expiryType(found) === 'timestamp without time zone') lacking.push('timestamptz for expiry')
  if (!settings.hashIds && found.idsHashed) lacking.push('the comment that its ids are raw')
  return lacking
}

function expiryType(found: Found): string | undefined {
  return found.columns.find((column) => column.name === 'expiry')?.type
}

/** Keeps hands off the table of another program: connect-pg-simple's has the same name. */
function checkOurs({ columns }: Found, name: string): void {
  const there = columns.map((column) => column.name)
  const absent = ['id', 'expiry', 'session'].filter((column) => !there.includes(column))
  if (absent.length > 0)
    throw new SetupError(
      `${name} can't be used: it lacks ${absent.join(', ')} (it has ${there.join(', ')}). If it is another program's` +
        ` table, choose another name by the option "table"`,
    )
}

/** What keeps the table from being used, each with what to do. */
function problems(found: Found, settings: Settings): string[] {
  if (!found.schemaExists)
    return [`schema ${quote(settings.schema)} is missing: run ${psql('001-schema', settings)}`]
  if (!found.exists) return [`it doesn't exist: run ${psql('002-table', settings)}, or use create: true`]
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
  if (!found.unique) list.push(`id isn't unique: run alter table ${qualified(settings)} add primary key (id)`)
  const known = ['id', 'expiry', 'session', ...upgradedColumns]
  for (const { name, needed } of found.columns)
    if (needed && !known.includes(name)) list.push(`column ${name} must have a default or allow null`)
  if (settings.maxLifetime !== undefined && !types.has('created_at'))
    list.push(
      `maxLifetime needs the column created_at: run ${psql('003-columns', settings)}, or use create: true`,
    )
  if (settings.idleTimeout !== undefined && !types.has('last_access'))
    list.push(
      `idleTimeout needs the column last_access: run ${psql('003-columns', settings)}, or use create: true`,
    )
  if (settings.maxSessionsPerUser !== undefined && !(types.has('user_id') && types.has('last_access')))
    list.push(
      `maxSessionsPerUser needs the columns user_id and last_access: run ${psql('003-columns', settings)}, or use create: true`,
    )
  if (found.missingRights.length > 0)
    list.push(`run grant ${found.missingRights.join(', ')} on ${qualified(settings)} to ${quote(found.role)}`)
  return list
}

/** What PostgreSQL said, and what to do about it. */
function hint(error: unknown, settings: Settings): string {
  const advice: Record<string, string> = {
    '28P01': 'check user and password of the connection',
    '28000': 'check user and password of the connection, and pg_hba.conf',
    '3D000': 'create the database, or name another in the connection',
    '42501': `run as the owner: ${psql('001-schema', settings)} (if the schema is missing), ${psql('002-table', settings)}, or for a table of koa-pg-session ${psql('003-columns', settings)}, and grant select, insert, update, delete on it`,
    '55P03': 'another session holds a lock on the table; it will be tried again',
    ECONNREFUSED: 'is PostgreSQL running, and are host and port right?',
    ENOTFOUND: 'check the host of the connection',
    ENOENT: 'check the path of the unix socket',
  }
  const code = codeOf(error) ?? (error instanceof AggregateError ? codeOf(error.errors[0]) : undefined)
  const what = code === undefined ? undefined : advice[code]
  return what === undefined ? messageOf(error) : `${messageOf(error)}: ${what}`
}

export function psql(file: keyof typeof sql, settings: Settings): string {
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
  return qualified({ schema: settings.schema, table: userIndexOf(settings) })
}

function userIndexOf({ table }: Settings): string {
  return Buffer.byteLength(table) <= 50
    ? `${table}_user_id`
    : `koa_pg_store_${hash('sha256', table).slice(0, 16)}_user_id`
}

/** The name of the table's trigger function. */
function functionOf({ table }: Settings): string {
  return Buffer.byteLength(table) <= 40
    ? `koa_pg_store_${table}`
    : `koa_pg_store_${hash('sha256', table).slice(0, 16)}`
}

/** Fills in a file's variables as psql does: :"name" an identifier, :'name' a string. */
export function fill(text: string, values: Record<string, string>): string {
  return text.replace(/:(["'])(\w+)\1/g, (all, mark: string, name: string) => {
    const value = values[name]
    if (value === undefined) return all
    return mark === '"' ? quote(value) : literal(value)
  })
}

/** Schema and table, quoted. */
export function qualified({ schema, table }: { schema: string; table: string }): string {
  return `${quote(schema)}.${quote(table)}`
}

function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`
}

function literal(text: string): string {
  // Holds whatever standard_conforming_strings says.
  return text.includes('\\')
    ? `e'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
    : `'${text.replaceAll("'", "''")}'`
}
