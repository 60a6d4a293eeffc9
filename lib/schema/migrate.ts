// Applies sql/ under an advisory lock, and says what the table can do.
import type { Connection } from '../postgres/connection.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { codeOf, redact } from '../util/driver-errors.js'
import {
  assertCompatible,
  commentOnId,
  hint,
  inspect,
  isSmall,
  missing,
  problems,
  upgradedColumns,
  usableColumns,
  userIndex,
} from './inspect.js'
import { sql } from './sql.js'
import {
  functionOf,
  hashedMark,
  literal,
  psqlCommand,
  qualifiedName,
  quote,
  rawMark,
  substituteVariables,
  type Table,
  variables,
} from './table.js'

const minServerVersion = 130_000

const setupTimeoutMs = 60_000

/** PostgreSQL's codes for: no such right, no lock in time. */
const refusalCodes = new Set(['42501', '55P03'])

/** How many triggers sql/006-notify.sql makes. */
const triggerCount = 4

/**
 * Makes the table ready: creates or upgrades what is missing if `create` says so, then checks. Throws a `SetupError` that
 * says what to run. What couldn't be upgraded but can be used is used as it is, and told to `warn`.
 */
export async function ensureTable(
  connection: Connection,
  settings: Settings,
  warn: (error: Error) => void,
): Promise<Table> {
  const name = qualifiedName(settings)
  try {
    let found = await inspect(connection, settings)
    if (found.server < minServerVersion)
      throw new SetupError(
        `PostgreSQL is version ${Math.floor(found.server / 10_000)}; koa-pg-store needs 13 or newer`,
      )
    if (found.exists) assertCompatible(found, name)
    let refusal: unknown
    const lacksIndex = !found.userIndex && found.small
    if (
      settings.create &&
      (missing(found, settings).length > 0 || found.triggers < triggerCount || lacksIndex)
    ) {
      refusal = await connection.query(upgradeStatement(settings), [], setupTimeoutMs).then(
        () => undefined,
        (error) => error,
      )
      found = await inspect(connection, settings)
    }
    const wrong = problems(found, settings)
    // Without the right or the lock that an upgrade needs, it isn't the table that is wrong.
    if (wrong.length > 0 && refusalCodes.has(codeOf(refusal) ?? '')) throw refusal
    if (wrong.length > 0) throw new SetupError(`${name} can't be used: ${wrong.join('; ')}`)
    const lacking = settings.create ? missing(found, settings) : []
    if (lacking.length > 0) {
      const why =
        refusal === undefined
          ? `at a quiet time, run ${psqlCommand('004-expiry', settings)}`
          : hint(refusal, settings)
      warn(new SetupError(`${name} is used as it is, without ${lacking.join(', ')}: ${why}`))
    }
    return {
      name,
      columns: usableColumns(found),
      hasRawIds: settings.hashIds && !(found.idsHashed && found.hashedLongAgo),
      hasTriggers: found.triggersEnabled === triggerCount,
      isDistributed: found.distributed,
      lacksUserIndex: settings.create && !found.userIndex && !found.small,
      hasPages: found.ordinary && !found.distributed && found.server >= 140_000,
      isLocked: codeOf(refusal) === '55P03',
    }
  } catch (error) {
    if (error instanceof SetupError) throw error
    throw new SetupError(`can't set up ${name}: ${hint(error, settings)}`, { cause: redact(error) })
  }
}

/** Notes at the table that it holds digests alone, so that the stores of tomorrow needn't look for raw ids. */
export async function recordHashed(connection: Connection, settings: Settings): Promise<void> {
  const [row] = await connection.query(
    `select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as now`,
  )
  const comment = literal(`${hashedMark}, and of no other since ${row?.now}`)
  await connection.query(`comment on column ${qualifiedName(settings)}.id is ${comment}`)
}

/** One statement, so that it is atomic over any kind of connection: the files of sql/ that are needed. */
export function upgradeStatement(settings: Settings): string {
  const { schema, hashIds } = settings
  const relation = `to_regclass(${literal(qualifiedName(settings))})`
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
    ([file, condition]) =>
      `if ${condition} then ${substituteVariables(sql[file], variables(settings))} end if;`,
  )
  // What a view, a right or the kind of the table forbids is done without; \`stats()\` tells whether there are triggers.
  const forbidden =
    'insufficient_privilege or feature_not_supported or wrong_object_type or dependent_objects_still_exist'
  const optional = (condition: string, file: keyof typeof sql): string =>
    `if ${condition} then begin ${substituteVariables(sql[file], variables(settings))} exception when ${forbidden} then null; end; end if;`
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
      comment on column ${qualifiedName(settings)}.id is ${literal(rawMark)}; end if;`)
  let tag = '$do$'
  while (body.some((step) => step.includes(tag))) tag = tag.replace('d', 'dd')
  return `do ${tag} begin
    perform set_config('lock_timeout', '2s', true);
    perform pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext('setup'));
    ${body.join('\n')}
  end ${tag}`
}
