// Reads the rows of a large result through a cursor, a batch at a time.
import type pg from 'pg'
import Cursor from 'pg-cursor'
import type { Row } from '../types/options.js'
import { withTimeout } from '../util/timeout.js'
import { isStatementError } from './connection.js'

/** A client, and whether its connection has failed. */
export interface CursorClient {
  readonly client: pg.ClientBase
  readonly isLost: boolean
  /** Marks the connection as failed: it must not be used again. */
  lose(error: Error): void
  /** Asks the server to cancel what runs. */
  cancel?(): void
}

/**
 * Yields rows, `batchSize` at a time; no more are in memory. Each batch may take `timeoutMs`. Leaving the loop early closes
 * the cursor, so that the client can be used again.
 */
export async function* readRows(
  connection: CursorClient,
  text: string,
  values: unknown[],
  batchSize: number,
  timeoutMs: number,
): AsyncGenerator<Row[]> {
  const cursor = openCursor(connection.client, text, values)
  let isOpen = true
  try {
    for (;;) {
      const rows = await withTimeout(cursor.read(batchSize), timeoutMs, 'the cursor returned no rows')
      if (rows.length === 0) return
      yield rows
    }
  } catch (error) {
    // The server has closed the cursor, or can't be asked to.
    isOpen = false
    if (!isStatementError(error)) {
      connection.cancel?.()
      connection.lose(error as Error)
    }
    throw error
  } finally {
    if (isOpen && !connection.isLost)
      await withTimeout(cursor.close(), timeoutMs, 'the cursor did not close').catch((error: Error) =>
        connection.lose(error),
      )
  }
}

/**
 * pg applies `query_timeout` to the whole of a cursor's life, and its timer would outlive a lost connection. Calling the
 * query's callback here ends both; `readRows` limits each batch instead.
 */
function openCursor(client: pg.ClientBase, text: string, values: unknown[]): Cursor<Row> {
  const cursor = client.query(new Cursor<Row>(text, values))
  const callback: unknown = Reflect.get(cursor, 'callback')
  if (typeof callback === 'function') callback()
  return cursor
}
