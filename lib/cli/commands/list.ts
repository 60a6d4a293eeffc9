// koa-pg-store list: whose sessions are there, and the handles to end them by.

import type { Connection } from '../../postgres/connection.js'
import { ensureTable } from '../../schema/migrate.js'
import type { Table } from '../../schema/table.js'
import { handleOf } from '../../session/session-id.js'
import { toUserId } from '../../session/user-id.js'
import { readOptions } from '../../stores/options.js'
import type { Row } from '../../types/options.js'
import { messageOf } from '../../util/driver-errors.js'
import { type Command, type Context, UsageError, wholeNumber } from '../command.js'
import { bytes, duration, number, type Terminal } from '../terminal.js'

const defaultLimit = 100

/** How many rows are in memory at a time. */
const readAtOnce = 1_000

/** A session as it is printed. Neither its id nor what it holds is. */
interface Listed {
  readonly handle: string
  readonly userId: string | null
  readonly createdAt: string | null
  readonly lastAccessedAt: string | null
  readonly expiresInMs: number
  readonly bytes: number
}

export const list: Command = {
  summary: 'List sessions, of a user or of all, with the handles to revoke them',
  help: `
Usage: koa-pg-store list [--user <id>] [--limit n]

Lists sessions that are alive: the handle, by which revoke ends it, the user,
when it was created and last used, when it expires, and its size in the table.
Never the session's id or what it holds, so encrypted tables need no key. A
user's sessions come with the last used first, others in no order. The last
use may be a minute late: see the store's option touch.

  koa-pg-store list --user 42
  koa-pg-store list --limit 1000000 | cut -f2 | sort | uniq -c | sort -n

Where it isn't a terminal that it prints to, its lines have no heading: handle,
user, created, last used (UTC), ms to live and bytes, with a tab between them.
With --json each line is an object.

Options:
  --user <id>            Only this user's, as the store's option userId says.
  --limit <n>            At most so many. Default: ${defaultLimit}`,
  options: { user: { type: 'string' }, limit: { type: 'string' } },
  async run(context) {
    const { values, terminal, options, connection } = context
    const limit = wholeNumber(values, 'limit', 1) ?? defaultLimit
    const userId = userOf(context)
    const table = await ensureTable(connection, readOptions({ ...options, create: false }), () => undefined)
    if (userId !== undefined) mustKnowUsers(table)
    const print = printer(terminal, values.json === true)
    let count = 0
    // One more than is wanted tells that there are more.
    for await (const row of read(connection, table, userId, limit + 1)) {
      if (count < limit) print(listed(row))
      count++
    }
    if (count === 0)
      terminal.note(`No session ${userId === undefined ? '' : 'of this user '}is alive in ${table.name}.`)
    if (count > limit) terminal.note(`There are more than the ${number(limit)} that are shown: see --limit`)
    return 0
  },
}

/** The user that was named. */
export function userOf({ values }: Context): string | undefined {
  if (values.user === undefined) return undefined
  try {
    return toUserId(values.user, '--user')
  } catch (error) {
    throw new UsageError(messageOf(error))
  }
}

export function mustKnowUsers({ name, columns }: Table): void {
  if (!columns.has('user_id'))
    throw new Error(`${name} has no column user_id, so nobody knows whose a session is: run migrate`)
}

async function* read(
  connection: Connection,
  { name, columns }: Table,
  userId: string | undefined,
  limit: number,
): AsyncGenerator<Row> {
  const optional = (column: string, value = column): string => (columns.has(column) ? value : 'null')
  const time = (column: string): string => optional(column, `extract(epoch from ${column})::float8 * 1000`)
  const text =
    `select id, ${optional('user_id')} as user_id, ${time('created_at')} as created, ${time('last_access')} as used,` +
    ` extract(epoch from expiry::timestamptz - now())::float8 * 1000 as left, octet_length(session::text) as bytes` +
    ` from ${name} where session is not null and expiry > now()` +
    (userId === undefined
      ? ' limit $1'
      : ` and user_id = $2 order by ${optional('last_access', 'last_access desc')}, id limit $1`)
  const values = userId === undefined ? [limit] : [limit, userId]
  const all = connection.stream?.(text, values, readAtOnce) ?? []
  for await (const rows of all) yield* rows
}

function listed(row: Row): Listed {
  const date = (ms: unknown): string | null => (typeof ms === 'number' ? new Date(ms).toISOString() : null)
  return {
    handle: handleOf(row.id as string),
    userId: row.user_id as string | null,
    createdAt: date(row.created),
    lastAccessedAt: date(row.used),
    expiresInMs: Math.max(0, Math.round(row.left as number)),
    bytes: row.bytes as number,
  }
}

/** As an object, as fields, or as a table that fits the window. */
export function printer(terminal: Terminal, isJson: boolean): (one: Listed) => void {
  if (isJson) return (one) => terminal.json(one)
  if (!terminal.isWatched)
    return ({ handle, userId, createdAt, lastAccessedAt, expiresInMs, bytes }) =>
      terminal.line(
        [handle, shown(userId), createdAt ?? '', lastAccessedAt ?? '', expiresInMs, bytes].join('\t'),
      )
  return tabular(terminal)
}

/** The widths of the columns that are as wide as they must be: a handle, times, a size; and of a user. */
const widths = { handle: 43, time: 12, size: 8 }
const users = { least: 8, most: 36 }
const gaps = 5 * 2

function tabular(terminal: Terminal): (one: Listed) => void {
  const { width } = terminal
  const room = width - widths.handle - 3 * widths.time - widths.size - gaps
  const user = Math.min(room, users.most)
  const line = (...cells: string[]): string => {
    const [handle = '', whose = '', created = '', used = '', expires = '', size = ''] = cells
    const times = [created, used, expires].map((time) => time.padEnd(widths.time))
    return [
      handle.padEnd(widths.handle),
      clipped(whose, user).padEnd(user),
      ...times,
      size.padStart(widths.size),
    ].join('  ')
  }
  if (user >= users.least)
    terminal.line(terminal.style('bold', line('handle', 'user', 'created', 'last used', 'expires', 'size')))
  return (one) => {
    const created = ago(one.createdAt)
    const used = ago(one.lastAccessedAt)
    const expires = `in ${largest(one.expiresInMs)}`
    const whose = shown(one.userId)
    if (user >= users.least) {
      terminal.line(line(one.handle, whose, created, used, expires, bytes(one.bytes)))
      return
    }
    // A handle is there to be copied: it has a line of its own, whole, and the rest goes below.
    terminal.line(terminal.style('bold', one.handle))
    const rest = [used && `used ${used}`, `expires ${expires}`, bytes(one.bytes)].filter(Boolean).join(' · ')
    const name = clipped(whose, Math.max(users.least, width - rest.length - 5))
    terminal.line(`  ${clipped(name === '' ? rest : `${name} · ${rest}`, width - 2)}`)
  }
}

function ago(at: string | null): string {
  return at === null ? '' : `${largest(Math.max(0, Date.now() - Date.parse(at)))} ago`
}

/** The largest unit alone. */
function largest(ms: number): string {
  return duration(ms).split(' ', 2).join(' ')
}

/** Whatever an application calls its users: no tab ends a field, and no control character reaches a terminal. */
function shown(userId: string | null): string {
  return (userId ?? '').replaceAll(/\p{C}/gu, '\ufffd')
}

function clipped(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text
}
