// The checks of koa-pg-store doctor: each looks at one aspect of database or table, and returns what it found. Over 300 lines: a function for each check.
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { listenConfig } from '../../postgres/connect.js'
import { sampleSessions, undecodedSessions } from '../../repository/codec-sample.js'
import { canFillUserIds, isFilled, readUserFillRecord } from '../../repository/user-fill-record.js'
import { inspect } from '../../schema/inspect.js'
import { ensureTable, slowCommits } from '../../schema/migrate.js'
import { lastSweepSql, notRecordSql, qualifiedName, type Table } from '../../schema/table.js'
import { SetupError } from '../../types/errors.js'
import { messageOf } from '../../util/driver-errors.js'
import { withTimeout } from '../../util/timeout.js'
import { bytes, duration, number } from '../terminal.js'
import { checkWorkerCommits, readShards } from './citus-checks.js'
import { findQueueProblem } from './doctor-queue.js'
import {
  type Check,
  type Finding,
  note,
  ok,
  problem,
  type Subject,
  type TableCheck,
  type VacuumState,
} from './finding.js'

const minServerVersion = 130_000
const maxClockDifferenceMs = 5_000
const listenTimeoutMs = 5_000
const notificationTimeoutMs = 3_000
const disconnectTimeoutMs = 1_000
const minBloatedRows = 10_000
/** Counting reads the whole table. */
const countTimeoutMs = 60_000
/** Enough expired rows to see that no sweep runs. */
const maxOverdueRows = 1_000

/** Without a connection, no other check can run. */
export const checkConnection: Check = async ({ connection }) => {
  const start = performance.now()
  try {
    const [row] = await connection.query('select current_user as role, current_database() as database')
    const took = duration(performance.now() - start)
    return [ok('connection', `as ${row?.role} to ${row?.database}, in ${took}`)]
  } catch (error) {
    return [problem('connection', messageOf(error), 'check DATABASE_URL or --url')]
  }
}

export const checkServer: Check = async ({ connection }) => {
  const [row] = await connection.query(
    `select current_setting('server_version') as version, current_setting('server_version_num')::int as number`,
  )
  const version = `PostgreSQL ${row?.version}`
  return (row?.number as number) < minServerVersion
    ? [problem('server', version, 'koa-pg-store needs PostgreSQL 13 or newer')]
    : [ok('server', version)]
}

export const checkClocks: Check = async ({ connection }) => {
  const start = Date.now()
  const [row] = await connection.query('select extract(epoch from clock_timestamp())::float8 * 1000 as now')
  const differenceMs = Math.abs((row?.now as number) - (start + Date.now()) / 2)
  const message = `${duration(differenceMs)} apart`
  return differenceMs > maxClockDifferenceMs
    ? [
        note(
          'clocks',
          message,
          'sessions follow the server’s clock and are not affected; cookies and logs are',
        ),
      ]
    : [ok('clocks', message)]
}

/** Resolves with the table too, if it can be used. */
export async function checkTable(subject: Subject): Promise<{ table?: Table; found: Finding[] }> {
  try {
    const table = await ensureTable(subject.connection, subject.settings, () => undefined)
    const found = [ok('table', `${table.name}, with its columns and rights`)]
    const missing = ['user_id', 'created_at', 'last_access', 'version'].filter(
      (name) => !table.columns.has(name),
    )
    if (missing.length > 0)
      found.push(
        note(
          'columns',
          `${missing.join(', ')} missing: nothing is cached, and sessions can’t be found by user`,
          'run koa-pg-store migrate, or give the output of migrate --print to the table’s owner',
        ),
      )
    return { table, found }
  } catch (error) {
    // Most errors say what to run. Where that is a file of sql/, migrate does the same.
    const isOutdated = error instanceof SetupError && /sql\/00/.test(error.message)
    return {
      found: [problem('table', messageOf(error), isOutdated ? 'or run koa-pg-store migrate' : undefined)],
    }
  }
}

