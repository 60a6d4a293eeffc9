// Makes the index of users on a big table: in the background, on a connection of its own, while everybody goes on.
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import pg, { type ClientConfig } from 'pg'
import type { Connection } from '../postgres/connection.js'
import type { Row } from '../types/options.js'
import type { Settings } from '../types/settings.js'
import { withTimeout } from '../util/timeout.js'
import { sql } from './sql.js'
import { qualifiedName, substituteVariables, userIndexName, variables } from './table.js'

/** How long it may take. */
const timeoutMs = 3_600_000

type Query = (text: string, values: unknown[]) => Promise<Row[]>

/**
 * Makes the index unless another instance is at it. `signal` lets go of it: the server finishes it by itself. One that an
 * attempt has left unfinished is made anew.
 */
export async function createUserIndex(
  connection: Connection,
  settings: Settings,
  signal: AbortSignal,
): Promise<void> {
  const config = connection.clientConfig
  if (config === undefined)
    await createIndex((text, values) => connection.query(text, values, timeoutMs), settings)
  else await alone(config, signal, (query) => createIndex(query, settings))
}

async function createIndex(query: Query, settings: Settings): Promise<void> {
  const index = userIndexName(settings)
  const lock = `(hashtext('koa-pg-store'), hashtext('index ' || $1::text))`
  // Two that are made at once would wait for each other, until PostgreSQL ends one of them half made.
  const [mine] = await query(`select pg_try_advisory_lock${lock} as locked`, [index])
  if (mine?.locked !== true) return
  try {
    const [state] = await query(
      `select exists (select from pg_index where indexrelid = to_regclass($1) and not indisvalid) as unfinished,
        exists (select from pg_locks where relation = to_regclass($2) and mode = 'ShareUpdateExclusiveLock' and granted) as busy`,
      [index, qualifiedName(settings)],
    )
    // A person is making it by hand, perhaps. If not, the next start of an instance will.
    if (state?.unfinished && state.busy) return
    if (state?.unfinished) await query(`drop index concurrently if exists ${index}`, [])
    const statement = substituteVariables(sql['007-users'], variables(settings))
    await query(statement.replace('create index', 'create index concurrently'), [])
  } finally {
    await query(`select pg_advisory_unlock${lock}`, [index]).catch(() => undefined)
  }
}

/** Runs work on a connection that is its own: a pool may have but one. It doesn't keep the process alive. */
async function alone(
  config: ClientConfig,
  signal: AbortSignal,
  work: (query: Query) => Promise<void>,
): Promise<void> {
  let stream: Duplex | undefined
  const client = new pg.Client({
    ...config,
    stream: () => {
      stream = config.stream?.() ?? new Socket()
      return stream
    },
    query_timeout: 0,
    ...(config.statement_timeout && { statement_timeout: timeoutMs }),
    fallback_application_name: 'koa-pg-store index',
  })
  const letGo = (): void => void stream?.destroy()
  // pg rejects what is under way too.
  client.on('error', () => undefined)
  signal.addEventListener('abort', letGo)
  try {
    await client.connect()
    if (stream instanceof Socket) stream.unref()
    await withTimeout(
      work(async (text, values) => (await client.query<Row>(text, values)).rows),
      timeoutMs,
      'not finished',
      false,
    )
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    signal.removeEventListener('abort', letGo)
    stream?.on('error', () => undefined)
    letGo()
    client.end().catch(() => undefined)
  }
}
