// koa-pg-store list: lists sessions, with the handles by which they can be revoked.
import type { Connection } from '../../postgres/connection.js'
import { activeCondition } from '../../schema/expiry.js'
import { ensureTable } from '../../schema/migrate.js'
import type { Table } from '../../schema/table.js'
import { handleOf } from '../../session/session-id.js'
import { readOptions } from '../../stores/options.js'
import type { Row } from '../../types/options.js'
import { assertUserColumn, type Command, readInteger, readUserId } from '../command.js'
import { type ListedSession, sessionPrinter } from '../session-printer.js'
import { number } from '../terminal.js'

const defaultLimit = 100

/** How many rows are in memory at a time. */
const readBatchSize = 1_000

export const list: Command = {
  summary: 'List sessions, of a user or of all, with the handles to revoke them',
  help: `
Usage: koa-pg-store list [--user <id>] [--limit n]

Lists active sessions: the handle by which revoke destroys it, the user, when
it was created and last used, when it expires, and its size in the table. Never
prints a session's id or content, so encrypted tables need no key. A user's
sessions are sorted by last use, the latest first; others are not sorted. The
last use may be a minute old: see the store's option touch.

  koa-pg-store list --user 42
  koa-pg-store list --limit 1000000 | cut -f2 | sort | uniq -c | sort -n

To a file or a pipe it prints a line for each session, without a heading:
handle, user, created, last used (UTC), ms until it expires, and bytes, with
tabs between them. With --json it prints a JSON object for each.

Options:
  --user <id>            Only sessions of this user, as the store's option
                         userId returns it.
  --limit <n>            The maximum number of sessions. Default: ${defaultLimit}`,
  options: { user: { type: 'string' }, limit: { type: 'string' } },
  async run(context) {
    const { values, terminal, options, connection } = context
    const limit = readInteger(values, 'limit', 1) ?? defaultLimit
    const userId = readUserId(context)
    const settings = readOptions({ ...options, create: false })
    const table = await ensureTable(connection, settings, () => undefined)
    if (userId !== undefined) assertUserColumn(table)
    const print = sessionPrinter(terminal, values.json === true)
    let count = 0
    // Reads one more than it prints, to know whether there are more.
    for await (const row of readRows(connection, table, activeCondition(settings), userId, limit + 1)) {
      if (count < limit) print(toListed(row))
      count++
    }
    if (count === 0)
      terminal.note(`No active sessions ${userId === undefined ? '' : 'of this user '}in ${table.name}.`)
    if (count > limit) terminal.note(`There are more than ${number(limit)} sessions: see --limit`)
    return 0
  },
}

async function* readRows(
  connection: Connection,
  { name, columns }: Table,
  condition: string,
  userId: string | undefined,
  limit: number,
): AsyncGenerator<Row> {
  const optional = (column: string, sql = column): string => (columns.has(column) ? sql : 'null')
  const epochMs = (column: string): string => optional(column, `extract(epoch from ${column})::float8 * 1000`)
  const text =
    `select id, ${optional('user_id')} as user_id, ${epochMs('created_at')} as created_at,` +
    ` ${epochMs('last_access')} as last_accessed_at,` +
    ` extract(epoch from expiry::timestamptz - now())::float8 * 1000 as ttl_ms, octet_length(session::text) as bytes` +
    ` from ${name} where ${condition}` +
    (userId === undefined
      ? ' limit $1'
      : ` and user_id = $2 order by ${optional('last_access', 'last_access desc')}, id limit $1`)
  const values = userId === undefined ? [limit] : [limit, userId]
  const batches = connection.stream?.(text, values, readBatchSize) ?? []
  for await (const rows of batches) yield* rows
}

function toListed(row: Row): ListedSession {
  const isoDate = (ms: unknown): string | null => (typeof ms === 'number' ? new Date(ms).toISOString() : null)
  return {
    handle: handleOf(row.id as string),
    userId: row.user_id as string | null,
    createdAt: isoDate(row.created_at),
    lastAccessedAt: isoDate(row.last_accessed_at),
    expiresInMs: Math.max(0, Math.round(row.ttl_ms as number)),
    bytes: row.bytes as number,
  }
}
