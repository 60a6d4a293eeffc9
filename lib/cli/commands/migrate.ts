// koa-pg-store migrate: makes or upgrades the table, or prints what that takes; and encrypts its sessions anew.
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { readCodec } from '../../codec/codec.js'
import { hashAllIds } from '../../schema/hash-ids.js'
import { ensureTable, recordHashed, upgradeStatement } from '../../schema/migrate.js'
import { qualifiedName } from '../../schema/table.js'
import { readOptions } from '../../stores/options.js'
import type { Codec } from '../../types/options.js'
import { messageOf } from '../../util/driver-errors.js'
import { type Command, UsageError } from '../command.js'
import { number, type Terminal } from '../terminal.js'
import { type Reencrypted, reencryptAll } from './reencrypt.js'

export const migrate: Command = {
  summary: 'Make the session table, or upgrade one of koa-pg-session',
  help: `
Usage: koa-pg-store migrate [--print] [--raw-ids | --to-hashed-ids]
                            [--reencrypt <module>]

Makes schema, table and triggers where they are missing, and adds to a table of
koa-pg-session what it lacks. Does nothing where nothing is missing, so it can
be run at every deployment. The store does the same at its first use, unless it
has the option create: false.

  koa-pg-store migrate
  koa-pg-store migrate --print | psql
      the same, by whoever may

Options:
  --print                Print the SQL, for a database administrator, and touch
                         nothing. Needs no database.
  --raw-ids              For stores with hashIds: false.
  --to-hashed-ids        Turn the raw session ids of a table into digests, now.
                         Only when no koa-pg-session and no store with hashIds:
                         false uses it any more: they'd not find the sessions.
  --reencrypt <module>   Write all sessions anew with the first key. The module,
                         a path from here, is one of yours whose default export
                         is the application's option codec, such as
                           export default encrypted({ keys: [newer, older] })
                         Give the new key to the application first. Saves go on
                         meanwhile; what can't be decoded is told and stays.`,
  options: {
    print: { type: 'boolean' },
    'raw-ids': { type: 'boolean' },
    'to-hashed-ids': { type: 'boolean' },
    reencrypt: { type: 'string' },
  },
  needsDatabase: ({ print }) => print !== true,
  async run({ values, terminal, options, connection }) {
    if (values['raw-ids'] && values['to-hashed-ids'])
      throw new UsageError('--raw-ids and --to-hashed-ids contradict each other')
    if (values.print && values.reencrypt !== undefined)
      throw new UsageError('--print and --reencrypt contradict each other: no SQL can encrypt')
    const codec = values.reencrypt === undefined ? undefined : await load(values.reencrypt as string)
    const settings = readOptions({ ...options, hashIds: values['raw-ids'] !== true })
    const name = qualifiedName(settings)
    if (values.print) {
      const statement = `${upgradeStatement(settings)};`
      if (values.json) terminal.json({ sql: statement })
      else
        terminal.line(
          `-- Makes ${name} for koa-pg-store, or upgrades it. Can be run again.\n${statement}\n` +
            `-- The application's role then needs: grant select, insert, update, delete on ${name} to …;`,
        )
      return 0
    }
    const warnings: string[] = []
    const table = await ensureTable(connection, settings, ({ message }) => warnings.push(message))
    let turned = 0
    if (values['to-hashed-ids']) {
      const { signal } = new AbortController()
      const tell = (done: number): void => terminal.progress(done, 'ids looked at')
      // Until a look at the whole table finds none: somebody may have written one meanwhile.
      for (let more = 1; more > 0; turned += more) more = await hashAllIds(connection, settings, signal, tell)
      await recordHashed(connection, settings)
    }
    const anew =
      codec &&
      (await reencryptAll(connection, table, codec, (done, { written }) =>
        terminal.progress(done, `${number(written)} written anew`),
      ))
    const result = {
      ...{ table: name, columns: [...table.columns], triggers: table.hasTriggers, turned, warnings },
      ...(anew && { reencrypted: anew }),
    }
    if (values.json) terminal.json(result)
    else {
      for (const warning of warnings) terminal.note(`${terminal.style('yellow', 'Note:')} ${warning}`)
      terminal.line(`${name} is ready.`)
      if (!table.hasTriggers)
        terminal.line('It has no triggers: changes made past the store are seen after the cache’s ttl.')
      if (values['to-hashed-ids']) terminal.line(`${number(turned)} session ids were turned into digests.`)
      else if (table.hasRawIds && !values['raw-ids'])
        terminal.line(
          'It may hold raw session ids; the store turns them, or migrate --to-hashed-ids does now.',
        )
      if (anew) tell(terminal, anew)
    }
    return anew && anew.undecoded + anew.unwritten > 0 ? 1 : 0
  },
}

/** The application's own codec, from the application's own module: keys stand in no command line. */
async function load(path: string): Promise<Codec> {
  let codec: unknown
  try {
    codec = ((await import(pathToFileURL(resolve(path)).href)) as { default?: unknown }).default
  } catch (error) {
    throw new Error(`--reencrypt: ${path} can’t be loaded: ${messageOf(error)}`, { cause: error })
  }
  try {
    return readCodec(codec)
  } catch (error) {
    const right = messageOf(error).replace(/^option "codec(.*?)"/, 'what it exports as default$1')
    throw new UsageError(`--reencrypt: ${path} is no module of a codec: ${right}`)
  }
}

function tell(terminal: Terminal, { sessions, written, undecoded, unwritten, causes }: Reencrypted): void {
  terminal.line(`${number(written)} of ${number(sessions)} sessions were written anew with the first key.`)
  if (undecoded > 0)
    terminal.note(
      `${number(undecoded)} could not be decoded, and are as they were: ${causes.join('; ')}. Add the key that is wanted to the module, and run this again.`,
    )
  if (unwritten > 0)
    terminal.note(`${number(unwritten)} could not be written, and are as they were. Run this again.`)
}
