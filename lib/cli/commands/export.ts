// koa-pg-store export: prints sessions with their content, as JSON lines.
import { fromColumn } from '../../codec/codec.js'
import { activeCondition } from '../../schema/expiry.js'
import { ensureTable } from '../../schema/migrate.js'
import { parse } from '../../session/json.js'
import { handleOf } from '../../session/session-id.js'
import { fromStored } from '../../session/stored-session.js'
import { readOptions } from '../../stores/options.js'
import { DecodeError } from '../../types/errors.js'
import type { Codec, Row } from '../../types/options.js'
import { assertUserColumn, type Command, readUserId } from '../command.js'
import { number } from '../terminal.js'

/** How many rows are in memory at a time: each may have a megabyte. */
const readBatchSize = 100

const maxCauses = 5

/** What the codecs of this package write instead of a session. */
const encodedNames = ['~aes256gcm', '~deflate']

export const exportSessions: Command = {
  summary: 'Print sessions with their content, of a user or of all',
  help: `
Usage: koa-pg-store export [--user <id>] [--config <module>]

Prints a line of JSON for each active session: its handle, user, times, and
content. Never prints an id. import reads these lines into another table, where
the users' cookies go on working. The content is as secret as the sessions: mind
where it is written.

  koa-pg-store export > sessions.jsonl
  koa-pg-store export --user 42
      what is stored about one person
  koa-pg-store export --config ./session-options.js
      sessions that the option codec has encrypted or compressed

Options:
  --user <id>            Only sessions of this user, as the store's option
                         userId returns it.

Exit status 1 if sessions could not be decoded; they are counted by reason.`,
  options: { user: { type: 'string' } },
  async run(context) {
    const { terminal, options, connection } = context
    const userId = readUserId(context)
    const settings = readOptions({ ...options, create: false })
    const table = await ensureTable(connection, settings, () => undefined)
    if (userId !== undefined) assertUserColumn(table)
    const optional = (column: string, sql: string): string => (table.columns.has(column) ? sql : 'null')
    const epochMs = (column: string): string =>
      optional(column, `extract(epoch from ${column}::timestamptz)::float8 * 1000`)
    const text =
      `select id, session::text as session, ${optional('user_id', 'user_id')} as user_id, ${epochMs('created_at')} as created_at,` +
      ` ${epochMs('last_access')} as last_access, extract(epoch from expiry::timestamptz)::float8 * 1000 as expiry` +
      ` from ${table.name} where ${activeCondition(settings)}${userId === undefined ? '' : ' and user_id = $1'}`
    const causes = new Set<string>()
    let undecoded = 0
    for await (const rows of connection.stream?.(text, userId === undefined ? [] : [userId], readBatchSize) ??
      [])
      for (const row of rows)
        try {
          terminal.line(JSON.stringify(await toLine(row, settings.codec)))
        } catch (error) {
          if (!(error instanceof DecodeError)) throw error
          undecoded++
          if (causes.size < maxCauses) causes.add(error.message)
        }
    if (undecoded > 0) terminal.note(`${number(undecoded)} could not be decoded: ${[...causes].join('; ')}`)
    return undecoded > 0 ? 1 : 0
  },
}

async function toLine(row: Row, codec: Codec | undefined): Promise<object> {
  const handle = handleOf(row.id as string)
  const text = row.session as string
  const session = parse(codec === undefined ? text : await fromColumn(codec, text, { id: handle }))
  if (codec === undefined && encodedNames.some((name) => Object.hasOwn(Object(session), name)))
    throw new DecodeError('the session is encoded: give the module with the option codec as --config')
  const isoTime = (ms: unknown): string | undefined =>
    typeof ms === 'number' ? new Date(ms).toISOString() : undefined
  return {
    handle,
    userId: row.user_id ?? undefined,
    createdAt: isoTime(row.created_at),
    lastAccessedAt: isoTime(row.last_access),
    expiresAt: isoTime(row.expiry),
    session: session && fromStored(session, undefined),
  }
}
