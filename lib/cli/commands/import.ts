// koa-pg-store import: takes sessions over from another store, with their ids and expiries.
import { connect } from '../../postgres/connect.js'
import { SessionImporter } from '../../repository/session-importer.js'
import { inspect } from '../../schema/inspect.js'
import { ensureTable } from '../../schema/migrate.js'
import { readOptions } from '../../stores/options.js'
import { type Command, type Context, readInteger, UsageError } from '../command.js'
import { openJsonLines } from '../sources/json-lines.js'
import { openRedis } from '../sources/redis.js'
import type { Format, Source } from '../sources/source.js'
import { openTable, tableFormats } from '../sources/table.js'
import { ImportRun } from './import-run.js'

/** What the keys of each format begin with, by default. */
const prefixes: Record<Format, string> = {
  'koa-redis': 'koa:sess:',
  'connect-redis': 'sess:',
  'connect-pg-simple': '',
  keyv: 'keyv:',
  jsonl: '',
}

export const importSessions: Command = {
  summary: 'Take sessions over from Redis, another table or a file',
  help: `
Usage: koa-pg-store import --from <source> [--format <name>] [--dry-run]

Copies the sessions of another store, with their ids and expiries, so that the
users' cookies go on working. A session that is in the table already is left as
it is. So import can be interrupted and run again at any time, while the
application runs.

  koa-pg-store import --from redis://localhost
      sessions of koa-generic-session in koa-redis
  koa-pg-store import --from redis://localhost --prefix ''
      the same of koa-session, which has no prefix: of all keys
  koa-pg-store import --from redis://localhost --format connect-redis
  koa-pg-store import --format connect-pg-simple --from-table sessions
      from a table in the same database
  koa-pg-store import --from sessions.jsonl
      from lines as export prints them, or with "sid" instead of "handle"

Options:
  --from <source>        redis://… or rediss://…, postgres://…, a file of JSON
                         lines, or - for the standard input. Default for tables:
                         the database of the sessions. Redis is read with the
                         package ioredis or redis, whichever is installed.
  --format <name>        koa-redis (default for Redis), connect-redis,
                         connect-pg-simple, keyv, or jsonl (default for files).
  --prefix <text>        Only keys that begin with this. Default: koa:sess: for
                         koa-redis, sess: for connect-redis, keyv: for keyv.
  --id-prefix <text>     What session ids begin with instead of the prefix.
                         Default: koa:sess: for koa-redis (its keys are ids),
                         else nothing. For koa-generic-session: koa:sess:
  --from-schema <name>   The schema of the other table. Default: public
  --from-table <name>    The other table. Default: session or keyv
  --ttl <ms>             For sessions that the source keeps forever. Default:
                         the store's option ttl (one day)
  --raw-ids              For stores with hashIds: false.
  --dry-run              Only count what would be imported.
  --move                 Delete each session from the source once it is in the
                         table. For when no process uses the source any more.

A destroyed session is not imported again for an hour. If import is to be run
again later than that, use --move.

Exit status 1 if sessions could not be imported; they are counted by reason.`,
  options: {
    from: { type: 'string' },
    format: { type: 'string' },
    prefix: { type: 'string' },
    'id-prefix': { type: 'string' },
    'from-schema': { type: 'string' },
    'from-table': { type: 'string' },
    ttl: { type: 'string' },
    'raw-ids': { type: 'boolean' },
    'dry-run': { type: 'boolean' },
    move: { type: 'boolean' },
  },
  async run(context) {
    const { values, terminal, options, connection } = context
    const isDryRun = values['dry-run'] === true
    if (isDryRun && values.move) throw new UsageError('--dry-run and --move contradict each other')
    const format = readFormat(context)
    const prefix = (values.prefix as string | undefined) ?? prefixes[format]
    const idPrefix = (values['id-prefix'] as string | undefined) ?? (format === 'koa-redis' ? prefix : '')
    const source = await openSource(context, format, prefix)
    try {
      if (values.move && source.remove === undefined)
        throw new UsageError('--move needs Redis or a table: lines can’t be deleted from a file')
      const settings = readOptions({
        ...options,
        create: isDryRun ? false : options.create,
        ttl: readInteger(values, 'ttl', 1) ?? options.ttl,
        hashIds:
          values['raw-ids'] || (options.hashIds === undefined && (await hasDeclaredRawIds(context)))
            ? false
            : options.hashIds,
      })
      const table = await ensureTable(connection, settings, ({ message }) => terminal.note(message))
      const importer = new SessionImporter({ connection, table, codec: settings.codec })
      const run = new ImportRun(source, importer, { format, prefix, idPrefix, settings }, terminal)
      await run.run(isDryRun, values.move === true)
      if (values.json)
        terminal.json({ ...run.counts, causes: [...run.causes], interrupted: run.isInterrupted })
      else run.print(table.name, isDryRun)
      return run.counts.invalid > 0 || run.isInterrupted ? 1 : 0
    } finally {
      await source.end()
    }
  },
}

/** Whether a store with `hashIds: false` uses the table: then koa-pg-session, which finds only raw ids, may use it too. */
async function hasDeclaredRawIds({ options, connection }: Context): Promise<boolean> {
  return (await inspect(connection, readOptions(options))).hasDeclaredRawIds
}

function readFormat({ values }: Context): Format {
  const { from } = values
  const isRedis = /^rediss?:\/\//.test(String(from))
  const isPostgres = from === undefined || /^postgres(ql)?:\/\//.test(String(from))
  const allowed = (
    isRedis ? ['koa-redis', 'connect-redis'] : isPostgres ? Object.keys(tableFormats) : ['jsonl']
  ) as Format[]
  const format = values.format ?? (isPostgres ? undefined : allowed[0])
  if (format === undefined && from === undefined)
    throw new UsageError(
      'from where? Give --from, or --format connect-pg-simple or keyv for a table in the same database',
    )
  if (!allowed.includes(format as Format))
    throw new UsageError(
      `--format must be ${allowed.join(' or ')} for this source; received ${JSON.stringify(format) ?? 'none'}`,
    )
  return format as Format
}

function openSource(
  { values, connection, terminal }: Context,
  format: Format,
  prefix: string,
): Source | Promise<Source> {
  const from = values.from as string | undefined
  if (format === 'jsonl') return openJsonLines(from as string)
  if (format === 'koa-redis' || format === 'connect-redis') return openRedis(from as string, prefix)
  const schema = (values['from-schema'] as string | undefined) ?? 'public'
  const table = values['from-table'] as string | undefined
  if (from === undefined)
    return openTable({ connection, format, schema, table, prefix, end: async () => undefined })
  const other = connect({ connectionString: from, max: 1 }, { warn: (error) => terminal.note(error.message) })
  return openTable({ connection: other, format, schema, table, prefix, end: () => other.end() })
}
