// A PgStore's life beside its calls: setting up and trying again, listening, background jobs, shutting down.
import { randomBytes } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import { LocalCache } from '../cache/local-cache.js'
import { MergeBases } from '../cache/merge-bases.js'
import { SessionRecords } from '../cache/session-records.js'
import { queueUsageSql } from '../notifications/heartbeat.js'
import { TrustMonitor } from '../notifications/trust-monitor.js'
import { connect, listenConfig } from '../postgres/connect.js'
import type { Connection } from '../postgres/connection.js'
import { TouchBuffer } from '../repository/touch-buffer.js'
import { ensureTable } from '../schema/migrate.js'
import { Sweeper } from '../sweeper/sweeper.js'
import { SetupError } from '../types/errors.js'
import type { ConnectionSource } from '../types/options.js'
import type { CreatedSession, DestroyedSession, ExpiredSession, SweepResult } from '../types/results.js'
import type { Settings } from '../types/settings.js'
import { CallRecorder } from '../util/call-stats.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { cronProblem, cronReady, schedule } from '../util/schedule.js'
import { withTimeout } from '../util/timeout.js'
import { isTraced, type TraceContext, type TracedOperation, trace } from '../util/tracing.js'
import { BackgroundJobs } from './background-jobs.js'
import { type Calls, type Components, createComponents } from './components.js'
import type { PgStoreEvents } from './events.js'
import { OperationTracker } from './operations.js'
import { cacheDefaults, defaults, optionHints } from './options.js'
import { statsAnswer } from './stats.js'
import { Warnings } from './warnings.js'

/** Another try at an upgrade that a lock on the table prevented. */
const upgradeRetryMs = 60_000

/** PostgreSQL warns from here on, too. */
const maxQueueUsage = 0.5

/** A scheduled sweep is skipped if any instance has swept within this time. */
const recentSweepMs = 300_000

export class Lifecycle {
  readonly settings: Settings
  readonly connection: Connection
  readonly cache: LocalCache | undefined
  readonly records: SessionRecords
  readonly touches: TouchBuffer
  readonly trust: TrustMonitor
  readonly operations = new OperationTracker(() => {
    this.#components = undefined
  })
  /** Schema and table, for traces. */
  readonly tableName: string
  readonly calls: Calls = {
    get: new CallRecorder(),
    set: new CallRecorder(),
    touch: new CallRecorder(),
    destroy: new CallRecorder(),
  }
  readonly sweeps = { count: 0, deleted: 0 }
  conflicts = 0
  /** Tells this store from others. */
  readonly #id = randomBytes(6).toString('base64url')
  readonly #events: EventEmitter<PgStoreEvents>
  readonly #warnings: Warnings
  readonly #bases = new MergeBases()
  readonly #sweeper: Sweeper
  readonly #jobs: BackgroundJobs
  readonly #stop = new AbortController()
  #components: Components | undefined
  #setup: Promise<Components> | undefined
  #ready: Promise<Components> | undefined
  #isScheduled = false
  #isQueueFilling = false
  #closing: Promise<void> | undefined