/** Sends a notification over the connection that makes changes, and receives it on the one that listens. */
export const checkNotifications: TableCheck = async ({ connection, listen }) => {
  if (listen === false) return [ok('notifications', 'not used: the option listen is false')]
  const queue = await findQueueProblem(connection, listenConfig(listen, connection))
  if (queue?.isFull) return [problem('notification queue', queue.message, queue.advice)]
  const client = new pg.Client(listenConfig(listen, connection))
  client.on('error', () => undefined)
  const channel = `koa_pg_store_doctor_${randomBytes(6).toString('hex')}`
  const received = new Promise<void>((resolve) => client.on('notification', () => resolve()))
  try {
    await withTimeout(client.connect(), listenTimeoutMs, 'no connection to listen')
    await withTimeout(client.query(`listen ${channel}`), listenTimeoutMs, 'no response to LISTEN')
    const start = performance.now()
    await connection.query('select pg_catalog.pg_notify($1, $2)', [channel, 'doctor'])
    await withTimeout(received, notificationTimeoutMs, 'no notification received')
    const found = [ok('notifications', `received after ${duration(performance.now() - start)}`)]
    if (queue !== undefined) found.push(problem('notification queue', queue.message, queue.advice))
    return found
  } catch (error) {
    const advice =
      'behind a pooler in transaction mode, set the store’s option listen (and --listen-url here) to a direct' +
      ' connection; without notifications nothing is cached'
    return [problem('notifications', messageOf(error), advice)]
  } finally {
    await withTimeout(client.end(), disconnectTimeoutMs, '').catch(() => undefined)
  }
}

/** Whether changes can be announced without making the commits of the whole cluster wait for each other. */
export const checkCommits: TableCheck = async (subject, table) => {
  if (table.isDistributed) return checkWorkerCommits(subject, table)
  if (table.canFlush) return [ok('commits', 'changes of sessions don’t wait for each other')]
  return [note('commits', slowCommits(await inspect(subject.connection, subject.settings)))]
}

export const checkTriggers: TableCheck = async (_, { hasTriggers, isDistributed }) => {
  if (hasTriggers) return [ok('triggers', 'changes made outside the store reach all caches')]
  const message = 'none: changes made outside the store are seen only after the cache’s ttl'
  const advice = 'run koa-pg-store migrate as the table’s owner'
  return [note('triggers', message, isDistributed ? undefined : advice)]
}

export const checkIndexes: TableCheck = async ({ connection, settings }) => {
  const rows = await connection.query(
    `select c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
     where i.indrelid = $1::text::regclass and m.amname <> 'brin' and exists (
       select from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any(i.indkey::int2[])
         and a.attname in ('expiry', 'last_access', 'session', 'version'))`,
    [qualifiedName(settings)],
  )
  if (rows.length === 0) return [ok('indexes', 'none on columns that change often')]
  const names = rows.map(({ name }) => name as string)
  return [
    problem(
      'indexes',
      `${names.join(', ')}: on a column that changes often, which makes every touch expensive`,
      names.map((name) => `drop index concurrently ${pg.escapeIdentifier(name)}`).join('; '),
    ),
  ]
}

/** Whether all ids are digests, and how far the background work on a table of koa-pg-session is. */
export const checkIds: TableCheck = async (
  { connection },
  { name, hasRawIds, keepsRawIds, insertsRawIds },
) => {
  if (!hasRawIds && !insertsRawIds) return [ok('ids', 'all ids are digests')]
  const [row] = await connection.query(
    `select count(*)::float8 as raw from ${name} where not (id like 'sha256:%' and length(id) = 50)`,
    [],
    countTimeoutMs,
  )
  const raw = number(Number(row?.raw))
  if (keepsRawIds)
    return [
      note(
        'ids',
        `${raw} raw, and kept, as koa-pg-session may still use the table`,
        'when no process with koa-pg-session is left, run koa-pg-store migrate --to-hashed-ids as the table’s owner',
      ),
    ]
  if (Number(row?.raw) === 0) return [ok('ids', 'all ids are digests')]
  const advice =
    'stores with hashIds: true replace them in the background, or run koa-pg-store migrate --to-hashed-ids'
  return [note('ids', `${raw} raw, to be replaced by digests`, insertsRawIds ? undefined : advice)]
}

