// Creates the parts that work on the table once setup has inspected it, and connects them.
import type { LocalCache } from '../cache/local-cache.js'
import type { MergeBases } from '../cache/merge-bases.js'
import type { SessionRecords } from '../cache/session-records.js'
import { channelOf } from '../notifications/payload.js'
import type { TrustMonitor } from '../notifications/trust-monitor.js'
import type { Connection } from '../postgres/connection.js'
import type { BatchObserver } from '../repository/batching.js'
import { createStatements } from '../repository/prepared-statements.js'
import type { Change } from '../repository/row-mapper.js'
import type { SessionCall, WriteCall } from '../repository/session-calls.js'
import { SessionQueries } from '../repository/session-queries.js'
import { type SessionCallOptions, SessionReader } from '../repository/session-reader.js'
import { SessionRegistry } from '../repository/session-registry.js'
import { SessionRepository } from '../repository/session-repository.js'
import { SessionWriter } from '../repository/session-writer.js'
import type { TouchBuffer } from '../repository/touch-buffer.js'
import type { Table } from '../schema/table.js'
import { serialize } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { findUserId } from '../session/user-id.js'
import type { Conflict, DestroyedSession } from '../types/results.js'
import type { Settings } from '../types/settings.js'
import type { BatchCall } from '../util/batcher.js'
import type { CallRecorder } from '../util/call-stats.js'
import { tickNow } from '../util/tick-clock.js'
import type { OperationTracker } from './operations.js'

/** Counts the calls of each method. */
export type Calls = Readonly<Record<'get' | 'set' | 'touch' | 'destroy', CallRecorder>>

/** The method that makes each kind of call. */
export const methods = { read: 'get', write: 'set', destroy: 'destroy' } as const

export interface Components {
  readonly table: Table
  /** Whether statements are given ids as the option `hashIds` says: `SessionRecord.storedId`. */
  readonly takesStoredIds: boolean
  readonly queries: SessionQueries
  readonly reader: SessionReader
  readonly repository: SessionRepository
  readonly registry: SessionRegistry
}

export interface ComponentOptions {
  readonly connection: Connection
  readonly settings: Settings
  readonly cache: LocalCache | undefined
  readonly touches: TouchBuffer
  readonly bases: MergeBases
  readonly records: SessionRecords
  readonly trust: TrustMonitor
  readonly operations: OperationTracker
  readonly onQueueFull: () => void
  readonly onConflict: (conflict: Conflict) => void
  readonly calls: Calls
  /** Receives the handle and the user. */
  readonly onCreated: (handle: string, userId: string | undefined) => void
  readonly onRevoked: (session: DestroyedSession) => void
  readonly onBatch: BatchObserver
}

export function createComponents(table: Table, options: ComponentOptions): Components {
  const { connection, settings, cache, touches, bases, records, trust, operations, calls } = options
  const { onQueueFull, onConflict, onCreated, onRevoked, onBatch } = options
  const channel = channelOf(settings)
  const statements = createStatements(table, settings, channel)
  const queries = new SessionQueries(connection, table, channel, statements, {
    ...settings,
    payloadSuffix: () => trust.payloadSuffix(),
    unannouncing: createStatements(table, settings, channel, false),
    onQueueFull,
    onBatch,
  })
  const onChanged = (list: readonly Change[]): void => {
    for (const { id, version } of list) repository.invalidate(handleOf(id), version)
  }
  const writer = new SessionWriter({
    ...settings,
    queries,
    userIdOf: (session) => findUserId(settings.userId, session),
    serialize: (session) => serialize(session, settings),
    read: (id, limit) => reader.load(id, limit),
    peek: (digest) => repository.peek(digest),
    onEvicted: (evicted, userId) => {
      onChanged(evicted)
      for (const { id } of evicted) onRevoked({ handle: handleOf(id), userId, reason: 'limit' })
    },
    onConflict,
  })
  const common: SessionCallOptions = {
    bases,
    queries,
    connection,
    cache,
    isTrusted: () => trust.use(),
    touches,
    shardStarts: table.shardStarts,
    onBatch,
    toError: (error, call) => {
      const secrets = [call.sid, call.id, call.digest, call.verb === 'write' ? (call as WriteCall).json : '']
      return operations.toError(error, `${call.verb} the session`, secrets)
    },
    onSettled: (settled, results) => {
      operations.end(settled.length)
      const now = tickNow()
      for (let n = 0; n < settled.length; n++) {
        const { verb, startedAt } = (settled[n] as BatchCall<SessionCall>).value
        if (startedAt !== undefined) calls[methods[verb]].record(now - startedAt, results[n] instanceof Error)
      }
    },
  }
  const reader = new SessionReader({ ...common, decodes: settings.codec !== undefined })
  const repository = new SessionRepository({
    ...common,
    reader,
    records,
    writer,
    propagate: settings.cache ? settings.cache.propagate : 'invalidate',
    idleTimeout: settings.idleTimeout,
    onCreated,
  })
  const registry = new SessionRegistry({
    ...settings,
    connection,
    table,
    queries,
    activeCondition: statements.readCondition,
    onDestroyed: onChanged,
    onRevoked: (handle, userId) => onRevoked({ handle, userId, reason: 'revoked' }),
  })
  const takesStoredIds = !table.hasRawIds && table.insertsRawIds === !settings.hashIds
  return { table, takesStoredIds, queries, reader, repository, registry }
}