  constructor(source: ConnectionSource | undefined, settings: Settings, events: EventEmitter<PgStoreEvents>) {
    this.settings = settings
    this.tableName = `${settings.schema}.${settings.table}`
    this.#events = events
    const warnings = new Warnings(events)
    this.#warnings = warnings
    const { cache, touch, idleTimeout, hashIds, cleanup, codec } = settings
    this.connection = connect(source, {
      warn: (error) => warnings.warn('connection', idleConnectionLost(error)),
      prepare: settings.prepare,
      storeOptions: Object.keys(defaults),
    })
    // Later, so that a listener can be attached before.
    const hints = optionHints(settings)
    if (hints.length > 0) process.nextTick(() => warnings.warn('options', new Error(hints.join('; '))))
    const maxRecords = cache ? cache.max : cacheDefaults.max
    this.records = new SessionRecords(maxRecords, hashIds, (digest) => this.touches.findRecord(digest))
    this.touches = new TouchBuffer({
      intervalMs: touch.interval,
      batchSize: touch.batchSize,
      records: this.records,
      countsIdleness: idleTimeout !== undefined,
      write: async (touches) => {
        const locked = await (await this.ready()).queries.touches.writeAll(touches)
        warnings.end('touch')
        return locked
      },
      writeOne: async (touch) => {
        await (await this.ready()).queries.touches.write(touch)
        warnings.end('touch')
      },
      flush: (batchSize, write) =>
        isTraced('flush') ? trace('flush', { table: this.tableName, batchSize }, write) : write(),
      warn: warnings.of('touch'),
    })
    if (cache) {
      this.cache = new LocalCache(cache, undefined, (record, id) => this.touches.recordAccess(record, id))
    }
    this.trust = new TrustMonitor({
      settings,
      config: listenConfig(settings.listen, this.connection),
      query: (text, values) => this.connection.query(text, values),
      guard: this.connection.guard,
      poolState: () => this.connection.poolState,
      onNotification: (notification) => this.#components?.repository.applyNotification(notification),
      onTrust: () => {
        this.#forgetCached()
        queueMicrotask(() => {
          warnings.end('cache')
          this.#notifyListeners('trust', () => events.emit('trust'))
        })
      },
      onDistrust: () => this.#notifyListeners('distrust', () => events.emit('distrust')),
      onStale: () => this.#forgetCached(),
      onQueueUsage: (usage) => this.#checkQueue(usage),
      statsAnswer: () => statsAnswer(this.#id, this),
      warn: warnings.of('cache'),
    })
    this.#sweeper = new Sweeper({
      connection: this.connection,
      limits: { ...settings, grace: cleanup.grace },
      codec,
      batchSize: cleanup.batchSize,
      onExpired: () => this.#expiredHook(),
      onSwept: (result) => {
        warnings.end('sweep')
        this.sweeps.count++
        this.sweeps.deleted += result.deleted
        this.#notifyListeners('sweep', () => events.emit('sweep', result))
      },
      warn: warnings.of('onExpired'),
    })
    this.#jobs = new BackgroundJobs({
      connection: this.connection,
      settings,
      warnings,
      signal: this.#stop.signal,
      onIdsChanged: () => {
        this.#attemptSetup().catch(warnings.of('table'))
      },
    })
  }

  /** What works on the table, if it is set up and the store isn't closed. */
  get active(): Components | undefined {
    return this.operations.isClosed ? undefined : this.#components
  }

  /** The same of a closed store, too. */
  get components(): Components | undefined {
    return this.#components
  }

  /** Sets the table up unless it is, and waits for that no longer than a connection may take. */
  async ready(): Promise<Components> {
    if (this.#components !== undefined) return this.#components
    // One time limit for all calls that wait for it.
    this.#ready ??= withTimeout(
      this.setUp(),
      this.connection.connectTimeoutMs,
      'the session table is not ready',
    ).finally(() => {
      this.#ready = undefined
    })
    return this.#ready
  }

  /** Sets the table up unless it is. Concurrent calls share one attempt; after a failed one the next call tries again. */
  setUp(): Promise<Components> {
    if (this.#components !== undefined) return Promise.resolve(this.#components)
    return this.#attemptSetup()
  }

  #attemptSetup(): Promise<Components> {
    const setup = (): Promise<Components> => this.#runSetup()
    this.#setup ??= this.traced('setup', setup).finally(() => {
      this.#setup = undefined
    })
    return this.#setup
  }

  async #runSetup(): Promise<Components> {
    const { connection, settings, cache, touches } = this
    await this.#checkCron()
    let isComplete = true
    const table = await ensureTable(connection, settings, (error) => {
      isComplete = false
      this.#warnings.warn('table', error)
    })
    if (isComplete) this.#warnings.end('table')
    const components = createComponents(table, {
      connection,
      settings,
      cache,
      touches,
      bases: this.#bases,
      records: this.records,
      trust: this.trust,
      operations: this.operations,
      onQueueFull: () => {
        this.#checkQueue(1)
        this.connection.query(queueUsageSql).catch(() => undefined)
      },
      onConflict: (conflict) => {
        this.conflicts++
        this.#notifyListeners('conflict', () => this.#events.emit('conflict', conflict))
      },
      calls: this.calls,
      onCreated: (handle, userId) => {
        if (this.#events.listenerCount('create') > 0) this.report('create', { handle, userId })
      },
      onRevoked: (session) => this.report('revoke', session),
      onBatch: (operation, batchSize, run) => {
        this.calls[operation].recordBatch()
        return isTraced('batch')
          ? trace('batch', { table: this.tableName, operation, batchSize }, run)
          : run()
      },
    })
    await components.queries.measureClock()
    components.queries.announced = this.#components?.queries.announced ?? 0
    cache?.clear()
    this.#components = components
    if (table.isLocked) this.#retryUpgrade()
    this.#jobs.start(table)
    this.trust.start({ name: table.name, hasVersion: table.columns.has('version') })
    this.#scheduleSweeps()
    this.#notifyListeners('connect', () => this.#events.emit('connect'))
    return components
  }

  /** An error of a listener must not fail what it only listens to: it becomes a warning. */
  #notifyListeners(event: keyof PgStoreEvents, emit: () => unknown): void {
    try {
      emit()
    } catch (error) {
      this.#warnings.warn('listener', new Error(`a listener for "${event}" failed: ${messageOf(error)}`))
    }
  }

  /** In a bundle in ESM format, the constructor can't check the cron expression yet. */
  async #checkCron(): Promise<void> {
    const { cron } = this.settings.cleanup
    await cronReady
    const problem = cron === undefined ? undefined : cronProblem(cron)
    if (problem !== undefined)
      throw new SetupError(
        `option "cleanup" must be a cron expression such as '*/15 * * * *'; received ${JSON.stringify(cron)} (${problem})`,
      )
  }

  /** Makes every instance clear its cache, this one at once. */
  async clearCaches(): Promise<void> {
    const { queries } = await this.ready()
    await queries.announceClear()
    this.cache?.clear()
  }

  /** Applies to the cache what other instances have changed so far, whose notifications may still be on their way. */
  async catchUp(): Promise<void> {
    if (this.cache !== undefined && !(await this.trust.catchUp())) this.#forgetCached()
  }

  #forgetCached(): void {
    this.cache?.clear()
    this.touches.forgetExpiries()
  }

  #checkQueue(usage: number): void {
    if (usage < maxQueueUsage) {
      this.#isQueueFilling = false
      this.#warnings.end('queue')
    } else if (!this.#isQueueFilling) {
      this.#isQueueFilling = true
      this.#warnings.warn(
        'queue',
        new Error(
          `the server's queue of notifications is ${Math.floor(usage * 100)} % full, as a connection that listens stays in a` +
            ' transaction. To see which one, run koa-pg-store doctor. While the queue is full, sessions are saved without' +
            ' notifications and not served from caches',
        ),
      )
    }
  }

  /** Sweeps, unless an instance has swept within `unlessWithinMs`. Resolves with `undefined` if it didn't. */
  sweep(unlessWithinMs: number): Promise<SweepResult | undefined> {
    return this.operations.run('sweep', async () => {
      const { table } = await this.ready()
      // A session that was used before an outage, and has expired during it, isn't to be deleted.
      const failure = await this.touches.flush()
      if (failure !== undefined) throw failure
      return this.traced('sweep', async (context) => {
        const result = await this.#sweeper.run(table, unlessWithinMs)
        if (context !== undefined) context.deleted = result?.deleted ?? 0
        return result
      })
    })
  }

  close(timeoutMs: number): Promise<void> {
    this.#closing ??= this.#close(timeoutMs)
    return this.#closing
  }

  async #close(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs
    const remainingMs = (): number => Math.max(0, deadline - performance.now())
    const within = async (ms: number, work: Promise<unknown>): Promise<void> => {
      await withTimeout(work, ms, 'not finished').catch(() => undefined)
    }
    this.operations.close()
    this.#stop.abort()
    // The rest of the time is for touches.
    await within(timeoutMs / 2, Promise.all([this.#sweeper.stop(), this.operations.drained()]))
    await this.touches.stop(remainingMs())
    await within(remainingMs(), Promise.allSettled([this.#setup, this.#jobs.ended()]))
    this.trust.stop()
    await this.connection.end(remainingMs())
  }

  #scheduleSweeps(): void {
    if (this.#isScheduled || this.operations.isClosed) return
    this.#isScheduled = true
    let startedBefore = -1
    const stop = schedule(this.settings.cleanup, async (nextMs) => {
      if (this.settings.cleanup.skipsWhenUnused && this.operations.started === startedBefore) return
      await this.sweep(Math.min(nextMs / 2, recentSweepMs)).catch((error) =>
        this.#warnings.warn('sweep', error),
      )
      startedBefore = this.operations.started
    })
    this.#stop.signal.addEventListener('abort', stop, { once: true })
  }

  /** What receives each expired session before it is deleted; `undefined` if nothing wants to. */
  #expiredHook(): ((session: ExpiredSession) => unknown) | undefined {
    const { onExpired } = this.settings.cleanup
    const listeners = this.#events.listenerCount('expire') + this.#events.listenerCount('destroy')
    if (onExpired === undefined && listeners === 0) return undefined
    return async (session) => {
      await onExpired?.(session)
      this.#events.emit('expire', session)
      const { handle, userId } = session
      this.report('destroy', { handle, userId, reason: 'expired' })
    }
  }

  /** A lock prevented an upgrade of the table, which is used as it is until the next try. */
  #retryUpgrade(): void {
    const timer = setTimeout(() => {
      if (!this.operations.isClosed) this.#attemptSetup().catch(this.#warnings.of('table'))
    }, upgradeRetryMs)
    timer.unref()
    this.#stop.signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  }

  /** Emits what an audit log needs. */
  report(event: 'create', session: CreatedSession): void
  report(event: 'destroy' | 'revoke', session: DestroyedSession): void
  report(event: 'create' | 'destroy' | 'revoke', session: CreatedSession | DestroyedSession): void {
    this.#notifyListeners(event, () => this.#events.emit(event, session as DestroyedSession))
  }

  /** Runs something, and publishes it if there is a subscriber. */
  traced<T>(operation: TracedOperation, work: (context?: TraceContext) => Promise<T>): Promise<T> {
    return isTraced(operation) ? trace(operation, { table: this.tableName }, work) : work()
  }
}

/** Keeps the code of the driver's error. */
function idleConnectionLost(error: Error): Error {
  const message = `an idle connection was lost; the next call opens another: ${messageOf(error)}`
  return Object.assign(new Error(message), { code: codeOf(error) })
}
