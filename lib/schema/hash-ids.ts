// Turns the raw ids of a table that comes from koa-pg-session into digests, in the background, in parts.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from '../postgres/connection.js'
import type { Settings } from '../types/settings.js'
import { messageOf } from '../util/driver-errors.js'
import { recordHashed } from './migrate.js'
import { sql } from './sql.js'
import { qualifiedName, substituteVariables } from './table.js'

/** About 2,000 sessions: few enough that nobody waits long for one of their rows. */
const blocksPerBatch = 128

/** Other processes may still write raw ids, and an error may pass. */
const pauseMs = 60_000

/**
 * Goes on until a look at the whole table finds no raw id any more, and notes that at the table. Errors go to `warn` and
 * don't end it; `signal` does. A session whose row isn't turned yet is turned when it is used (`Queries.turn`).
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
      warn(new Error(`not all session ids are hashed yet, it goes on in a minute: ${messageOf(error)}`))
    }
    // An aborted pause is the end, not an error.
    await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
  }
}

/** One look at the whole table; answers how many ids were raw. `onProgress` is told how far it is, between 0 and 1. */
export async function hashAllIds(
  connection: Connection,
  settings: Settings,
  signal: AbortSignal,
  onProgress?: (done: number) => void,
): Promise<number> {
  const [size] = await connection.query(
    `select (pg_relation_size($1::text::regclass) / current_setting('block_size')::int)::float8 as blocks`,
    [qualifiedName(settings)],
  )
  let turned = 0
  for (let block = 0; block <= (size?.blocks as number) && !signal.aborted; block += blocksPerBatch) {
    const { schema, table } = settings
    const range = { first: `(${block},0)`, after: `(${block + blocksPerBatch},0)` }
    const [row] = await connection.query(
      substituteVariables(sql['005-hash-ids'], { schema, table, ...range }),
    )
    turned += row?.turned as number
    onProgress?.(Math.min(1, (block + blocksPerBatch) / (size?.blocks as number)))
  }
  return turned
}
