// koa-pg-store doctor: what could be wrong with database and table, and what to do about it.
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { listenConfig } from '../../postgres/connect.js'
import { ensureTable } from '../../schema/migrate.js'
import { qualifiedName, sweepRecordId, type Table } from '../../schema/table.js'
import { readOptions } from '../../stores/options.js'
import { SetupError } from '../../types/errors.js'
import type { Settings } from '../../types/settings.js'
import { messageOf } from '../../util/driver-errors.js'
import { withTimeout } from '../../util/timeout.js'
import { type Command, type Context, UsageError } from '../command.js'
import { bytes, duration, number } from '../terminal.js'

interface Finding {
  readonly check: string
  readonly state: 'ok' | 'note' | 'wrong'
  readonly found: string
  /** What to do. */
  readonly advice?: string | undefined
}

type Check = (context: Context, settings: Settings, table: Table) => Promise<Finding[]>

export const doctor: Command = {
  summary: 'Find out what is wrong with database and table, and what to do',
  help: `
Usage: koa-pg-store doctor [--listen-url <postgres://…>] [--json]

Looks at the connection, the server, the rights, the table with its triggers
and indexes, sends a notification there and back, and compares clocks. Changes
nothing. Run it with the role and by the way that the application takes. Exit
status 1 if anything is wrong.

Options:
  --listen-url <…>       The application's option listen, if it has one.
  --raw-ids              For stores with hashIds: false.`,
  options: { 'listen-url': { type: 'string' }, 'raw-ids': { type: 'boolean' } },
  async run(context) {
    const { values, terminal, options } = context
    const settings = readOptions({ ...options, create: false, hashIds: values['raw-ids'] !== true })
    const findings: Finding[] = []
    const tell = (found: Finding): void => {
      findings.push(found)
      if (values.json) return
      const colour = { ok: 'green', note: 'yellow', wrong: 'red' } as const
      const state = terminal.style(colour[found.state], found.state.padEnd(5))
      terminal.line(`${state}  ${found.check}: ${found.found}`)
      if (found.advice) terminal.line(`       → ${found.advice}`)
    }
    const table = await basics(context, settings, tell)
    if (table)
      for (const check of [notifications, triggers, indexes, vacuum, sweeps])
        try {
          for (const found of await check(context, settings, table)) tell(found)
        } catch (error) {
          if (error instanceof UsageError) throw error
          tell({ check: check.name, state: 'wrong', found: messageOf(error) })
        }
    const wrong = findings.filter(({ state }) => state === 'wrong').length
    if (values.json) terminal.json({ healthy: wrong === 0, findings })
    else
      terminal.line(
        wrong === 0 ? '\nAll is well.' : `\n${wrong} ${wrong === 1 ? 'thing is' : 'things are'} wrong.`,
      )
    return wrong === 0 ? 0 : 1
  },
}

/** Connection, server, clock and table; without them there is nothing else to look at. */
async function basics(
  { connection }: Context,
  settings: Settings,
  tell: (found: Finding) => void,
): Promise<Table | undefined> {
  try {
    const start = performance.now()
    const [row] = await connection.query(
      `select current_setting('server_version') as version, current_setting('server_version_num')::int as number,
       current_user as role, current_database() as database, extract(epoch from clock_timestamp())::float8 * 1000 as now`,
    )
    const took = performance.now() - start
    tell({
      check: 'connection',
      state: 'ok',
      found: `as ${row?.role} to ${row?.database}, in ${duration(took)}`,
    })
    const isOld = (row?.number as number) < 130_000
    tell({
      check: 'server',
      state: isOld ? 'wrong' : 'ok',
      found: `PostgreSQL ${row?.version}`,
      ...(isOld && { advice: 'koa-pg-store needs PostgreSQL 13 or newer' }),
    })
    const again = Date.now()
    const [clock] = await connection.query(
      'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
    )
    const off = Math.abs((clock?.now as number) - (again + Date.now()) / 2)
    tell({
      check: 'clocks',
      state: off > 5_000 ? 'note' : 'ok',
      found: `${duration(off)} apart`,
      ...(off > 5_000 && {
        advice: 'sessions don’t mind, as the server’s clock decides; cookies and logs do',
      }),
    })
  } catch (error) {
    tell({
      check: 'connection',
      state: 'wrong',
      found: messageOf(error),
      advice: 'check DATABASE_URL or --url',
    })
    return undefined
  }
  const notes: string[] = []
  try {
    const table = await ensureTable(connection, settings, ({ message }) => notes.push(message))
    tell({ check: 'table', state: 'ok', found: `${table.name}, with its columns and rights` })
    const lacks = ['user_id', 'created_at', 'last_access', 'version'].filter(
      (name) => !table.columns.has(name),
    )
    if (lacks.length > 0)
      tell({
        check: 'columns',
        state: 'note',
        found: `${lacks.join(', ')} missing: nothing is cached, and no user is known`,
        advice: 'koa-pg-store migrate, or --print for whoever may',
      })
    return table
  } catch (error) {
    // Most say themselves what is to be run.
    const isOld = error instanceof SetupError && /sql\/00/.test(error.message)
    tell({
      check: 'table',
      state: 'wrong',
      found: messageOf(error),
      ...(isOld && { advice: 'or run koa-pg-store migrate' }),
    })
    return undefined
  }
}

