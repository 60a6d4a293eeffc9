// koa-pg-store migrate: creates or upgrades the table, or prints the SQL for that, and re-encrypts its sessions.
import { setTimeout as sleep } from 'node:timers/promises'
import { readCodec } from '../../codec/codec.js'
import type { Connection } from '../../postgres/connection.js'
import { UserFill } from '../../repository/user-fill.js'
import { canFillUserIds } from '../../repository/user-fill-record.js'
import { hashAllIds } from '../../schema/hash-ids.js'
import { ensureTable, recordHashed, recordReplacement, upgradeStatement } from '../../schema/migrate.js'
import { qualifiedName, type Table } from '../../schema/table.js'
import { readOptions } from '../../stores/options.js'
import type { Codec } from '../../types/options.js'
import type { Settings } from '../../types/settings.js'
import { messageOf } from '../../util/driver-errors.js'
import { type Command, type Context, UsageError } from '../command.js'
import { importDefault } from '../config.js'
import { number, type Terminal } from '../terminal.js'
import { type Reencrypted, reencryptAll } from './reencrypt.js'

export const migrate: Command = {
  summary: 'Create the session table, or upgrade one of koa-pg-session',
  help: `
Usage: koa-pg-store migrate [--print] [--raw-ids | --to-hashed-ids]
                            [--find-users] [--reencrypt <module>]

Creates schema, table and triggers where they are missing, and adds to a table
of koa-pg-session what it lacks. Does nothing if nothing is missing, so it can
run with every deployment. The store does the same at its first use, unless it
has the option create: false.

  koa-pg-store migrate
  koa-pg-store migrate --print | psql
      the same, with a role that has the rights

Options:
  --print                Print the SQL, for a database administrator, and change
                         nothing. Needs no database.
  --raw-ids              For stores with hashIds: false.
  --to-hashed-ids        Replace the raw session ids in a table by digests, now.
                         Only when no process of koa-pg-session uses it any
                         more: it would not find the sessions. Stores of
                         koa-pg-store do, also those with hashIds: false.
  --find-users           Find the users of sessions that were saved before, now.
                         Give the application's option userId with --config.
                         After a change of that option, run it when all
                         processes have the new one.
  --reencrypt <module>   Encrypt all sessions with the first key. The module, a
                         path from here, is one of yours whose default export
                         is the application's option codec, or has it, as for
                         --config:
                           export default encrypted({ keys: [newKey, oldKey] })
                         Give the new key to the application first. It may keep
                         running. Sessions that can't be decoded are counted
                         and left unchanged.`,
  options: {
    print: { type: 'boolean' },
    'raw-ids': { type: 'boolean' },
    'to-hashed-ids': { type: 'boolean' },
    'find-users': { type: 'boolean' },
    reencrypt: { type: 'string' },
  },
  needsDatabase: ({ print }) => print !== true,
  async run({ values, terminal, options, connection }) {
    if (values['raw-ids'] && values['to-hashed-ids'])
      throw new UsageError('--raw-ids and --to-hashed-ids contradict each other')
    if (values.print && values.reencrypt !== undefined)
      throw new UsageError('--print and --reencrypt contradict each other: SQL can’t encrypt')
    if (values.print && values['find-users'])
      throw new UsageError('--print and --find-users contradict each other: SQL can’t call the option userId')
    const codec = values.reencrypt === undefined ? undefined : await loadCodec(values.reencrypt as string)
    const settings = readOptions({
      ...options,
      create: true,
      hashIds: values['raw-ids'] ? false : values['to-hashed-ids'] ? true : options.hashIds,
    })
    if (values.print) {
      printSql(terminal, settings, values)
      return 0
    }
    const warnings: string[] = []
    const table = await ensureTable(connection, settings, ({ message }) => warnings.push(message))
    const isDone = !table.hasRawIds && !table.insertsRawIds
    if (values['to-hashed-ids'] && !isDone && table.isDistributed)
      throw new UsageError(`--to-hashed-ids: Citus can’t replace the ids of ${table.name}`)
    const hashedIds =
      values['to-hashed-ids'] && !isDone ? await hashIds(connection, settings, table, terminal) : 0
    const foundUsers = values['find-users']
      ? await findUsers(connection, settings, table, terminal)
      : undefined
    const reencrypted =
      codec &&
      (await reencryptAll(connection, table, codec, (done, { written }) =>
        terminal.progress(done, `${number(written)} re-encrypted`),
      ))
    const name = qualifiedName(settings)
    if (values.json)
      terminal.json({
        table: name,
        columns: [...table.columns],
        triggers: table.hasTriggers,
        hashedIds,
        warnings,
        ...(foundUsers !== undefined && { foundUsers }),
        ...(reencrypted && { reencrypted }),
      })
    else {
      for (const warning of warnings) terminal.note(`${terminal.style('yellow', 'Note:')} ${warning}`)
      terminal.line(`${name} is ready.`)
      if (!table.hasTriggers)
        terminal.line(
          'It has no triggers: changes made outside the store are seen only after the cache’s ttl.',
        )
      if (values['to-hashed-ids'])
        terminal.line(`${number(hashedIds)} session ids were replaced by their digests.`)
      else if (table.hasRawIds && !values['raw-ids'])
        terminal.line(
          'It may contain raw session ids. The store replaces them by digests, or run migrate --to-hashed-ids now.',
        )
      if (foundUsers !== undefined) terminal.line(`The users of ${number(foundUsers)} sessions were found.`)
      if (reencrypted) printReencrypted(terminal, reencrypted)
    }
    return reencrypted && reencrypted.undecoded + reencrypted.unwritten > 0 ? 1 : 0
  },
}