export const checkUsers: TableCheck = async ({ connection }, table) => {
  if (!canFillUserIds(table)) return []
  const record = await readUserFillRecord(connection, table)
  const [row] = await connection.query(
    `select count(*)::float8 as active, count(user_id)::float8 as assigned,
       count(*) filter (where id <= $1)::float8 as searched
     from ${table.name} where session is not null and expiry > now()`,
    [record?.lastId ?? ''],
    countTimeoutMs,
  )
  const count = (name: string): number => Number(row?.[name])
  const users = `${number(count('assigned'))} of ${number(count('active'))} active sessions belong to a user`
  if (record === undefined)
    return [ok('users', `${users}; a store will search earlier sessions for users soon after its start`)]
  if (isFilled(record)) return [ok('users', `${users}; all earlier sessions were searched for users`)]
  const progress =
    record.lastId === null
      ? 'all earlier sessions were searched for users, and will be once more within an hour'
      : `earlier sessions are being searched for users, ${Math.floor((100 * count('searched')) / Math.max(1, count('active')))} % done`
  return [
    note(
      'users',
      `${users}; ${progress}`,
      'stores do it in the background, or run koa-pg-store migrate --find-users --config <module>',
    ),
  ]
}

/** Only with `--config`, which has the application's codec, can sessions be decoded. */
export const checkCodec: TableCheck = async ({ connection, settings, hasConfig }) => {
  if (!hasConfig) return []
  const sample = await sampleSessions(connection, settings)
  return sample.undecoded > 0
    ? [problem('codec', undecodedSessions(sample))]
    : [ok('codec', `${number(sample.sessions)} stored sessions that were looked at can be decoded`)]
}

export const checkVacuum: TableCheck = async ({ connection, settings }, { isDistributed }) => {
  const name = qualifiedName(settings)
  if (isDistributed) {
    const state = await readShards(connection, settings)
    return [autovacuum(state, name), bloat(state, name)]
  }
  const [row] = await connection.query(
    `select current_setting('autovacuum') = 'on' as "isOn",
       coalesce('autovacuum_enabled=false' = any(c.reloptions), false) as "isOffForTable",
       coalesce(s.n_dead_tup, 0)::float8 as "deadRows", coalesce(s.n_live_tup, 0)::float8 as "liveRows",
       pg_table_size(c.oid)::float8 as "tableBytes",
       extract(epoch from now() - greatest(s.last_autovacuum, s.last_vacuum))::float8 * 1000 as "lastVacuumAgoMs"
     from pg_class c left join pg_stat_user_tables s on s.relid = c.oid where c.oid = $1::text::regclass`,
    [name],
  )
  const state = row as unknown as VacuumState
  return [autovacuum(state, name), bloat(state, name)]
}

function autovacuum({ isOn, isOffForTable, lastVacuumAgoMs }: VacuumState, name: string): Finding {
  if (!isOn)
    return problem(
      'autovacuum',
      'off on this server: the table keeps growing',
      'alter system set autovacuum = on; select pg_reload_conf()',
    )
  if (isOffForTable)
    return problem(
      'autovacuum',
      'off for this table, which keeps growing',
      `alter table ${name} reset (autovacuum_enabled)`,
    )
  const last = lastVacuumAgoMs === null ? 'not needed yet' : `last run ${duration(lastVacuumAgoMs)} ago`
  return ok('autovacuum', `on; ${last}`)
}

function bloat({ deadRows, liveRows, tableBytes }: VacuumState, name: string): Finding {
  const message = `${number(deadRows)} dead and ${number(liveRows)} live rows, ${bytes(tableBytes)}`
  return deadRows > minBloatedRows && deadRows > liveRows
    ? problem('bloat', message, `vacuum analyze ${name}; if that doesn’t help, end old transactions`)
    : ok('bloat', message)
}

export const checkSweeps: TableCheck = async ({ connection, settings }) => {
  const name = qualifiedName(settings)
  const [last] = await connection.query(lastSweepSql(name))
  const [row] = await connection.query(
    `select count(*)::int as overdue from (select 1 as one from ${name} where expiry < now() - interval '1 day'
       and ${notRecordSql()} limit ${maxOverdueRows}) o`,
  )
  const overdue = row?.overdue as number
  const lastSweep = `last sweep: ${last ? `${duration(last.ago as number)} ago` : 'never'}`
  if (overdue === 0) return [ok('sweeps', lastSweep)]
  const count = overdue === maxOverdueRows ? `${number(overdue)} or more` : overdue
  return [
    problem(
      'sweeps',
      `${lastSweep}; ${count} rows expired more than a day ago`,
      'use the store’s option cleanup, or run koa-pg-store sweep from cron; a long grace may explain it too',
    ),
  ]
}