/** By the way that changes take, and back by the one that instances listen on. */
const notifications: Check = async ({ connection, values }) => {
  const url = values['listen-url'] as string | undefined
  const config = listenConfig(url, connection)
  const client = new pg.Client(config)
  client.on('error', () => undefined)
  const channel = `koa_pg_store_doctor_${randomBytes(6).toString('hex')}`
  const heard = new Promise<void>((resolve) => client.on('notification', () => resolve()))
  try {
    await withTimeout(client.connect(), 5_000, 'no connection to listen')
    await withTimeout(client.query(`listen ${channel}`), 5_000, 'no answer to listen')
    const start = performance.now()
    await connection.query('select pg_notify($1, $2)', [channel, 'there and back'])
    await withTimeout(heard, 3_000, 'it did not come back')
    const [queue] = await connection.query('select pg_notification_queue_usage()::float8 as usage')
    const usage = queue?.usage as number
    return [
      {
        check: 'notifications',
        state: 'ok',
        found: `there and back in ${duration(performance.now() - start)}`,
      },
      ...(usage > 0.5
        ? [
            {
              check: 'notification queue',
              state: 'wrong' as const,
              found: `${Math.round(usage * 100)} % full; full, it fails commits`,
              advice: 'end the transaction that stays open while it listens (pg_stat_activity)',
            },
          ]
        : []),
    ]
  } catch (error) {
    return [
      {
        check: 'notifications',
        state: 'wrong',
        found: messageOf(error),
        advice:
          'if this goes through a pooler in transaction mode, give the store’s option listen (and --listen-url here) a' +
          ' connection past it; without one nothing is cached',
      },
    ]
  } finally {
    await withTimeout(client.end(), 1_000, '').catch(() => undefined)
  }
}

const triggers: Check = async (_, __, { hasTriggers, isDistributed: distributed }) => [
  hasTriggers
    ? { check: 'triggers', state: 'ok', found: 'changes made past the store are heard of' }
    : {
        check: 'triggers',
        state: 'note',
        found: 'none: changes made past the store are seen after the cache’s ttl',
        ...(!distributed && { advice: 'koa-pg-store migrate, as the table’s owner' }),
      },
]

const indexes: Check = async ({ connection }, settings) => {
  const rows = await connection.query(
    `select c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
     where i.indrelid = $1::text::regclass and m.amname <> 'brin' and exists (
       select from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any(i.indkey::int2[])
         and a.attname in ('expiry', 'last_access', 'session', 'version'))`,
    [qualifiedName(settings)],
  )
  if (rows.length === 0)
    return [{ check: 'indexes', state: 'ok', found: 'none on what changes all the time' }]
  const names = rows.map(({ name }) => name as string)
  return [
    {
      check: 'indexes',
      state: 'wrong',
      found: `${names.join(', ')}: on a column that every touch changes, so that each must be written anew`,
      advice: names.map((name) => `drop index concurrently ${pg.escapeIdentifier(name)}`).join('; '),
    },
  ]
}

const vacuum: Check = async ({ connection }, settings) => {
  const [row] = await connection.query(
    `select current_setting('autovacuum') = 'on' as on, coalesce('autovacuum_enabled=false' = any(c.reloptions), false) as off,
       coalesce(s.n_dead_tup, 0)::float8 as dead, coalesce(s.n_live_tup, 0)::float8 as live,
       pg_table_size(c.oid)::float8 as size,
       extract(epoch from now() - greatest(s.last_autovacuum, s.last_vacuum))::float8 * 1000 as ago
     from pg_class c left join pg_stat_user_tables s on s.relid = c.oid where c.oid = $1::text::regclass`,
    [qualifiedName(settings)],
  )
  const name = qualifiedName(settings)
  const { dead, live, size, ago } = row as { dead: number; live: number; size: number; ago: number | null }
  const findings: Finding[] = []
  if (!row?.on)
    findings.push({
      check: 'autovacuum',
      state: 'wrong',
      found: 'off on this server: the table grows for ever',
      advice: 'alter system set autovacuum = on; select pg_reload_conf()',
    })
  else if (row?.off)
    findings.push({
      check: 'autovacuum',
      state: 'wrong',
      found: 'off for this table, which grows for ever',
      advice: `alter table ${name} reset (autovacuum_enabled)`,
    })
  else
    findings.push({
      check: 'autovacuum',
      state: 'ok',
      found: ago === null ? 'on; it has not been needed yet' : `on; last vacuumed ${duration(ago)} ago`,
    })
  const isBloated = dead > 10_000 && dead > live
  findings.push({
    check: 'bloat',
    state: isBloated ? 'wrong' : 'ok',
    found: `${number(dead)} dead rows beside ${number(live)} others, ${bytes(size)}`,
    ...(isBloated && { advice: `vacuum analyze ${name}; if that doesn’t help, end old transactions` }),
  })
  return findings
}

const sweeps: Check = async ({ connection }, settings) => {
  const name = qualifiedName(settings)
  const [last] = await connection.query(
    `select extract(epoch from now() - expiry::timestamptz)::float8 * 1000 as ago from ${name} where id = '${sweepRecordId}'`,
  )
  // Enough to see that nobody sweeps.
  const [old] = await connection.query(
    `select count(*)::int as n from (select from ${name} where expiry < now() - interval '1 day' and id <> '${sweepRecordId}' limit 1000) o`,
  )
  const many = old?.n as number
  const ago = last ? `the last ${duration(last.ago as number)} ago` : 'none is known of'
  return [
    many > 0
      ? {
          check: 'sweeps',
          state: 'wrong',
          found: `${ago}, and ${many === 1000 ? '1,000 or more' : many} rows expired more than a day ago`,
          advice:
            'use the store’s option cleanup, or koa-pg-store sweep from cron; a long grace explains it too',
        }
      : { check: 'sweeps', state: 'ok', found: ago },
  ]
}
