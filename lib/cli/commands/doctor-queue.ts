// What `doctor` says of the server's queue of notifications, and of the connection that keeps it from being emptied.
import { setTimeout as sleep } from 'node:timers/promises'
import pg, { type ClientConfig } from 'pg'
import type { Connection } from '../../postgres/connection.js'
import { duration } from '../terminal.js'

/** PostgreSQL warns from here on, too. */
const maxQueueUsage = 0.5

/** PostgreSQL names the process that holds the queue once in 5 s, to whichever connection notifies then. */
const warningTimeoutMs = 6_000
const warningPauseMs = 500

/** What is wrong, and what to do; `undefined` if nothing is. */
export async function findQueueProblem(
  connection: Connection,
  config: ClientConfig | undefined,
): Promise<{ isFull: boolean; message: string; advice: string } | undefined> {
  const [queue] = await connection.query('select pg_catalog.pg_notification_queue_usage()::float8 as usage')
  const usage = queue?.usage as number
  if (usage < maxQueueUsage) return undefined
  const pid = await findHolder(config)
  const [holder] = await connection.query(
    `select pid, coalesce(usename::text, '?') as role, coalesce(application_name, '') as application, coalesce(datname::text, '?') as database,
       coalesce(state, 'unknown') as state, extract(epoch from clock_timestamp() - xact_start)::float8 * 1000 as ms
     from pg_catalog.pg_stat_activity where backend_type = 'client backend' and pid <> pg_catalog.pg_backend_pid() and (pid = $1 or $1 is null)
     order by xact_start limit 1`,
    [pid ?? null],
  )
  const message = `the queue is ${Math.floor(usage * 100)} % full; while it is full, changes are made without notifications, and nothing is cached`
  if (holder === undefined)
    return {
      isFull: usage >= 0.99,
      message,
      advice: 'end old transactions of connections that listen (see pg_stat_activity)',
    }
  const { role, application, database, state, ms } = holder
  const since = ms === null ? '' : ` for ${duration(ms as number)}`
  const probably = pid === undefined ? 'probably by' : 'by'
  return {
    isFull: usage >= 0.99,
    message:
      `${message}. It is held ${probably} process ${holder.pid}: application "${application}", role ${role}, database ${database},` +
      ` ${state}${since}`,
    advice: `end that transaction, or run: select pg_terminate_backend(${holder.pid})`,
  }
}

/** Notifies until PostgreSQL warns who holds the queue. */
async function findHolder(config: ClientConfig | undefined): Promise<number | undefined> {
  if (config === undefined) return undefined
  const client = new pg.Client(config)
  client.on('error', () => undefined)
  let pid: number | undefined
  client.on('notice', ({ routine, detail }) => {
    // The detail may be in any language.
    if (routine === 'asyncQueueFillWarning') pid = Number(/\d+/.exec(detail ?? '')?.[0]) || undefined
  })
  try {
    await client.connect()
    for (const end = performance.now() + warningTimeoutMs; pid === undefined && performance.now() < end; ) {
      await client.query(`select pg_catalog.pg_notify('koa_pg_store_doctor', '')`).catch(() => undefined)
      if (pid === undefined) await sleep(warningPauseMs)
    }
  } catch {
    // The other checks tell of a connection that can't be opened.
  } finally {
    await client.end().catch(() => undefined)
  }
  return pid
}
