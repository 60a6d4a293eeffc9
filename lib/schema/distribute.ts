// Distributes the table over the workers of a Citus cluster, with sql/009-distribute.sql.
import type { Connection } from '../postgres/connection.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { inspect } from './inspect.js'
import { ownPathSql } from './migrate.js'
import { sql } from './sql.js'
import { hashedIdComment, qualifiedName, substituteVariables, variables } from './table.js'

/** Copying all sessions may take an hour. */
const timeoutMs = 3_600_000

/**
 * Does nothing if the table is distributed already. Requests for sessions wait until it is done; running stores then set
 * themselves up again.
 *
 * @throws {SetupError} if the table can't be distributed.
 */
export async function distribute(connection: Connection, settings: Settings): Promise<void> {
  const name = qualifiedName(settings)
  const state = await inspect(connection, settings)
  if (state.isDistributed) return
  if (!state.hasCitus)
    throw new SetupError(
      'the database has no extension citus: run create extension citus on all nodes, and add the workers with citus_add_node()',
    )
  if (settings.hashIds && !state.hasHashedIds)
    throw new SetupError(
      `${name} may hold raw session ids, which can't be replaced by digests once it is distributed: run koa-pg-store migrate --to-hashed-ids first; for stores with hashIds: false, add --raw-ids; if it holds none, run comment on column ${name}.id is '${hashedIdComment}'`,
    )
  // plpgsql discards a result only with `perform`.
  const statements = substituteVariables(sql['009-distribute'], variables(settings))
    .replace(/^--.*\n/gm, '')
    .replace(/^select /gm, 'perform ')
  await connection.query(
    `do $distribute$ begin
      perform ${ownPathSql};
      perform pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext('setup'));
      ${statements}
    end $distribute$`,
    [],
    timeoutMs,
  )
}
