// Creates or upgrades the table with the files of sql/, and checks that it can be used.
import type { Connection } from '../postgres/connection.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { codeOf, redact } from '../util/driver-errors.js'
import {
  assertCompatible,
  hasUserIndexSql,
  hint,
  idCommentSql,
  inspect,
  isSmallSql,
  missing,
  problems,
  type TableState,
  upgradedColumns,
  usableColumns,
} from './inspect.js'
import { sql } from './sql.js'
import {
  functionOf,
  hashedIdComment,
  literal,
  psqlCommand,
  qualifiedName,
  quote,
  rawIdComment,
  replacedIdComment,
  substituteVariables,
  type Table,
  variables,
} from './table.js'

const minServerVersion = 130_000

const setupTimeoutMs = 60_000

/** PostgreSQL's codes for a lock that wasn't granted within lock_timeout, and for a deadlock. */
const lockCodes = new Set(['55P03', '40P01'])

/** The same, and insufficient privilege. */
const refusalCodes = new Set([...lockCodes, '42501'])

/** The number of triggers that sql/006-notify.sql creates. */
const expectedTriggers = 4

/** What it means that `pg_logical_emit_message` can't be called, and what to run. */
export function slowCommits({ emitMessage, role }: TableState): string {
  const remedy =
    emitMessage === null
      ? 'the server does not have it'
      : `run, in this database: grant execute on function ${emitMessage.signature} to ${quote(role)}`
  return (
    'changes of sessions are committed one at a time in the whole cluster, as pg_logical_emit_message() is not allowed:' +
    ` ${remedy}`
  )
}

/**
 * Makes sure that the table can be used: with `create`, creates or upgrades it, and then checks it. Rejects with a
 * `SetupError` that says what to run. If only the upgrade fails, the table is used as it is, and `warn` receives the reason.
 */
export async function ensureTable(
  connection: Connection,
  settings: Settings,
  warn: (error: Error) => void,
): Promise<Table> {
  const name = qualifiedName(settings)
  try {
    // A pooler in statement mode refuses it here, rather than later in a sweep or at a sign-in.
    if (connection.isTransactional) await connection.transaction(async () => undefined)
    let state = await inspect(connection, settings)
    if (state.serverVersion < minServerVersion)
      throw new SetupError(
        `PostgreSQL is version ${Math.floor(state.serverVersion / 10_000)}; koa-pg-store needs 13 or newer`,
      )
    // Its notifications would reach no other node of the cluster.
    if (state.isWorker)
      throw new SetupError('the server is a worker of a Citus cluster: connect to the coordinator instead')
    if (state.encoding !== 'UTF8')
      throw new SetupError(
        `the database has the encoding ${state.encoding}, and must have UTF8: run create database … encoding 'UTF8' template template0`,
      )
    if (state.exists) assertCompatible(state, name)
    let upgradeError: unknown
    if (settings.create && needsUpgrade(state, settings)) {
      upgradeError = await connection
        .query(upgradeStatement(settings, !state.isDistributed), [], setupTimeoutMs)
        .then(
          () => undefined,
          (error) => error,
        )
      state = await inspect(connection, settings)
    }
    const found = problems(state, settings)
    // If the upgrade lacked a right or a lock, that is the problem to report, not what it would have fixed.
    if (found.length > 0 && refusalCodes.has(codeOf(upgradeError) ?? '')) throw upgradeError
    if (found.length > 0) throw new SetupError(`${name} can't be used: ${found.join('; ')}`)
    const forms = idForms(state, settings)
    const notes: string[] = []
    const stillMissing = settings.create ? missing(state) : []
    if (stillMissing.length > 0) {
      const advice =
        upgradeError === undefined
          ? `at a quiet time, run ${psqlCommand('004-expiry', settings)}`
          : hint(upgradeError, settings)
      notes.push(`is used as it is, without ${stillMissing.join(', ')}: ${advice}`)
    }
    if (forms.keepsRawIds && settings.hashIds)
      notes.push(
        `keeps raw session ids, as koa-pg-session may still use it: when no process with koa-pg-session is left, run as the owner: ${toHashedIds(settings)}`,
      )
    if (state.isDistributed && forms.insertsRawIds && settings.hashIds)
      notes.push('keeps raw session ids, as Citus can’t replace them: use hashIds: false')
    if (notes.length > 0) warn(new SetupError(`${name} ${notes.join('; and ')}`))
    if (!settings.hashIds && state.hasHashedIds)
      warn(new SetupError(`${name} holds digests of session ids, so the option hashIds: false has no effect`))
    if (state.emitMessage?.isAllowed !== true) warn(new SetupError(slowCommits(state)))
    return {
      name,
      columns: usableColumns(state),
      ...forms,
      suitsOldSoftware: state.suitsOldSoftware,
      hasTriggers: state.enabledTriggers === expectedTriggers,
      isDistributed: state.isDistributed,
      ...(state.isDistributed && { shardStarts: state.shardStarts }),
      canFlush: state.emitMessage?.isAllowed === true && !state.isDistributed,
      lacksUserIndex: settings.create && !state.hasUserIndex && !state.isSmall,
      hasPages: state.isOrdinary && !state.isDistributed && state.serverVersion >= 140_000,
      isLocked: lockCodes.has(codeOf(upgradeError) ?? ''),
    }
  } catch (error) {
    if (error instanceof SetupError) throw error
    throw new SetupError(`can't set up ${name}: ${hint(error, settings)}`, { cause: redact(error) })
  }
}

