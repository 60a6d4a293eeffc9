// Creates the index on user_id of a large table: in the background, on a dedicated connection, without blocking requests.
import type { ClientConfig } from 'pg'
import { AdvisoryLock } from '../postgres/advisory-lock.js'
import { type Connection, defaultConnectTimeoutMs } from '../postgres/connection.js'
import { DedicatedClient } from '../postgres/dedicated-client.js'
import type { Row } from '../types/options.js'
import type { Settings } from '../types/settings.js'
import { sql } from './sql.js'
import { qualifiedName, substituteVariables, userIndexName, variables } from './table.js'

/** Creating the index may take an hour. */
const timeoutMs = 3_600_000

type Query = (text: string, values: unknown[]) => Promise<Row[]>

/**
 * Creates the index unless another instance is already doing so. An index that an earlier attempt left unfinished is
 * created again. Aborting `signal` closes the connection; the server then finishes the index by itself.
 */
export async function createUserIndex(
  connection: Connection,
  settings: Settings,
  signal: AbortSignal,
): Promise<void> {
  const config = connection.clientConfig
  // A query function can't hold a lock: its statements may run on different connections.
  if (config === undefined)
    return createIndex((text, values) => connection.query(text, values, timeoutMs), settings)
  // Two at the same time would deadlock, and PostgreSQL would leave one of them unfinished.
  const lock = await AdvisoryLock.take({
    config,
    key: `index ${userIndexName(settings)}`,
    connectTimeoutMs: connection.connectTimeoutMs,
    name: 'index lock',
    keepsProcessAlive: false,
  })
  if (lock === undefined) return
  try {
    await withDedicatedClient(config, signal, (query) => createIndex(query, settings))
  } finally {
    await lock.release()
  }
}

async function createIndex(query: Query, settings: Settings): Promise<void> {
  const index = userIndexName(settings)
  const [state] = await query(
    `select exists (select from pg_index where indexrelid = to_regclass($1) and not indisvalid) as unfinished,
      exists (select from pg_locks where relation = to_regclass($2) and mode = 'ShareUpdateExclusiveLock' and granted) as busy`,
    [index, qualifiedName(settings)],
  )
  // Someone may be creating it by hand. If not, the next instance that starts will.
  if (state?.unfinished && state.busy) return
  if (state?.unfinished) await query(`drop index concurrently if exists ${index}`, [])
  const statement = substituteVariables(sql['007-users'], variables(settings))
  await query(statement.replace('create index', 'create index concurrently'), [])
}

/** Runs work on a connection of its own: a pool may have only one, and its statements a time limit. */
async function withDedicatedClient(
  config: ClientConfig,
  signal: AbortSignal,
  work: (query: Query) => Promise<void>,
): Promise<void> {
  const client = new DedicatedClient({
    config: { ...config, ...(config.statement_timeout && { statement_timeout: timeoutMs }) },
    name: 'index',
    keepsProcessAlive: false,
  })
  const drop = (): void => client.drop()
  signal.addEventListener('abort', drop)
  try {
    await client.connect(config.connectionTimeoutMillis || defaultConnectTimeoutMs)
    await work((text, values) => client.query(text, values, timeoutMs))
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    signal.removeEventListener('abort', drop)
    client.drop()
  }
}
