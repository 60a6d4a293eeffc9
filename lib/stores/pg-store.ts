// PgStore: the only room that knows the others.
import { EventEmitter } from 'node:events'
import { IdCache, type SessionIds } from '../cache/id-cache.js'
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
import { serialize } from '../session/json.js'
import { contextOf } from '../session/koa-session.js'
import { assertSessionId, createId, handleOf, rawId } from '../session/session-id.js'
import { toStored } from '../session/stored-session.js'
import { resolveTtl } from '../session/ttl.js'
import { findUserId, toUserId } from '../session/user-id.js'
import { Sweeper } from '../sweeper/sweeper.js'
import { SetupError } from '../types/errors.js'
import type { ConnectionSource, PgStoreOptions } from '../types/options.js'
import type { Conflict, ExpiredSession, SessionInfo, Stats, SweepResult } from '../types/results.js'
import type {
  GetOptions,
  Session,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from '../types/session-store.js'
import type { Settings } from '../types/settings.js'
import { messageOf, redact } from '../util/driver-errors.js'
import { schedule } from '../util/schedule.js'
import { withTimeout } from '../util/timeout.js'
import { assertString } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'
import { type Components, createComponents } from './lifecycle.js'
import { OperationTracker } from './operations.js'
import { cacheDefaults, readOptions } from './options.js'

/** How long after a request has loaded a session it may put another in its place. */
const replaceMs = 60_000

/** How long after a lock was in the way an upgrade is tried again. */
const upgradeAgainMs = 60_000

/** What is swept by itself needn't be, if another instance has done it so many ms ago. */
const sweptLately = 300_000

/**
 * Events: `connect` once the table is ready (again, where it had to be set up again); `trust` and `distrust`, the cache is
 * answered from or not; `conflict`, a save met somebody else's change of the session; `sweep`, this instance has deleted
 * what had expired; `expire`, a session that is about to be deleted, with its data; `warning` with an `Error` that nobody
 * could be given, such as the loss of an idle connection.
 * There is no `disconnect` and no `error`.
 */
interface Events {
  connect: []
  trust: []
  distrust: []
  conflict: [Conflict]
  sweep: [SweepResult]
  expire: [ExpiredSession]
  warning: [Error]
}

/**
 * Keeps sessions in PostgreSQL, for koa-generic-session (`session({ store })`) and koa-session (`session({ store }, app)`).
 *
 * Makes its table at the first use, and tries again at the next if it couldn't. Every method rejects with a
 * `DatabaseError` or `SetupError` when the database can't be asked, within the time that a connection and a statement may
 * take (5 and 10 seconds, unless the connection's `connectionTimeoutMillis` and `query_timeout` say otherwise), and works
 * again as soon as the database does.
 */
export class PgStore extends EventEmitter<Events> implements SessionStore {
  readonly #settings: Settings
  readonly #connection: Connection
  readonly #hearing: TrustMonitor
  readonly #cache: LocalCache | undefined
  readonly #touches: TouchBuffer
  readonly #names: IdCache
  readonly #bases = new MergeBases()
  readonly #stop = new AbortController()
  readonly #calls = new OperationTracker(() => {
    this.#ready = undefined
  })
  readonly #sweeper: Sweeper
  #isScheduled = false
  #ready: Components | undefined
  #setup: Promise<Components> | undefined
  #hashing: Promise<void> | undefined
  #indexing: Promise<void> | undefined
  #closing: Promise<void> | undefined
  #conflicts = 0

  /**
   * Does no I/O. Throws a `TypeError` or a `RangeError`, naming the option and what it received, for what it can't use.
   */
  constructor(connection: ConnectionSource, options?: PgStoreOptions) {
    super()
    this.#settings = readOptions(options)
    this.#connection = connect(connection, (error) => this.#warn(error), this.#settings.prepare)
    this.#hearing = new TrustMonitor({
      settings: this.#settings,
      config: listenConfig(this.#settings.listen, this.#connection),
      notify: (payload) => this.#notify(payload),
      onNotification: (notice) => this.#ready?.repository.applyNotification(notice),
      onTrust: () => {
        this.#cache?.clear()
        this.#touches.forgetExpiry()
        queueMicrotask(() => this.emit('trust'))
      },
      onDistrust: () => this.emit('distrust'),
      warn: (error) => this.#warn(error),
    })
    const { cache, touch, idleTimeout, hashIds, cleanup } = this.#settings
    this.#names = new IdCache(cache ? cache.max : cacheDefaults.max, hashIds)
    this.#touches = new TouchBuffer({
      intervalMs: touch.interval,
      batchSize: touch.batchSize,
      maxExpiries: cache ? cache.max : touch.batchSize,
      countsIdleness: idleTimeout !== undefined,
      write: async (touches) => (await this.#whenReady()).queries.touch(touches),
      warn: (error) => this.#warn(error),
    })
    this.#sweeper = new Sweeper({
      connection: this.#connection,
      limits: { ...this.#settings, grace: cleanup.grace },
      codec: this.#settings.codec,
      batchSize: cleanup.batchSize,
      onExpired: () => this.#onExpired(),
      onSwept: (result) => void this.emit('sweep', result),
      warn: (error) => this.#warn(error),
    })
    const used = (name: string, id: string): void => this.#touches.recordAccess(name, id)
    if (cache) this.#cache = new LocalCache(cache, undefined, used, this.#bases)
  }

  /**
   * Makes the table ready: creates or upgrades it, or with `create: false` checks it. Not needed: the first use does it.
   * Call it at start to learn early that something is wrong. Rejects with a `SetupError` that says what to run.
   */
  async setup(): Promise<void> {
    await this.#calls.run('set up the session table', async () => this.#ready ?? this.#prepare())
  }

  /**
   * The session under this id, or `undefined` if there is none or it has expired; an object of the caller's own.
   * `T` is what the caller knows of its attributes; nothing checks it. `{ fresh: true }` asks the database, whatever is
   * cached. Takes koa-session's arguments: its context remembers what was loaded.
   */
  get<T extends object = Session>(
    sid: string,
    options?: GetOptions | Ttl,
    more?: object,
  ): Yieldable<T | undefined> {
    const fresh = typeof options === 'object' && options?.fresh === true
    return yieldable(this.#get(sid, fresh, contextOf(more)) as Promise<T | undefined>)
  }

  /** The session, with the ms that it has to live unless somebody changes it. */
  async getWithTtl(sid: string, _?: unknown, more?: object): Promise<SessionWithTtl | undefined> {
    const session = await this.#get(sid, false, contextOf(more))
    return (
      session && {
        session,
        ttl: this.#ready?.repository.getRemainingTtl(this.#names.resolve(sid).digest) ?? 0,
      }
    )
  }

  async #get(sid: string, fresh: boolean, context?: object): Promise<Session | undefined> {
    assertSessionId(sid)
    const names = this.#names.resolve(sid)
    const { digest: name } = names
    const known = fresh || this.#calls.isClosed ? undefined : this.#ready?.repository.getCached(name, context)
    const session =
      known ??
      (await this.#use(sid, names, 'read', ({ repository: sessions }, id) =>
        sessions.read(name, id, fresh, context),
      ))
    // That it is gone doesn't end this: a request that had it may still be under way.
    if (session !== undefined) names.loadedAt = performance.now()
    return session
  }

  /**
   * Saves a session for `ttl` ms from now; when it resolves, that is committed. What came from `get` is saved over what it
   * came from, as the option `concurrency` says where somebody else has changed that; it isn't brought back if it is gone.
   * Another object is a new session, or replaces the one that is there, except for one that was destroyed: that stays so, and
   * nothing is written. An id is not free again until an hour after `destroy` or, where its row was deleted otherwise, a
   * minute after this store last answered it. Rejects with a `TypeError` for what isn't an object that JSON can hold, a
   * `SessionTooLargeError` above `maxBytes` or `maxAttributeBytes`, an `EncodeError` of the option `codec`, and a
   * `ConflictError`; the stored session is then as it was.
   */
  set(sid: string, session: object, ttl?: Ttl, more?: object): Yieldable<void> {
    // Encoded at once: the caller may change the object as soon as the call has returned (promise 7).
    return yieldable(this.#set(sid, session, ttl, contextOf(more)))
  }

  async #set(sid: string, session: object, ttl: Ttl, context?: object): Promise<void> {
    assertSessionId(sid)
    const { hashIds, maxLifetime, userId } = this.#settings
    if (!hashIds && rawId(sid) === undefined)
      throw new RangeError(
        'session id has more than 1024 characters, a NUL, a record separator or half a character, or the form of a stored digest',
      )
    const json = toStored(serialize(session, this.#settings))
    const ms = resolveTtl(ttl, this.#settings.ttl, maxLifetime)
    const names = this.#names.resolve(sid)
    const base = this.#replaced(names)
    const save = { json, ttlMs: ms, userId: findUserId(userId, session as Session), base }
    await this.#use(
      sid,
      names,
      'write',
      ({ repository: sessions }, id) => sessions.save(names.digest, { id, ...save }, session, context),
      json,
    )
  }

  /** An object that takes the place of a session which was loaded: if that is gone by now, somebody ended it. */
  #replaced({ loadedAt: loaded }: SessionIds): 'replaced' | undefined {
    return loaded !== undefined && performance.now() - loaded < replaceMs ? 'replaced' : undefined
  }

  /**
   * Moves a live session's expiry to `ttl` ms from now, never back. What isn't there stays so. Written later, as the option
   * `touch` says, if the store knows that the session lives on until then; otherwise when it resolves.
   */
  async touch(sid: string, ttl?: Ttl): Promise<void> {
    const ms = resolveTtl(ttl, this.#settings.ttl, this.#settings.maxLifetime)
    assertSessionId(sid)
    const names = this.#names.resolve(sid)
    await this.#use(sid, names, 'touch', (_, id) => this.#touches.touch(names.digest, id, ms))
  }

  /** Ends a session; nothing brings it back. What isn't there stays so. */
  destroy(sid: string, ..._: unknown[]): Yieldable<void> {
    return yieldable(this.#destroy(sid))
  }

  async #destroy(sid: string): Promise<void> {
    assertSessionId(sid)
    const names = this.#names.resolve(sid)
    await this.#use(sid, names, 'destroy', ({ repository: sessions }, id) =>
      sessions.destroy(names.digest, id),
    )
  }

  /** Saves a new session under an id of 192 random bits and answers the id. */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.#set(sid, session, ttl)
    return sid
  }

  /** How many sessions are alive. */
  count(): Promise<number> {
    return this.#calls.run('count the sessions', async () => (await this.#whenReady()).registry.count())
  }

  /** A user's sessions that are alive, the last used first. Needs the column `user_id`. */
  async sessionsOf(userId: string | number): Promise<SessionInfo[]> {
    const id = toUserId(userId, 'userId')
    return this.#calls.run('list the sessions of a user', async () => {
      const { registry: users } = await this.#whenReady()
      await this.#touches.flush()
      return users.sessionsOf(id)
    })
  }

  /**
   * Signs a user out: destroys all sessions, but the one whose id or handle is `except`: the id as `get` takes it, with the
   * middleware's prefix (koa-generic-session: `'koa:sess:' + ctx.sessionId`). Answers how many were alive. A session that
   * comes to belong to the user meanwhile stays.
   */
  async destroySessionsOf(
    userId: string | number,
    { except }: { except?: string | undefined } = {},
  ): Promise<number> {
    const id = toUserId(userId, 'userId')
    if (except !== undefined) assertString(except, 'except')
    return this.#calls.run('destroy the sessions of a user', async () =>
      (await this.#whenReady()).registry.destroySessionsOf(id, except),
    )
  }

  /** Signs everybody out: destroys every session that is there now. Answers how many were alive. */
  destroyAll(): Promise<number> {
    return this.#calls.run('destroy all sessions', async () =>
      (await this.#whenReady()).registry.destroyAll(),
    )
  }

  /** Destroys the session with this handle, as `sessionsOf` and `entries` tell it. Answers whether there was one. */
  async revoke(handle: string): Promise<boolean> {
    assertString(handle, 'handle')
    return this.#calls.run('revoke the session', async () =>
      (await this.#whenReady()).registry.revoke(handle),
    )
  }

  /**
   * Removes an attribute from all sessions of a user, such as a right that is taken back. Answers how many had it. A save
   * under way of a session that came from `get` and still had it doesn't bring it back, unless `concurrency` is
   * `'last-write'` or it changes the attribute itself. What else is saved at the same time survives.
   */
  async deleteAttribute(userId: string | number, name: string): Promise<number> {
    const id = toUserId(userId, 'userId')
    assertString(name, 'name')
    return this.#calls.run('delete the attribute', async () => {
      const { registry: users, repository: sessions } = await this.#whenReady()
      return users.deleteAttribute(id, name, (save, session) => {
        const owner = findUserId(this.#settings.userId, session)
        return sessions.write(handleOf(save.id), { ...save, userId: owner }, [])
      })
    })
  }

  /** Every session that is alive, one after the other, in no order; of any number of them few are in memory at a time. */
  async *sessions(): AsyncGenerator<SessionInfo, void, undefined> {
    const what = 'list the sessions'
    const { registry: users } = await this.#calls.run(what, () => this.#whenReady())
    try {
      yield* users.sessions()
    } catch (error) {
      throw this.#calls.toError(error, what)
    }
  }

  /**
   * Deletes what has expired, and the marks of sessions that were destroyed more than an hour ago. Calls at the same time
   * share one sweep. Resolves with 0 for all of it if another instance is sweeping. What `close()` interrupts resolves
   * with what was done until then.
   */
  async sweep(): Promise<SweepResult> {
    // A script that waits for this must not end meanwhile; a sweep by itself is no reason to live.
    const reason = setInterval(() => undefined, 60_000)
    try {
      return (await this.#sweep(0)) ?? { deleted: 0, batches: 0, ms: 0 }
    } finally {
      clearInterval(reason)
    }
  }

  #sweep(unlessWithin: number): Promise<SweepResult | undefined> {
    return this.#calls.run('sweep', async () => {
      const { table } = await this.#whenReady()
      return this.#sweeper.run(table, unlessWithin)
    })
  }

  /** Who is to see the sessions that have expired. */
  #onExpired(): ((session: ExpiredSession) => unknown) | undefined {
    const { onExpired } = this.#settings.cleanup
    if (onExpired === undefined && this.listenerCount('expire') === 0) return undefined
    return async (session) => {
      await onExpired?.(session)
      this.emit('expire', session)
    }
  }

  /** Sweeps by itself from the first use on. */
  #scheduleOnce(): void {
    if (this.#isScheduled || this.#calls.isClosed) return
    this.#isScheduled = true
    const stop = schedule(this.#settings.cleanup, async (next) => {
      // What another instance has done since the time before needn't be done again.
      await this.#sweep(Math.min(next / 2, sweptLately)).catch((error) => this.#warn(error))
    })
    this.#stop.signal.addEventListener('abort', stop, { once: true })
  }

  /** Empties the cache of every instance. */
  clearCache(): Promise<void> {
    return this.#calls.run('clear the caches', async () => {
      await this.#whenReady()
      await this.#notify('flush')
      this.#cache?.clear()
    })
  }

  /**
   * What the store did and knows. Asks the database one thing, how full its queue of notifications is; in an outage that
   * alone is missing.
   */
  async stats(): Promise<Stats> {
    const hearing = this.#hearing
    return {
      cache: this.#cache !== undefined && {
        hits: this.#cache.hits,
        misses: this.#cache.misses,
        size: this.#cache.size,
        bytes: this.#cache.bytes,
        trusted: hearing.isTrusted,
        lastHeartbeatAge: hearing.lastHeartbeatAge,
      },
      notifications: {
        sent: this.#ready?.repository.notificationsSent ?? 0,
        received: hearing.received,
        queueUsage: await this.#queueUsage().catch(() => undefined),
      },
      conflicts: this.#conflicts,
      reconnects: hearing.reconnects,
      triggers: this.#ready?.table.hasTriggers,
    }
  }

  #queueUsage(): Promise<number> {
    return this.#calls.run('ask for the queue of notifications', async () => {
      const usage = 'select pg_notification_queue_usage()::float8 as usage'
      return (await this.#connection.query(usage))[0]?.usage as number
    })
  }

  /**
   * Waits for the calls under way, of a sweep for its batch, and writes the touches that wait; then ends the connections that
   * the store opened itself. May be called twice. What is called later rejects.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#calls.close()
    this.#stop.abort()
    await this.#sweeper.stop()
    await this.#calls.drained()
    await this.#touches.stop()
    await Promise.allSettled([this.#setup, this.#hashing])
    this.#hearing.stop()
    await this.#connection.end()
  }

  /** Runs what concerns one session: with the table ready, under the id that the table has for it. */
  async #use<T>(
    sid: string,
    { storedId: id }: SessionIds,
    what: string,
    work: (ready: Components, id: string) => Promise<T>,
    text = '',
  ): Promise<T | undefined> {
    // Nothing is stored under such an id, and nothing has to be asked.
    if (id === undefined) return undefined
    const run = async (): Promise<T> => {
      const ready = this.#ready ?? (await this.#whenReady())
      if (ready.table.hasRawIds && id !== sid) {
        const raw = rawId(sid)
        if (raw !== undefined) await ready.queries.hashRawId(raw, id)
      }
      return work(ready, id)
    }
    return this.#calls.run(`${what} the session`, run, [sid, id, text])
  }

  /** What setup finds out; waits for it no longer than a connection may take. */
  async #whenReady(): Promise<Components> {
    return (
      this.#ready ??
      withTimeout(this.#prepare(), this.#connection.connectTimeoutMs, 'the session table is not ready')
    )
  }

  /** One attempt at a time, whoever asks; a failed one is forgotten. */
  #prepare(): Promise<Components> {
    this.#setup ??= this.#attempt().finally(() => {
      this.#setup = undefined
    })
    return this.#setup
  }

  async #attempt(): Promise<Components> {
    const warn = (error: Error): void => this.#warn(error)
    const table = await ensureTable(this.#connection, this.#settings, warn)
    const ready = createComponents(table, {
      connection: this.#connection,
      settings: this.#settings,
      cache: this.#cache,
      touches: this.#touches,
      bases: this.#bases,
      isTrusted: () => this.#hearing.isTrusted,
      onConflict: (conflict) => {
        this.#conflicts++
        this.emit('conflict', conflict)
      },
    })
    ready.repository.notificationsSent = this.#ready?.repository.notificationsSent ?? 0
    this.#cache?.clear()
    this.#ready = ready
    if (table.isLocked) this.#setUpLater()
    if (table.hasRawIds && this.#settings.create)
      this.#hashing ??= hashStoredIds(this.#connection, this.#settings, this.#stop.signal, warn)
    if (table.lacksUserIndex) this.#indexUsers()
    this.#hearing.start(table)
    this.#scheduleOnce()
    this.emit('connect')
    return ready
  }

  /** Tells every instance something, this one too. */
  async #notify(payload: string): Promise<void> {
    await this.#connection.query('select pg_notify($1, $2)', [channelOf(this.#settings), payload])
  }

  /** Somebody's lock kept the table from being upgraded; meanwhile it is used as it is. */
  #setUpLater(): void {
    const timer = setTimeout(() => {
      if (!this.#calls.isClosed) this.#prepare().catch((error) => this.#warn(error))
    }, upgradeAgainMs)
    timer.unref()
    this.#stop.signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  }

  /** Without it a user's sessions are found, but slowly. */
  #indexUsers(): void {
    this.#indexing ??= createUserIndex(this.#connection, this.#settings, this.#stop.signal)
      .catch((error) => {
        const advice = psqlCommand('007-users', this.#settings)
        this.#warn(new Error(`the index of users could not be made: ${messageOf(error)}; run ${advice}`))
      })
      .finally(() => {
        this.#indexing = undefined
      })
  }

  #warn(error: Error): void {
    this.emit('warning', error instanceof SetupError ? error : redact(error))
  }
}
