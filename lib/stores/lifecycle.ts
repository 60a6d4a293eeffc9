// A PgStore's life beside its calls: setting up and trying again, listening, background jobs, shutting down.
import type { EventEmitter } from 'node:events'
import { IdCache } from '../cache/id-cache.js'
import { LocalCache } from '../cache/local-cache.js'
import { MergeBases } from '../cache/merge-bases.js'
import { channelOf } from '../notifications/payload.js'
import { TrustMonitor } from '../notifications/trust-monitor.js'
import { connect, listenConfig } from '../postgres/connect.js'
import type { Connection } from '../postgres/connection.js'
import { TouchBuffer } from '../repository/touch-buffer.js'
import { hashStoredIds } from '../schema/hash-ids.js'
import { ensureTable } from '../schema/migrate.js'
import { psqlCommand } from '../schema/table.js'
import { createUserIndex } from '../schema/user-index.js'
import { Sweeper } from '../sweeper/sweeper.js'
import { SetupError } from '../types/errors.js'
import type { ConnectionSource } from '../types/options.js'
import type { Conflict, ExpiredSession, SweepResult } from '../types/results.js'
import type { Settings } from '../types/settings.js'
import { messageOf, redact } from '../util/driver-errors.js'
import { schedule } from '../util/schedule.js'
import { withTimeout } from '../util/timeout.js'
import { type Components, createComponents } from './components.js'
import { OperationTracker } from './operations.js'
import { cacheDefaults } from './options.js'

/** Another try at an upgrade that a lock on the table prevented. */
const upgradeRetryMs = 60_000

/** A scheduled sweep is skipped if any instance has swept within this time. */
const recentSweepMs = 300_000

/** The events of a PgStore, and what their listeners receive. */
export interface PgStoreEvents {
  connect: []
  trust: []
  distrust: []
  conflict: [Conflict]
  sweep: [SweepResult]
  expire: [ExpiredSession]
  warning: [Error]
}

export class Lifecycle {
  readonly settings: Settings
  readonly connection: Connection
  readonly cache: LocalCache | undefined
  readonly ids: IdCache
  readonly touches: TouchBuffer
  readonly trust: TrustMonitor
  readonly operations = new OperationTracker(() => {
    this.#components = undefined
  })
  conflicts = 0
  readonly #events: EventEmitter<PgStoreEvents>
  readonly #bases = new MergeBases()
  readonly #sweeper: Sweeper
  readonly #stop = new AbortController()
  #components: Components | undefined
  #setup: Promise<Components> | undefined
  #isScheduled = false
  #hashing: Promise<void> | undefined
  #indexing: Promise<void> | undefined
  #closing: Promise<void> | undefined

export function createComponents(table: Table, options: ComponentOptions): Components {
  const { connection, settings, cache, touches, bases, isTrusted, onConflict } = options
  const channel = channelOf(settings)
  const statements = new SessionStatements(table, settings, channel)
  const queries = new SessionQueries(connection, table, channel, statements, settings)
  const changed = (list: readonly Change[]): void => {
    for (const { id, version } of list) sessions.invalidate(handleOf(id), version)
  }
  const writer = new SessionWriter({
    ...settings,
    queries,
    userIdOf: (session) => findUserId(settings.userId, session),
    serialize: (session) => serialize(session, settings),
    peek: (name) => sessions.peek(name),
    onEvicted: changed,
    onConflict,
  })
  const propagate = settings.cache ? settings.cache.propagate : 'invalidate'
  const sessions = new SessionRepository({ bases, queries, writer, cache, isTrusted, propagate, touches })
  const users = new SessionRegistry({
    ...settings,
    connection,
    table,
    queries,
    activeCondition: statements.activeCondition,
    onDestroyed: changed,
  })
  return { table, queries, repository: sessions, registry: users }
}
