// What `health()` returns: whether the store can serve requests, for a readiness probe.
import { ensureTable } from '../schema/migrate.js'
import type { Health } from '../types/results.js'
import { wrongServer } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import type { Lifecycle } from './lifecycle.js'

/** Asks the database, and looks at the table again if setup has not succeeded yet. Never rejects. */
export async function checkHealth(lifecycle: Lifecycle): Promise<Health> {
  const { connection, operations, trust, touches, settings, cache } = lifecycle
  const health = (
    database: Health['database'],
    usable: boolean,
    usage?: number,
    error?: unknown,
  ): Health => ({
    healthy: usable,
    database,
    table: { usable },
    cache: cache !== undefined && { trusted: trust.isTrusted, lastHeartbeatAge: trust.lastHeartbeatAge },
    queues: { calls: operations.count, touches: touches.pendingCount, notifications: usage },
    error: error === undefined ? undefined : operations.toError(error, 'use the session store'),
  })
  const unreachable = { reachable: false, ms: undefined }
  if (operations.isClosed) return health(unreachable, false, undefined, new Error('it is closed'))
  const startedAt = performance.now()
  let database: Health['database'] = unreachable
  let usage: number | undefined
  try {
    const [row] = await connection.query(
      'select pg_catalog.pg_notification_queue_usage()::float8 as usage, pg_catalog.pg_is_in_recovery() as is_standby',
      [],
      { deadline: startedAt + connection.connectTimeoutMs },
    )
    database = { reachable: true, ms: performance.now() - startedAt }
    usage = Number(row?.usage)
    if (row?.is_standby === true) throw new Error(wrongServer('a standby, which may lack the latest changes'))
    await lifecycle.ready()
    await withTimeout(
      ensureTable(connection, { ...settings, create: false }, () => undefined),
      connection.connectTimeoutMs,
      'the session table was not found',
    )
    return health(database, true, usage)
  } catch (error) {
    return health(database, false, usage, error)
  }
}
