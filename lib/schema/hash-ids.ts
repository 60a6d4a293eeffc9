// Replaces the raw session ids in a table of koa-pg-session by digests: in the background, in batches.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from '../postgres/connection.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { hashedComment, recordHashed } from './migrate.js'
import { sql } from './sql.js'
import { qualifiedName, substituteVariables } from './table.js'

/** About 2,000 sessions: few enough that requests don't wait long for their rows. */
const pagesPerBatch = 128

/**
 * The pause after a pass that found raw ids, or failed: another process may write more, or an error may go away. Doubled each
 * time, up to the maximum.
 */
const minRetryMs = 1_000
const maxRetryMs = 60_000

/** The pause after a pass that found none: a store with `hashIds: false` may still write some. */
const idleMs = 3_600_000

/** Passes that must find none, so that they cover the day for which stores look for raw ids. */
const idlePasses = 24

/** PostgreSQL's codes for a unique violation and a row that was moved: another statement was faster. The next pass goes on. */
const overtakenCodes = new Set(['23505', '40001', '40P01'])

/**
 * Repeats until passes over the whole table find no raw id, and records that at the table. A role that may not record it
 * ends after the first such pass. Errors are passed to `warn` and followed by another pass; aborting `signal` ends it.
 */
export async function hashStoredIds({
  connection,
  settings,
  isRecorded,
  signal,
  warn,
}: {
  connection: Connection
  settings: Settings
  /** Whether it is recorded already: then it is again only if raw ids are found. */
  isRecorded: boolean
  signal: AbortSignal
  warn: (error: Error) => void
}): Promise<void> {
  let recorded = isRecorded
  let lastProblem = ''
  let retryMs = minRetryMs
  for (let idle = 0; idle < idlePasses && !signal.aborted; ) {
    let found: number | undefined
    try {
      found = await hashAllIds(connection, settings, signal)
      if (found > 0) recorded = false
      else if (!recorded && !signal.aborted) {
        if (!(await tryToRecord(connection, settings, warn))) return
        recorded = true
      }
    } catch (error) {
      if (signal.aborted) return
      const problem = messageOf(error)
      if (problem !== lastProblem) warn(new Error(`can't hash all session ids yet, trying again: ${problem}`))
      lastProblem = problem
    }
    idle = found === 0 ? idle + 1 : 0
    const pauseMs = found === 0 ? idleMs : retryMs
    retryMs = found === 0 ? minRetryMs : Math.min(2 * retryMs, maxRetryMs)
    // Aborting rejects the pause, which ends the loop without an error.
    await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
  }
}

/** Resolves with false if only the owner may record it. */
async function tryToRecord(
  connection: Connection,
  settings: Settings,
  warn: (error: Error) => void,
): Promise<boolean> {
  try {
    await recordHashed(connection, settings)
    return true
  } catch (error) {
    if (codeOf(error) !== '42501') throw error
    const statement = await hashedComment(connection, settings)
    warn(
      new SetupError(
        `all session ids are digests, but this role may not record it, so stores go on looking for raw ids: run as the owner: ${statement}`,
      ),
    )
    return false
  }
}

/**
 * One pass over the whole table. Resolves with the number of raw ids that it found; those in locked rows are left for the next
 * pass. `onProgress` receives a number between 0 and 1.
 */
export async function hashAllIds(
  connection: Connection,
  { schema, table }: Settings,
  signal: AbortSignal,
  onProgress?: (progress: number) => void,
): Promise<number> {
  const parts = await findParts(connection, { schema, table })
  const total = parts.reduce((sum, { pages }) => sum + pages, 0)
  let found = 0
  let done = 0
  for (const { part_schema, part, pages } of parts) {
    for (let page = 0; page <= pages && !signal.aborted; page += pagesPerBatch) {
      const range = { first: `(${page},0)`, after: `(${page + pagesPerBatch},0)` }
      const variables = { schema, table, part_schema, part, ...range }
      found += await hashBatch(connection, substituteVariables(sql['005-hash-ids'], variables))
      onProgress?.(Math.min(1, (done + page + pagesPerBatch) / Math.max(1, total)))
    }
    done += pages
  }
  return found
}

async function hashBatch(connection: Connection, statement: string): Promise<number> {
  try {
    const [row] = await connection.query(statement)
    return Number(row?.found)
  } catch (error) {
    if (!overtakenCodes.has(codeOf(error) ?? '')) throw error
    return 1
  }
}

interface Part {
  readonly part_schema: string
  readonly part: string
  readonly pages: number
}

/** The tables that hold the rows: the table itself, or its partitions, at any depth. */
async function findParts(connection: Connection, table: { schema: string; table: string }): Promise<Part[]> {
  const rows = await connection.query(
    `with recursive tree as (
       select $1::text::regclass::oid as oid
       union all select i.inhrelid from pg_inherits i join tree t on t.oid = i.inhparent)
     select n.nspname as part_schema, c.relname as part,
       (pg_relation_size(c.oid) / current_setting('block_size')::int)::float8 as pages
     from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
     where c.relkind <> 'p' order by c.oid`,
    [qualifiedName(table)],
  )
  return rows.map(({ part_schema, part, pages }) => ({
    part_schema: String(part_schema),
    part: String(part),
    pages: Number(pages),
  }))
}
