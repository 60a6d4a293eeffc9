// koa-pg-store revoke: ends sessions past the application, and every instance hears of it.

import { channelOf } from '../../notifications/payload.js'
import { SessionQueries } from '../../repository/session-queries.js'
import { SessionRegistry } from '../../repository/session-registry.js'
import { SessionStatements } from '../../repository/session-statements.js'
import { ensureTable } from '../../schema/migrate.js'
import { sweepRecordId, type Table } from '../../schema/table.js'
import { handleOf } from '../../session/session-id.js'
import { readOptions } from '../../stores/options.js'
import { type Command, type Context, isHandle, UsageError } from '../command.js'
import { number } from '../terminal.js'
import { mustKnowUsers, userOf } from './list.js'

/** Counting looks at the whole table. */
const countMs = 600_000

export const revoke: Command = {
  summary: 'End a session, all of a user, or all',
  help: `
Usage: koa-pg-store revoke (<handle> | --user <id> [--except <handle>] | --all)

Ends sessions at once, in the caches of all instances too: whoever has one is
signed out, and no request that is under way brings it back. Handles are what
list prints; a session's id is none.

  koa-pg-store revoke CEV8ZOeEfTVOhZ…
  koa-pg-store revoke --user 42
      everywhere; with --except everywhere but there
  koa-pg-store revoke --all
      everybody; asks first

Options:
  --user <id>            All sessions of this user.
  --except <handle>      But this one, which must be one of them.
  --all                  All sessions that are in the table, of everybody.
  --yes                  Don't ask.

Exit status 1 if there is no such session; a user without any is no failure.`,
  options: {
    user: { type: 'string' },
    except: { type: 'string' },
    all: { type: 'boolean' },
    yes: { type: 'boolean' },
  },
  takesHandles: true,
  async run(context) {
    const { values, terminal, options, connection } = context
    const [handle, userId] = read(context)
    const settings = readOptions({ ...options, create: false })
    const found = await ensureTable(connection, settings, () => undefined)
    // Whatever ids the table has: the statements name sessions by what they find.
    const table: Table = { ...found, hasRawIds: true }
    const statements = new SessionStatements(table, { ...settings, hashIds: false }, channelOf(settings))
    const queries = new SessionQueries(connection, table, channelOf(settings), statements)
    let [done, all] = [0, 0]
    const users = new SessionRegistry({
      ...{
        connection,
        table,
        queries,
        activeCondition: statements.activeCondition,
        hashIds: true,
        codec: undefined,
      },
      onDestroyed: ({ length }) => {
        done += length
        if (all > 0) terminal.progress(Math.min(1, done / all), `${number(done)} ended`)
      },
    })
    let ended: number
    if (handle !== undefined) {
      ended = (await users.revoke(handle)) ? 1 : 0
      if (ended === 0) throw new Error(`there is no session with this handle in ${table.name}`)
    } else if (userId !== undefined) {
      mustKnowUsers(table)
      await mustBeOne(context, table, userId)
      ended = await users.destroySessionsOf(userId, values.except as string | undefined)
    } else {
      const [row] = await connection.query(
        `select count(*)::float8 as n from ${table.name} where session is not null and id <> '${sweepRecordId}'`,
        [],
        countMs,
      )
      all = row?.n as number
      if (!values.yes && !(await terminal.confirm(`End ${sessions(all)} in ${table.name}, of everybody?`))) {
        terminal.note('Nothing was done.')
        return 1
      }
      ended = await users.destroyAll()
    }
    if (values.json) terminal.json({ ended })
    else terminal.line(`${sessions(ended)} ended.`)
    return 0
  },
}

/** The handle or the user that was given, or neither: all. */
function read(context: Context): [handle: string | undefined, userId: string | undefined] {
  const { values, positionals, terminal } = context
  const [handle, ...more] = positionals
  const ways = [handle, values.user, values.all || undefined].filter((way) => way !== undefined)
  if (ways.length !== 1 || more.length > 0)
    throw new UsageError('which sessions? Give one of: a handle, --user or --all')
  if (values.except !== undefined && values.user === undefined) throw new UsageError('--except needs --user')
  // What somebody takes for a handle may be a session's id: it isn't repeated.
  for (const [what, given] of [
    ['the handle', handle],
    ['--except', values.except],
  ] as const)
    if (given !== undefined && !isHandle(String(given)))
      throw new UsageError(
        `${what} must be one of those that koa-pg-store list prints, of 43 characters; received ${String(given).length} characters`,
      )
  if (values.all && !values.yes && !terminal.canAsk)
    throw new UsageError(
      '--all ends the sessions of everybody, and there is no terminal to ask: give --yes too',
    )
  return [handle, userOf(context)]
}

/** A slip of the pen must not end the one session that was to stay. */
async function mustBeOne({ values, connection }: Context, { name }: Table, userId: string): Promise<void> {
  if (values.except === undefined) return
  const rows = await connection.query(
    `select id from ${name} where user_id = $1 and session is not null and expiry > now()`,
    [userId],
    countMs,
  )
  if (!rows.some(({ id }) => handleOf(id as string) === values.except))
    throw new Error('this user has no session with the handle that --except gives; nothing was done')
}

function sessions(count: number): string {
  return `${number(count)} ${count === 1 ? 'session' : 'sessions'}`
}
