// The statements that a listener sends at intervals: a heartbeat, and a look for changes that no notification announced.
import type { Row } from '../types/options.js'
import { codeOf } from '../util/driver-errors.js'

/**
 * The id of a row that every unannounced change writes. It is a tombstone with the form of a digest: no cookie opens it, and no
 * list shows it.
 */
export const unannouncedId = `sha256:${'koa-pg-store-unannounced'.padEnd(43, '_')}`

/** What a server says when it is asked for unannounced changes. */
export interface ServerState {
  /** Changes with every unannounced change. */
  readonly unannounced: string | undefined
  /** How full the queue of notifications is, from 0 to 1. */
  readonly queueUsage: number
}

/** PostgreSQL removes what all have read from a full queue when it is asked for this. */
export const queueUsageSql = 'select pg_catalog.pg_notification_queue_usage()::pg_catalog.float8 as usage'

/** Asks for unannounced changes. `table`: its name, quoted. */
function stateSql(table: string): string {
  return (
    `select (select version from ${table} where id = '${unannouncedId}')::pg_catalog.text as unannounced,` +
    ` pg_catalog.pg_notification_queue_usage()::pg_catalog.float8 as usage`
  )
}

/**
 * Sends the payload `$2` on the channel `$1`. Nothing has to reach the disk, and a commit that waits for it would hold
 * PostgreSQL's lock on notifications.
 */
export const notifySql = `select pg_catalog.pg_notify($1, $2), pg_catalog.set_config('synchronous_commit', 'off', true)`

/**
 * Asks for unannounced changes, and sends a heartbeat if there is one to send. In this order: a full queue is emptied when the server
 * is asked for its usage, and not by a transaction that fails because it is full. In two statements: in a table that Citus has
 * distributed, both can't run at once.
 */
export async function sendHeartbeat(
  query: (text: string, values: unknown[]) => Promise<Row[]>,
  table: string,
  channel: string,
  payload: string | undefined,
): Promise<ServerState> {
  const [row] = await query(stateSql(table), [])
  if (payload !== undefined) await query(notifySql, [channel, payload])
  return {
    unannounced: (row?.unannounced as string | null) ?? undefined,
    queueUsage: Number(row?.usage),
  }
}

/** Whether a transaction was rolled back because the server's queue of notifications is full. */
export function isQueueFull(error: unknown): boolean {
  if (codeOf(error) !== '54000') return false
  return (
    Reflect.get(error as Error, 'routine') === 'PreCommit_Notify' ||
    /NOTIFY queue/.test((error as Error).message)
  )
}
