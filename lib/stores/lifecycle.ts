// The rooms that work on the table, once it is ready: made, and connected with each other.
import type { Cache } from '../cache/local-cache.js'
import type { Bases } from '../cache/merge-bases.js'
import { channelOf } from '../notifications/payload.js'
import type { Connection } from '../postgres/connection.js'
import type { Changed } from '../repository/row-mapper.js'
import { Queries } from '../repository/session-queries.js'
import { Users } from '../repository/session-registry.js'
import { Sessions } from '../repository/session-repository.js'
import { Statements } from '../repository/session-statements.js'
import { Saves } from '../repository/session-writer.js'
import type { Touches } from '../repository/touch-buffer.js'
import type { Table } from '../schema/table.js'
import { encode } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { userIdOf } from '../session/user-id.js'
import type { Conflict } from '../types/results.js'
import type { Settings } from '../types/settings.js'

export interface Ready {
  readonly table: Table
  readonly queries: Queries
  readonly sessions: Sessions
  readonly users: Users
}

export interface ReadyOptions {
  readonly connection: Connection
  readonly settings: Settings
  readonly cache: Cache | undefined
  readonly touches: Touches
  readonly bases: Bases
  readonly isTrusted: () => boolean
  readonly onConflict: (conflict: Conflict) => void
}

export function assemble(table: Table, options: ReadyOptions): Ready {
  const { connection, settings, cache, touches, bases, isTrusted, onConflict } = options
  const channel = channelOf(settings)
  const statements = new Statements(table, settings, channel)
  const queries = new Queries(connection, table, channel, statements, settings)
  const changed = (list: readonly Changed[]): void => {
    for (const { id, version } of list) sessions.changed(handleOf(id), version)
  }
  const saves = new Saves({
    ...settings,
    queries,
    userIdOf: (session) => userIdOf(settings.userId, session),
    encode: (session) => encode(session, settings),
    latest: (name) => sessions.latest(name),
    onEvicted: changed,
    onConflict,
  })
  const propagate = settings.cache ? settings.cache.propagate : 'invalidate'
  const sessions = new Sessions({ bases, queries, saves, cache, isTrusted, propagate, touches })
  const users = new Users({
    ...settings,
    connection,
    table,
    queries,
    alive: statements.alive,
    onDestroyed: changed,
  })
  return { table, queries, sessions, users }
}
