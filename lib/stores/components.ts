// Creates the parts that work on the table once setup has inspected it, and connects them.
import type { LocalCache } from '../cache/local-cache.js'
import type { MergeBases } from '../cache/merge-bases.js'
import { channelOf } from '../notifications/payload.js'
import type { TrustMonitor } from '../notifications/trust-monitor.js'
import type { Connection } from '../postgres/connection.js'
import type { Change } from '../repository/row-mapper.js'
import type { WriteCall } from '../repository/session-calls.js'
import { SessionQueries } from '../repository/session-queries.js'
import { SessionRegistry } from '../repository/session-registry.js'
import { SessionRepository } from '../repository/session-repository.js'
import { SessionStatements } from '../repository/session-statements.js'
import { SessionWriter } from '../repository/session-writer.js'
import type { TouchBuffer } from '../repository/touch-buffer.js'
import type { Table } from '../schema/table.js'
import { serialize } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { findUserId } from '../session/user-id.js'
import type { Conflict } from '../types/results.js'
import type { Settings } from '../types/settings.js'
import type { OperationTracker } from './operations.js'

export interface Components {
  readonly table: Table
  readonly queries: SessionQueries
  readonly repository: SessionRepository
  readonly registry: SessionRegistry
}

export interface ComponentOptions {
  readonly connection: Connection
  readonly settings: Settings
  readonly cache: LocalCache | undefined
  readonly touches: TouchBuffer
  readonly bases: MergeBases
  readonly trust: TrustMonitor
  readonly operations: OperationTracker
  readonly onQueueFull: () => void
  readonly onConflict: (conflict: Conflict) => void
}

export function createComponents(table: Table, options: ComponentOptions): Components {
  const { connection, settings, cache, touches, bases, trust, operations, onQueueFull, onConflict } = options
  const channel = channelOf(settings)
  const statements = new SessionStatements(table, settings, channel)
  const queries = new SessionQueries(connection, table, channel, statements, {
    ...settings,
    payloadSuffix: () => trust.payloadSuffix(),
    unannouncing: new SessionStatements(table, settings, channel, false),
    onQueueFull,
  })
  const onChanged = (list: readonly Change[]): void => {
    for (const { id, version } of list) repository.invalidate(handleOf(id), version)
  }
  const writer = new SessionWriter({
    ...settings,
    queries,
    userIdOf: (session) => findUserId(settings.userId, session),
    serialize: (session) => serialize(session, settings),
    read: (id, limit) => repository.load(id, limit),
    peek: (digest) => repository.peek(digest),
    onEvicted: onChanged,
    onConflict,
  })
  const propagate = settings.cache ? settings.cache.propagate : 'invalidate'
  const repository = new SessionRepository({
    bases,
    queries,
    writer,
    cache,
    isTrusted: () => trust.use(),
    propagate,
    connection,
    decodes: settings.codec !== undefined,
    touches,
    idleTimeout: settings.idleTimeout,
    toError: (error, call) => {
      const secrets = [call.sid, call.id, call.verb === 'write' ? (call as WriteCall).json : '']
      return operations.toError(error, `${call.verb} the session`, secrets)
    },
    onSettled: (count) => operations.end(count),
  })
  const registry = new SessionRegistry({
    ...settings,
    connection,
    table,
    queries,
    activeCondition: statements.readCondition,
    onDestroyed: onChanged,
  })
  return { table, queries, repository, registry }
}
