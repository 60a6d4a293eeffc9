// PgStore: sessions in PostgreSQL. Its public methods, each one call of what lifecycle.ts has set up.
import { EventEmitter } from 'node:events'
import type { SessionIds } from '../cache/id-cache.js'
import { clearPayload } from '../notifications/payload.js'
import { withDevice } from '../session/device.js'
import { serialize } from '../session/json.js'
import { toSessionId } from '../session/koa-context.js'
import { contextOf } from '../session/koa-session.js'
import { assertSessionId, createId, digestOf, handleOf, rawId } from '../session/session-id.js'
import { toStored } from '../session/stored-session.js'
import { resolveTtl } from '../session/ttl.js'
import { findUserId, toUserId } from '../session/user-id.js'
import type { ConnectionSource, DeviceContext, PgStoreOptions } from '../types/options.js'
import type { SessionInfo, Stats, SweepResult } from '../types/results.js'
import type {
  GetOptions,
  Session,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from '../types/session-store.js'
import { tickNow } from '../util/tick-clock.js'
import { isTraced, type TraceContext } from '../util/tracing.js'
import { assertString } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'
import type { Components } from './components.js'
import { Lifecycle, type PgStoreEvents } from './lifecycle.js'
import { readOptions } from './options.js'

/** How long after a request has loaded a session it may put another object in its place. */
const replaceWindowMs = 60_000

/** How errors name what a method does. */
const verbs = { get: 'read', set: 'write', touch: 'touch', destroy: 'destroy' } as const

/**
 * Keeps sessions in PostgreSQL, for koa-generic-session (`session({ store })`) and koa-session (`session({ store }, app)`).
 *
 * Creates its table on first use; if that fails, the next call tries again. Every method rejects with a `DatabaseError` or
 * `SetupError` while the database can't be reached, within the time that a connection and a statement may take (5 and 10
 * seconds, or the connection's `connectionTimeoutMillis` and `query_timeout`), and works again as soon as the database does.
 *
 * Events: `connect` after the table has been set up; `trust` and `distrust` when the cache begins and ceases to be used;
 * `conflict` when a save met another change of the session; `sweep` after this instance has deleted expired sessions;
 * `expire` for each expired session before it is deleted; `create`, `destroy` and `revoke`, for an audit log, when a session
 * was created or ended by this instance, with its user and the reason; `warning` with an `Error` that no call could reject with, such as
 * the loss of an idle connection. There is no `disconnect` and no `error`.
 *
 * @example
 * ```ts
 * const store = new PgStore('postgres://user:password@localhost/app', { idleTimeout: 30 * 60_000 })
 * store.on('warning', (error) => console.warn(error.message))
 * app.use(session({ store }))
 * ```
 */
export class PgStore extends EventEmitter<PgStoreEvents> implements SessionStore {
  readonly #lifecycle: Lifecycle

  /**
   * Does no I/O.
   *
   * @param connection A connection string, a `pg` configuration, a `pg.Pool` (never closed by the store) or a query function.
   * @throws {TypeError | RangeError} for an argument or option that can't be used, naming it and the value received.
   */
  constructor(connection: ConnectionSource, options?: PgStoreOptions) {
    super()
    this.#lifecycle = new Lifecycle(connection, readOptions(options), this)
  }

  /**
   * Creates or upgrades the table, or checks it with `create: false`. Optional, since the first call does it: call it at
   * start-up to learn early that something is wrong.
   *
   * @throws {SetupError} that says what to run.
   */
  async setup(): Promise<void> {
    await this.#lifecycle.operations.run('set up the session table', () => this.#lifecycle.setUp())
  }

  /**
   * Returns the session with this id, or `undefined` if there is none or it has expired. The object is the caller's own.
   * `T` is what the caller knows of its attributes; it is not checked. Takes koa-session's further arguments: its context
   * remembers what was loaded.
   *
   * @param options `{ fresh: true }` reads from the database even if the session is cached.
   * @throws {DatabaseError} if the database can't be asked; never `undefined` because of a failure.
   * @example
   * ```ts
   * const session = await store.get<{ cart: number[] }>(sid)
   * ```
   */
  get<T extends object = Session>(
    sid: string,
    options?: GetOptions | Ttl,
    more?: object,
  ): Yieldable<T | undefined> {
    const fresh = typeof options === 'object' && options?.fresh === true
    const context = contextOf(more)
    // Without a closure for each call when nothing subscribes: a cached get takes little more than a microsecond.
    const session = isTraced('get')
      ? this.#lifecycle.traced('get', (trace) => this.#get(sid, fresh, context, trace))
      : this.#get(sid, fresh, context)
    return yieldable(session as Promise<T | undefined>)
  }

  /** Returns the session with the milliseconds until it expires, unless it is changed before. */
  async getWithTtl(sid: string, _?: unknown, more?: object): Promise<SessionWithTtl | undefined> {
    const session = await this.get(sid, undefined, more)
    if (session === undefined) return undefined
    const { ids, components } = this.#lifecycle
    return { session, ttl: components?.repository.getRemainingTtl(ids.resolve(sid).digest) ?? 0 }
  }

  async #get(
    sid: string,
    fresh: boolean,
    context?: object,
    trace?: TraceContext,
  ): Promise<Session | undefined> {
    assertSessionId(sid)
    const { ids: idCache, operations, components } = this.#lifecycle
    const ids = idCache.resolve(sid)
    const { digest } = ids
    const cached =
      fresh || operations.isClosed ? undefined : components?.repository.getCached(digest, context)
    if (trace !== undefined) trace.cached = cached !== undefined
    const session =
      cached ??
      (await this.#onSession(sid, ids, 'get', ({ repository }, id) =>
        repository.read(digest, id, fresh, context),
      ))
    // If there is none, an earlier time stays: a request that loaded the session then may still be running.
    if (session !== undefined) ids.loadedAt = tickNow()
    return session
  }

  /**
   * Saves a session for `ttl` milliseconds from now. When it resolves, the change is committed.
   *
   * An object that came from `get` is saved over the version it came from, as the option `concurrency` says if another
   * request has changed that; it never brings a destroyed session back. Another object is a new session, or replaces the
   * stored one unless that was destroyed: then nothing is written. An id is free again an hour after `destroy` or, if its
   * row was deleted otherwise, a minute after this store last returned the session.
   *
   * @param ttl Milliseconds. `undefined`, `null`, `NaN` and `'session'` mean the option `ttl`.
   * @throws {TypeError} for what isn't an object that JSON can hold.
   * @throws {SessionTooLargeError} above `maxBytes` or `maxAttributeBytes`; nothing is written.
   * @throws {EncodeError} if the option `codec` fails; nothing is written.
   * @throws {ConflictError} if another request changed the session and `concurrency` is `'reject'`; nothing is written.
   * @throws {DatabaseError} if the database can't be reached. The change may have been made.
   */
  set(sid: string, session: object, ttl?: Ttl, more?: object): Yieldable<void> {
    // Serialized before it returns: the caller may change the object at once.
    return yieldable(this.#lifecycle.traced('set', () => this.#set(sid, session, ttl, contextOf(more))))
  }

  async #set(sid: string, session: object, ttl: Ttl, context?: object): Promise<void> {
    assertSessionId(sid)
    const { ids: idCache, settings } = this.#lifecycle
    if (!settings.hashIds && rawId(sid) === undefined)
      throw new RangeError(
        'session id must have at most 1024 characters, without NUL, record separators or lone surrogates, and not the form of a digest',
      )
    const device = settings.device?.(context as DeviceContext | undefined)
    const json = withDevice(toStored(serialize(session, settings)), device)
    const ttlMs = resolveTtl(ttl, settings.ttl, settings.maxLifetime)
    const ids = idCache.resolve(sid)
    const userId = findUserId(settings.userId, session as Session)
    const save = { json, ttlMs, userId, base: this.#replacedBase(ids) }
    await this.#onSession(
      sid,
      ids,
      'set',
      ({ repository }, id) => repository.save(ids.digest, { id, ...save }, session, context),
      json,
    )
  }

  /** A new object in place of a session that was loaded lately may only update: if that is gone, it was destroyed. */
  #replacedBase({ loadedAt }: SessionIds): 'replaced' | undefined {
    return loadedAt !== undefined && performance.now() - loadedAt < replaceWindowMs ? 'replaced' : undefined
  }

  /**
   * Moves an active session's expiry to `ttl` milliseconds from now, never to an earlier time. A missing session stays
   * missing. The write is deferred, as the option `touch` says, if the session is known to live until then.
   */
  touch(sid: string, ttl?: Ttl): Promise<void> {
    return this.#lifecycle.traced('touch', () => this.#touch(sid, ttl))
  }

  async #touch(sid: string, ttl?: Ttl): Promise<void> {
    const { ids: idCache, settings, touches } = this.#lifecycle
    const ttlMs = resolveTtl(ttl, settings.ttl, settings.maxLifetime)
    assertSessionId(sid)
    const ids = idCache.resolve(sid)
    await this.#onSession(sid, ids, 'touch', (_, id) => touches.touch(ids.digest, id, ttlMs))
  }

  /** Destroys a session. Nothing brings it back. Destroying a missing session is a no-op. */
  destroy(sid: string, ..._: unknown[]): Yieldable<void> {
    return yieldable(this.#lifecycle.traced('destroy', () => this.#destroy(sid)))
  }

  async #destroy(sid: string): Promise<void> {
    assertSessionId(sid)
    const ids = this.#lifecycle.ids.resolve(sid)
    await this.#onSession(sid, ids, 'destroy', async ({ repository, registry }, id) => {
      // Only for a listener: the row no longer has its user afterwards.
      const isWatched = this.listenerCount('destroy') > 0
      const userId = isWatched ? await registry.userOf(id) : undefined
      const isDestroyed = await repository.destroy(ids.digest, id)
      if (isWatched && isDestroyed)
        this.#lifecycle.report('destroy', { handle: ids.digest, userId, reason: 'logout' })
    })
  }

  /**
   * Saves a new session under a new id and returns the id, which has 192 random bits.
   *
   * @example
   * ```ts
   * const sid = await store.create({ userId: 7 }, { ttl: 60_000 })
   * ```
   */
  async create(session: object, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.set(sid, session, ttl)
    return sid
  }

  /** Returns the number of active sessions. */
  count(): Promise<number> {
    return this.#run('count the sessions', ({ registry }) => registry.count())
  }

  /** Returns a user's active sessions, the last used first. Needs the column `user_id`. */
  async sessionsOf(userId: string | number): Promise<SessionInfo[]> {
    const id = toUserId(userId, 'userId')
    return this.#run('list the sessions of a user', async ({ registry }) => {
      await this.#lifecycle.touches.flush()
      return registry.sessionsOf(id)
    })
  }

  /**
   * Destroys a user's sessions and returns how many were active. A session that comes to belong to the user while this runs
   * is not destroyed.
   *
   * @param options.except A session to keep: Koa's context, for the session of that request, or a session's id or handle. An id
   * is what `get` takes, with the middleware's prefix (koa-generic-session: `'koa:sess:' + ctx.sessionId`).
   * @throws {RangeError} if `except` is none of the user's stored sessions; nothing is destroyed.
   * @example
   * ```ts
   * await store.destroySessionsOf(user.id, { except: ctx })
   * ```
   */
  async destroySessionsOf(
    userId: string | number,
    { except }: { except?: string | object | undefined } = {},
  ): Promise<number> {
    const id = toUserId(userId, 'userId')
    const kept = except === undefined ? undefined : toSessionId(except, 'except')
    const count = await this.#run('destroy the sessions of a user', ({ registry }) =>
      registry.destroySessionsOf(id, kept),
    )
    if (count === undefined)
      throw new RangeError(
        "except must name one of the user's stored sessions: Koa's context, a handle, or the id that the middleware gives the store (with koa-generic-session, 'koa:sess:' + ctx.sessionId). It names none; nothing was destroyed",
      )
    return count
  }

  /**
   * Returns the handle of a session, as lists show it: for the session of a request, given Koa's context, or for a session id.
   * An id is what `get` takes, with the middleware's prefix.
   *
   * @throws {TypeError} for a context without a session.
   * @example
   * ```ts
   * const devices = await store.sessionsOf(user.id)
   * const current = store.handleOf(ctx)
   * for (const { handle, device } of devices) console.log(device, handle === current ? '(this device)' : '')
   * ```
   */
  handleOf(session: string | object): string {
    return digestOf(toSessionId(session, 'session'))
  }

  /** Destroys every session, of all users, and returns how many were active. */
  destroyAll(): Promise<number> {
    return this.#run('destroy all sessions', ({ registry }) => registry.destroyAll())
  }

  /** Destroys the session with this handle, as lists show it. Returns whether there was one. */
  async revoke(handle: string): Promise<boolean> {
    assertString(handle, 'handle')
    return this.#run('revoke the session', ({ registry }) => registry.revoke(handle))
  }

  /**
   * Removes an attribute from all of a user's sessions, such as a role that was revoked, and returns how many had it. A
   * save in flight of a session that still had the attribute doesn't bring it back, unless `concurrency` is `'last-write'`
   * or the save changes that attribute. Other changes made at the same time are kept.
   */
  async deleteAttribute(userId: string | number, name: string): Promise<number> {
    const id = toUserId(userId, 'userId')
    assertString(name, 'name')
    return this.#run('delete the attribute', ({ registry, repository }) =>
      registry.deleteAttribute(id, name, (save, session) => {
        const owner = findUserId(this.#lifecycle.settings.userId, session)
        return repository.write(handleOf(save.id), { ...save, userId: owner }, [])
      }),
    )
  }

  /**
   * Yields every active session, in no particular order. A few are in memory at a time, however many there are.
   *
   * @example
   * ```ts
   * for await (const { handle, userId, lastAccessedAt } of store.sessions()) console.log(handle, userId, lastAccessedAt)
   * ```
   */
  async *sessions(): AsyncGenerator<SessionInfo, void, undefined> {
    const { operations } = this.#lifecycle
    const description = 'list the sessions'
    const { registry } = await operations.run(description, () => this.#lifecycle.ready())
    try {
      yield* registry.sessions()
    } catch (error) {
      throw operations.toError(error, description)
    }
  }

  /**
   * Deletes expired sessions, and the tombstones of those that were destroyed more than an hour ago. Concurrent calls share
   * one sweep. Resolves with zeros if another instance is sweeping, and with what was done so far if `close()` interrupts.
   */
  async sweep(): Promise<SweepResult> {
    // Keeps a script that waits for this running: the connections don't.
    const keepAlive = setInterval(() => undefined, 60_000)
    try {
      return (await this.#lifecycle.sweep(0)) ?? { deleted: 0, batches: 0, ms: 0 }
    } finally {
      clearInterval(keepAlive)
    }
  }

  /** Clears the cache of every instance. */
  clearCache(): Promise<void> {
    return this.#run('clear the caches', async () => {
      await this.#lifecycle.notify(clearPayload)
      this.#lifecycle.cache?.clear()
    })
  }

  /**
   * Returns counters, and the state of cache and listener. Asks the database one thing, how full its notification queue is;
   * that is `undefined` during an outage.
   */
  async stats(): Promise<Stats> {
    const { cache, trust, components, conflicts, calls, sweeps } = this.#lifecycle
    return {
      cache: cache !== undefined && {
        hits: cache.hits,
        misses: cache.misses,
        size: cache.size,
        bytes: cache.bytes,
        trusted: trust.isTrusted,
        lastHeartbeatAge: trust.lastHeartbeatAge,
      },
      notifications: {
        sent: components?.repository.notificationsSent ?? 0,
        received: trust.received,
        queueUsage: await this.#queueUsage().catch(() => undefined),
      },
      calls: {
        get: calls.get.stats(),
        set: calls.set.stats(),
        touch: calls.touch.stats(),
        destroy: calls.destroy.stats(),
      },
      sweeps: { ...sweeps },
      conflicts,
      reconnects: trust.reconnects,
      triggers: components?.table.hasTriggers,
    }
  }

  #queueUsage(): Promise<number> {
    const { operations, connection } = this.#lifecycle
    return operations.run('read the usage of the notification queue', async () => {
      const [row] = await connection.query('select pg_notification_queue_usage()::float8 as usage')
      return row?.usage as number
    })
  }

  /**
   * Waits for calls in flight (of a sweep, for its batch), writes the pending touches, and closes the connections that the
   * store opened itself. Later calls reject. May be called twice.
   */
  close(): Promise<void> {
    return this.#lifecycle.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #run<T>(description: string, work: (components: Components) => Promise<T>): Promise<T> {
    return this.#lifecycle.operations.run(description, async () => work(await this.#lifecycle.ready()))
  }

  /** Runs what concerns one session, under the id that the table has for it. */
  async #onSession<T>(
    sid: string,
    { storedId }: SessionIds,
    method: keyof typeof verbs,
    work: (components: Components, id: string) => Promise<T>,
    secret = '',
  ): Promise<T | undefined> {
    // The table can't hold this id, so there is nothing to ask it.
    if (storedId === undefined) return undefined
    const { operations, calls } = this.#lifecycle
    const run = async (): Promise<T> => {
      const components = this.#lifecycle.components ?? (await this.#lifecycle.ready())
      if (components.table.hasRawIds && storedId !== sid) {
        const raw = rawId(sid)
        if (raw !== undefined) await components.queries.hashRawId(raw, storedId)
      }
      return work(components, storedId)
    }
    return operations.run(`${verbs[method]} the session`, run, [sid, storedId, secret], calls[method])
  }
}