/** Returns the command that replaces raw ids by digests, for messages. */
function toHashedIds({ schema, table }: Settings): string {
  const flag = (name: string, value: string, normal: string): string =>
    value === normal
      ? ''
      : ` --${name} ${/^\w+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`}`
  return `npx koa-pg-store migrate --to-hashed-ids${flag('schema', schema, 'public')}${flag('table', table, 'session')}`
}

type IdForms = Pick<Table, 'hasRawIds' | 'insertsRawIds' | 'keepsRawIds' | 'convertsRawIds' | 'hasHashedIds'>

/**
 * Returns which forms of ids the table has and gets. Raw ids are kept, for the processes that know no digests, until a store
 * with `hashIds: false` has recorded that it uses the table: from then on all processes find digests.
 */
function idForms(
  {
    hasHashedIds,
    hasDeclaredRawIds,
    replacesRawIds,
    suitsOldSoftware,
    wasHashedLongAgo,
    isDistributed,
  }: TableState,
  { hashIds, create }: Settings,
): IdForms {
  const isForDigests = hasHashedIds || replacesRawIds
  const keepsRawIds = !isForDigests && !hasDeclaredRawIds && suitsOldSoftware
  const insertsRawIds = !isForDigests && (!hashIds || keepsRawIds)
  const hasRawIds = !(hasHashedIds && wasHashedLongAgo)
  // Citus can't look for a row under two ids, nor replace the id of one: all ids stay in the form that the table has.
  if (isDistributed) {
    const isRaw = !hasHashedIds && (!hashIds || hasDeclaredRawIds || suitsOldSoftware)
    return { hasRawIds: false, insertsRawIds: isRaw, keepsRawIds: false, convertsRawIds: false, hasHashedIds }
  }
  return {
    hasRawIds,
    insertsRawIds,
    keepsRawIds,
    // A store with `hashIds: false` too, once that is recorded: it may have inserted raw ids in the meantime.
    convertsRawIds: hasRawIds && !insertsRawIds && (create || isForDigests),
    hasHashedIds,
  }
}

/** Resolves with the forms of ids that the table has now. */
export async function inspectIds(connection: Connection, settings: Settings): Promise<IdForms> {
  return idForms(await inspect(connection, settings), settings)
}

/** Runs sql/008-fillfactor.sql for the table, or for its partitions: a partitioned table has no storage parameters. */
function fillfactorSql(relation: string): string {
  const file = sql['008-fillfactor'].replace(':"part_schema".:"part"', '%s')
  return (
    `declare part pg_catalog.text; begin for part in with recursive tree as (select ${relation}::oid as oid` +
    ` union all select i.inhrelid from pg_inherits i join tree t on t.oid = i.inhparent)` +
    ` select t.oid::regclass from tree t join pg_class c on c.oid = t.oid where c.relkind = 'r' loop` +
    ` execute format(${literal(file)}, part); end loop; end;`
  )
}

function needsUpgrade(state: TableState, settings: Settings): boolean {
  return (
    missing(state).length > 0 ||
    (state.triggers < expectedTriggers && !state.isDistributed) ||
    (!state.hasUserIndex && state.isSmall) ||
    (!settings.hashIds && !state.hasIdComment)
  )
}

/** Records in a comment on the column `id` that all ids are digests: a day later, stores no longer look for raw ids. */
export async function recordHashed(connection: Connection, settings: Settings): Promise<void> {
  await connection.query(await hashedComment(connection, settings))
}

/** Resolves with the statement that records it. */
export async function hashedComment(connection: Connection, settings: Settings): Promise<string> {
  const [row] = await connection.query(
    `select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as now`,
  )
  const comment = literal(`${hashedIdComment}, and of no other since ${row?.now}`)
  return `comment on column ${qualifiedName(settings)}.id is ${comment}`
}

/** Records that no process needs raw ids any more: stores begin to replace them, and insert none from within a minute on. */
export async function recordReplacement(connection: Connection, settings: Settings): Promise<void> {
  await connection.query(`comment on column ${qualifiedName(settings)}.id is ${literal(replacedIdComment)}`)
}

/**
 * Keeps functions and operators of other roles from being used by what follows in the transaction: the files of sql/ aren't
 * qualified, so that they can be read.
 */
export const ownPathSql = `pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)`

/**
 * Returns one statement that runs those files of sql/ that the table needs, under an advisory lock. As it is one statement,
 * it is atomic on any kind of connection. Citus allows no triggers on a table that it has distributed.
 */
export function upgradeStatement(settings: Settings, withTriggers = true): string {
  const { schema, hashIds } = settings
  const relation = `to_regclass(${literal(qualifiedName(settings))})`
  const columnSql = (name: string): string =>
    `(select 1 from pg_attribute where attrelid = ${relation} and attname = '${name}')`
  const isUtc = `current_setting('TimeZone') in ('UTC', 'Etc/UTC', 'GMT', 'Etc/GMT')`
  const steps: [keyof typeof sql, string][] = [
    ['001-schema', `not exists (select from pg_namespace where nspname = ${literal(schema)})`],
    ['002-table', `${relation} is null`],
    ['003-columns', upgradedColumns.map((name) => `not exists ${columnSql(name)}`).join(' or ')],
  ]
  const triggers = `(select count(*) from pg_trigger where tgrelid = ${relation} and tgname like 'koa\\_pg\\_store\\_%')`
  const statements = steps.map(
    ([file, condition]) =>
      `if ${condition} then ${substituteVariables(sql[file], variables(settings))} ${file === '003-columns' ? fillfactorSql(relation) : ''} end if;`,
  )
  // The store works without these steps if a view, a missing right or the kind of the table forbids them. `stats()` returns
  // whether there are triggers.
  const forbidden =
    // The last is Citus's for a trigger on a table that it has distributed.
    'insufficient_privilege or feature_not_supported or wrong_object_type or dependent_objects_still_exist or internal_error'
  const optional = (condition: string, file: keyof typeof sql): string =>
    `if ${condition} then begin ${substituteVariables(sql[file], variables(settings))} exception when ${forbidden} then null; end; end if;`
  statements.push(
    optional(
      `(select atttypid = 'timestamp'::regtype from pg_attribute where attrelid = ${relation} and attname = 'expiry')` +
        ` and (${isUtc} or ${isSmallSql(relation)})`,
      '004-expiry',
    ),
    // Not if another role owns a function of that name: it could change what the trigger runs.
    optional(
      `${withTriggers} and ${triggers} < ${expectedTriggers} and not exists (select from pg_proc where proname = ${literal(functionOf(settings))}` +
        ` and pronamespace = ${literal(quote(schema))}::regnamespace and proowner <> current_user::regrole)`,
      '006-notify',
    ),
  )
  statements.push(optional(`not ${hasUserIndexSql(relation)} and ${isSmallSql(relation)}`, '007-users'))
  if (!hashIds)
    statements.push(`if ${idCommentSql(relation)} is null then
      comment on column ${qualifiedName(settings)}.id is ${literal(rawIdComment)}; end if;`)
  let tag = '$do$'
  while (statements.some((statement) => statement.includes(tag))) tag = tag.replace('d', 'dd')
  return `do ${tag} begin
    perform ${ownPathSql};
    perform set_config('lock_timeout', '2s', true);
    perform pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext('setup'));
    ${statements.join('\n')}
  end ${tag}`
}
