// koa-pg-store import: takes sessions over from another store, with their ids and expiries.
import { connect } from '../../postgres/connect.js'
import { isStatementError } from '../../postgres/connection.js'
import { type ImportedSession, SessionImporter } from '../../repository/session-importer.js'
import { ensureTable } from '../../schema/migrate.js'
import { readOptions } from '../../stores/options.js'
import { EncodeError } from '../../types/errors.js'
import { messageOf } from '../../util/driver-errors.js'
import { type Command, type Context, readInteger, UsageError } from '../command.js'
import { openJsonLines } from '../sources/json-lines.js'
import { type ParseOptions, parseRow } from '../sources/parse.js'
import { openRedis } from '../sources/redis.js'
import type { Format, Source, SourceRow } from '../sources/source.js'
import { openTable, tableFormats } from '../sources/table.js'
import { number, type Terminal } from '../terminal.js'

/** How many different reasons why sessions can't be imported are printed. */
const maxCauses = 5

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
    const settings = readOptions({
      ...options,
      create: isDryRun ? false : options.create,
      ttl: readInteger(values, 'ttl', 1) ?? options.ttl,
      hashIds: values['raw-ids'] ? false : options.hashIds,
    })
    const prefix = (values.prefix as string | undefined) ?? prefixes[format]
    const idPrefix = (values['id-prefix'] as string | undefined) ?? (format === 'koa-redis' ? prefix : '')
    const source = await openSource(context, format, prefix)
    try {
      if (values.move && source.remove === undefined)
        throw new UsageError('--move needs Redis or a table: lines can’t be deleted from a file')
      const table = await ensureTable(connection, settings, ({ message }) => terminal.note(message))
      const importer = new SessionImporter({ connection, table, codec: settings.codec })
      const run = new Import(source, importer, { format, prefix, idPrefix, settings }, terminal)
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

/** One run: reads the source to its end, or until a signal. */
class Import {
  /** `existing` were in the table already, or were destroyed there within the last hour. */
  readonly counts = { read: 0, imported: 0, existing: 0, expired: 0, invalid: 0 }
  readonly causes = new Set<string>()
  isInterrupted = false
  readonly #source: Source
  readonly #importer: SessionImporter
  readonly #options: ParseOptions
  readonly #terminal: Terminal

  constructor(source: Source, importer: SessionImporter, options: ParseOptions, terminal: Terminal) {
    this.#source = source
    this.#importer = importer
    this.#options = options
    this.#terminal = terminal
  }

  async run(isDryRun: boolean, isMove: boolean): Promise<void> {
    const onSignal = (): void => {
      this.isInterrupted = true
    }
    process.once('SIGTERM', onSignal).once('SIGINT', onSignal)
    try {
      for await (const { rows, done } of this.#source.read()) {
        const handledKeys = await this.#importBatch(rows, isDryRun)
        if (isMove && handledKeys.length > 0) await this.#source.remove?.(handledKeys)
        this.#terminal.progress(done, `${number(this.counts.imported)} imported`)
        if (this.isInterrupted) return
      }
    } catch (error) {
      const { imported } = this.counts
      throw new Error(`${messageOf(error)}; ${number(imported)} were imported: run it again to continue`, {
        cause: error,
      })
    } finally {
      process.off('SIGTERM', onSignal).off('SIGINT', onSignal)
    }
  }

  /** Resolves with the keys of the sessions that are in the table now. */
  async #importBatch(rows: readonly SourceRow[], isDryRun: boolean): Promise<string[]> {
    this.counts.read += rows.length
    const sessions = new Map<string, ImportedSession>()
    for (const row of rows) {
      try {
        const session = parseRow(row, this.#options)
        if (Number(session.expires) > (session.expires instanceof Date ? Date.now() : 0))
          sessions.set(row.key, session)
        else this.counts.expired++
      } catch (error) {
        const place = this.#options.format === 'jsonl' ? `${row.key}: ` : ''
        this.#addInvalid(`${place}${messageOf(error)}`)
      }
    }
    if (sessions.size === 0) return []
    if (!isDryRun) return this.#insert(sessions)
    this.#count(sessions.size, await this.#importer.findInsertable([...sessions.values()]))
    return []
  }

  /** Inserts sessions together, or one by one if one of them prevents that. */
  async #insert(sessions: ReadonlyMap<string, ImportedSession>): Promise<string[]> {
    try {
      this.#count(sessions.size, await this.#importer.insert([...sessions.values()]))
      return [...sessions.keys()]
    } catch (error) {
      if (!(error instanceof EncodeError) && !isStatementError(error)) throw error
      if (sessions.size === 1) {
        this.#addInvalid(messageOf(error))
        return []
      }
      const keys: string[] = []
      for (const entry of sessions) keys.push(...(await this.#insert(new Map([entry]))))
      return keys
    }
  }

  #count(size: number, inserted: ReadonlySet<string>): void {
    this.counts.imported += inserted.size
    this.counts.existing += size - inserted.size
  }

  #addInvalid(cause: string): void {
    this.counts.invalid++
    if (this.causes.size < maxCauses) this.causes.add(cause)
  }

  print(name: string, isDryRun: boolean): void {
    const { imported, existing, expired, invalid } = this.counts
    const sessions = imported === 1 ? '1 session' : `${number(imported)} sessions`
    const verb = isDryRun ? 'would be' : imported === 1 ? 'was' : 'were'
    this.#terminal.line(`${sessions} ${verb} imported into ${name}.`)
    if (existing > 0) this.#terminal.line(`${number(existing)} already there were left as they are.`)
    if (expired > 0) this.#terminal.line(`${number(expired)} had expired.`)
    if (invalid > 0)
      this.#terminal.note(`${number(invalid)} could not be imported: ${[...this.causes].join('; ')}.`)
    if (this.isInterrupted) this.#terminal.note('Interrupted: run it again to continue.')
  }
}
