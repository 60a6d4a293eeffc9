// koa-pg-store revoke: destroys sessions from outside the application, and notifies every instance.
import { channelOf } from '../../notifications/payload.js'
import { createStatements } from '../../repository/prepared-statements.js'
import { SessionQueries } from '../../repository/session-queries.js'
import { SessionRegistry } from '../../repository/session-registry.js'
import { ensureTable } from '../../schema/migrate.js'
import { notRecordSql, type Table } from '../../schema/table.js'
import { handleOf } from '../../session/session-id.js'
import { readOptions } from '../../stores/options.js'
import { assertUserColumn, type Command, type Context, isHandle, readUserId, UsageError } from '../command.js'
import { number } from '../terminal.js'

/** These statements may take longer than those of a request. */
const queryTimeoutMs = 600_000

export const revoke: Command = {
  summary: 'Destroy a session, all of a user, or all',
  help: `
Usage: koa-pg-store revoke (<handle> | --user <id> [--except <handle>] | --all)

Destroys sessions at once, in the caches of all instances too: their users are
signed out, and no request in flight brings a session back. Handles are printed
by list; a session's id is not a handle.

  koa-pg-store revoke CEV8ZOeEfTVOhZ…
  koa-pg-store revoke --user 42
      signs the user out everywhere; with --except everywhere else
  koa-pg-store revoke --all
      signs out all users; asks first

Options:
  --user <id>            All sessions of this user.
  --except <handle>      Keep this one, which must be one of the user's.
  --all                  All sessions in the table.
  --yes                  Don't ask for confirmation.

Exit status 1 if there is no session with this handle. A user without sessions
is not an error.`,
  options: {
    user: { type: 'string' },
    except: { type: 'string' },
    all: { type: 'boolean' },
    yes: { type: 'boolean' },
  },
  takesHandles: true,
  async run(context) {
    const { values, terminal, options, connection } = context
    const { handle, userId } = readSelection(context)
    const settings = readOptions({ ...options, create: false })
    const existing = await ensureTable(connection, settings, () => undefined)
    // It isn't known whether the application has hashIds: false.
    const table: Table = { ...existing, insertsRawIds: true }
    const channel = channelOf(settings)
    const statements = createStatements(table, settings, channel)
    let total = 0
    let done = 0
    const registry = new SessionRegistry({
      connection,
      table,
      queries: new SessionQueries(connection, table, channel, statements),
      activeCondition: statements.readCondition,
      codec: undefined,
      onDestroyed: ({ length }) => {
        done += length
        if (total > 0) terminal.progress(Math.min(1, done / total), `${number(done)} destroyed`)
      },
    })
    let destroyed: number
    if (handle !== undefined) {
      if (!(await registry.revoke(handle)))
        throw new Error(`there is no session with this handle in ${table.name}`)
      destroyed = 1
    } else if (userId !== undefined) {
      assertUserColumn(table)
      await assertExceptExists(context, table, userId)
      // Undefined if the excepted session has ended since the check.
      destroyed = (await registry.destroySessionsOf(userId, values.except as string | undefined)) ?? 0
    } else {
      total = await countAll(context, table)
      const what = total === 1 ? 'the only session' : `all ${number(total)} sessions`
      if (!values.yes && !(await terminal.confirm(`Destroy ${what} in ${table.name}?`))) {
        terminal.note('Nothing was changed.')
        return 1
      }
      destroyed = await registry.destroyAll()
    }
    if (values.json) terminal.json({ destroyed })
    else terminal.line(`${number(destroyed)} ${destroyed === 1 ? 'session' : 'sessions'} destroyed.`)
    return 0
  },
}

/** Returns the handle or the user that was given, or neither for `--all`. */
function readSelection(context: Context): { handle?: string | undefined; userId?: string | undefined } {
  const { values, positionals, terminal } = context
  const [handle, ...more] = positionals
  const given = [handle, values.user, values.all || undefined].filter((value) => value !== undefined)
  if (given.length !== 1 || more.length > 0)
    throw new UsageError('which sessions? Give one of: a handle, --user or --all')
  if (values.except !== undefined && values.user === undefined) throw new UsageError('--except needs --user')
  if (handle !== undefined) assertHandle('the handle', handle)
  if (values.except !== undefined) assertHandle('--except', String(values.except))
  if (values.all && !values.yes && !terminal.canAsk)
    throw new UsageError('--all destroys all sessions, and there is no terminal to ask: add --yes')
  return { handle, userId: readUserId(context) }
}

/** The error doesn't repeat the text, which may be a session id given by mistake. */
function assertHandle(name: string, text: string): void {
  if (!isHandle(text))
    throw new UsageError(
      `${name} must be one that koa-pg-store list prints, of 43 characters; received ${text.length} characters`,
    )
}

/** A typing error in `--except` must not destroy the session that was to stay. */
async function assertExceptExists(
  { values, connection }: Context,
  { name }: Table,
  userId: string,
): Promise<void> {
  if (values.except === undefined) return
  const rows = await connection.query(
    `select id from ${name} where user_id = $1 and session is not null and expiry > now()`,
    [userId],
    queryTimeoutMs,
  )
  if (!rows.some(({ id }) => handleOf(id as string) === values.except))
    throw new Error('this user has no session with the handle given by --except; nothing was changed')
}

async function countAll({ connection }: Context, { name }: Table): Promise<number> {
  const [row] = await connection.query(
    `select count(*)::float8 as n from ${name} where session is not null and ${notRecordSql()}`,
    [],
    queryTimeoutMs,
  )
  return row?.n as number
}