function printSql(terminal: Terminal, settings: Settings, { json }: Context['values']): void {
  const name = qualifiedName(settings)
  const sql = `${upgradeStatement(settings)};`
  if (json) terminal.json({ sql })
  else
    terminal.line(
      `-- Creates ${name} for koa-pg-store, or upgrades it. Can be run again.\n${sql}\n` +
        `-- The application's role then needs: grant select, insert, update, delete on ${name} to …;`,
    )
}

/** Resolves with the number of ids that were replaced by digests. */
async function hashIds(
  connection: Connection,
  settings: Settings,
  { hasHashedIds }: Table,
  terminal: Terminal,
): Promise<number> {
  const { signal } = new AbortController()
  const onProgress = (done: number): void => terminal.progress(done, 'of the table searched for raw ids')
  if (!hasHashedIds) await recordReplacement(connection, settings)
  let total = 0
  // Again until no raw id is found: another process may have locked a row, or insert raw ids until it notices, within a minute.
  for (let hashed = 1, passes = 0; hashed > 0; total += hashed, passes++) {
    if (passes > 0) await sleep(Math.min(passes * 100, 5_000))
    hashed = await hashAllIds(connection, settings, signal, onProgress)
  }
  await recordHashed(connection, settings)
  return total
}

/** Resolves with the number of sessions whose users were written. */
async function findUsers(
  connection: Connection,
  settings: Settings,
  table: Table,
  terminal: Terminal,
): Promise<number> {
  if (!canFillUserIds(table))
    throw new UsageError(`--find-users: ${table.name} needs the columns user_id and version`)
  const { signal } = new AbortController()
  const fill = new UserFill({ connection, table, settings, signal, pauseMs: 0 })
  return fill.runOnce((done) => terminal.progress(done, 'of the sessions searched for users'))
}

/** Imports the codec from a module of the application, so that no key is on a command line. */
async function loadCodec(path: string): Promise<Codec> {
  const value = await importDefault('--reencrypt', path)
  // A module for --config may be given too.
  const codec: unknown = Reflect.get(Object(value), 'codec') ?? value
  try {
    return readCodec(codec)
  } catch (error) {
    const problem = messageOf(error).replace(/^option "codec(.*?)"/, 'the default export$1')
    throw new UsageError(`--reencrypt: ${path}: ${problem}`)
  }
}

function printReencrypted(terminal: Terminal, result: Reencrypted): void {
  const { sessions, written, undecoded, unwritten, causes } = result
  terminal.line(`${number(written)} of ${number(sessions)} sessions were re-encrypted with the first key.`)
  if (undecoded > 0)
    terminal.note(
      `${number(undecoded)} could not be decoded and were left unchanged: ${causes.join('; ')}. Add the missing key to the module, and run this again.`,
    )
  if (unwritten > 0)
    terminal.note(`${number(unwritten)} could not be written and were left unchanged. Run this again.`)
}
