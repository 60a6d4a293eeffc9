// Replaces the raw session ids in a table of koa-pg-session by digests: in the background, in batches.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from '../postgres/connection.js'
import type { Settings } from '../types/settings.js'
import { messageOf } from '../util/driver-errors.js'
import { recordHashed } from './migrate.js'
import { sql } from './sql.js'
import { qualifiedName, substituteVariables } from './table.js'

/** About 2,000 sessions: few enough that requests don't wait long for their rows. */
const blocksPerBatch = 128

/** The pause before the next pass: until then another process may write raw ids, or an error may go away. */
const pauseMs = 60_000

/**
 * Repeats until a pass over the whole table finds no raw id, and then records that at the table. Errors are passed to
 * `warn` and followed by another pass; aborting `signal` ends it. Until its id is hashed, a session is still found: the
 * first request for it hashes its id.
 */
export async function hashStoredIds(
  connection: Connection,
  settings: Settings,
  signal: AbortSignal,
  warn: (error: Error) => void,
): Promise<void> {
  while (!signal.aborted) {
    try {
      if ((await hashAllIds(connection, settings, signal)) === 0 && !signal.aborted)
        return await recordHashed(connection, settings)
    } catch (error) {
      if (signal.aborted) return
      warn(new Error(`can't hash all session ids yet, trying again in a minute: ${messageOf(error)}`))
    }
    // Aborting rejects the pause, which ends the loop without an error.
    await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
  }
}

/** One pass over the whole table. Resolves with the number of raw ids. `onProgress` receives a number between 0 and 1. */
export async function hashAllIds(
  connection: Connection,
  settings: Settings,
  signal: AbortSignal,
  onProgress?: (progress: number) => void,
): Promise<number> {
  const { schema, table } = settings
  const [size] = await connection.query(
    `select (pg_relation_size($1::text::regclass) / current_setting('block_size')::int)::float8 as blocks`,
    [qualifiedName(settings)],
  )
  const blocks = Number(size?.blocks)
  let hashed = 0
  for (let block = 0; block <= blocks && !signal.aborted; block += blocksPerBatch) {
    const range = { first: `(${block},0)`, after: `(${block + blocksPerBatch},0)` }
    const statement = substituteVariables(sql['005-hash-ids'], { schema, table, ...range })
    const [row] = await connection.query(statement)
    hashed += Number(row?.turned)
    onProgress?.(Math.min(1, (block + blocksPerBatch) / blocks))
  }
  return hashed
}
