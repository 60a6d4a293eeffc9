// PgStore: sessions in PostgreSQL. Its public methods, each one call of what lifecycle.ts has set up. Over 300 lines because
// half of them document these methods.
import type { EventEmitter } from 'node:events'
import type { SessionRecord } from '../cache/session-records.js'
import { queueUsageSql } from '../notifications/heartbeat.js'
import type { DestroyCall, ReadCall, SessionCall, WriteCall } from '../repository/session-calls.js'
import { SessionImporter } from '../repository/session-importer.js'
import { withDevice } from '../session/device.js'
import { toSessionId } from '../session/koa-context.js'
import { contextOf } from '../session/koa-session.js'
import { createId, digestOf, handleOf, rawId } from '../session/session-id.js'
import { toStored } from '../session/stored-session.js'
import { resolveTtl } from '../session/ttl.js'
import { findUserId, toUserId } from '../session/user-id.js'
import type { ConnectionSource, DeviceContext, PgStoreOptions } from '../types/options.js'
import type { Health, SessionInfo, Stats, SweepResult } from '../types/results.js'
import type {
  GetOptions,
  Session,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from '../types/session-store.js'
import type { CallRecorder } from '../util/call-stats.js'
import { tickNow } from '../util/tick-clock.js'
import { isTraced, type TraceContext } from '../util/tracing.js'
import { TypedEmitter } from '../util/typed-emitter.js'
import { assertDuration, assertString } from '../util/validate.js'
import { yieldable } from '../util/yieldable.js'
import { type Components, methods } from './components.js'
import type { PgStoreEvents } from './events.js'
import { checkHealth } from './health.js'
import { Lifecycle } from './lifecycle.js'
import { readOptions } from './options.js'
import { readStats } from './stats.js'

/** Why a table of raw ids can't hold a session id. */
const cannotStore =
  'session id must have at most 1024 characters, without NUL, record separators or lone surrogates, and not the form of a digest'

/** What can be saved: any object, unless `PgStore<MySession>` says what a session is. */
type Saved<T extends object> = Session extends T ? object : T

/** What errors call the operations. */
const descriptions = {
  read: 'read the session',
  write: 'write the session',
  destroy: 'destroy the session',
} as const

/** How long `stats()` waits for the database, in ms. */
const statsTimeoutMs = 2_000

/** How long after a request has loaded a session it may put another object in its place. */
const replaceWindowMs = 60_000

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
 * was created or ended by this instance, with its user and the reason; `warning` with an `Error` that no call could reject
 * with, such as the loss of an idle connection; without a listener, Node prints each kind of warning once. There is no
 * `disconnect` and no `error`.
 *
 * `PgStore<MySession>` types the sessions in methods, events and options. They are not checked.
 *
 * @example
 * ```ts
 * const store = new PgStore('postgres://user:password@localhost/app', { idleTimeout: 30 * 60_000 })
 * store.on('warning', (error) => console.warn(error.message))
 * app.use(session({ store }))
 * ```
 */
export class PgStore<T extends object = Session>
  extends TypedEmitter<PgStoreEvents<T>>
  implements SessionStore
{
  readonly #lifecycle: Lifecycle

  /**
   * Does no I/O.
   *
   * @param connection A connection string, a `pg` configuration, a `pg.Pool` (never closed by the store) or a query function.
   * @default `DATABASE_URL`, or libpq's variables (`PGHOST`, …)
   * @throws {TypeError | RangeError} for an argument or option that can't be used, naming it and the value received.
   */
  constructor(connection?: ConnectionSource, options?: PgStoreOptions<T>) {
    super()
    const settings = readOptions(options as PgStoreOptions | undefined)
    this.#lifecycle = new Lifecycle(connection, settings, this as unknown as EventEmitter<PgStoreEvents>)
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
   * `U` is what the caller knows of its attributes; it is not checked. Takes koa-session's further arguments: its context
   * remembers what was loaded.
   *
   * @param options `{ fresh: true }` reads from the database even if the session is cached.
   * @throws {DatabaseError} if the database can't be asked; never `undefined` because of a failure.
   * @example
   * ```ts
   * const session = await store.get<{ cart: number[] }>(sid)
   * ```
   */
  get<U extends object = T>(
    sid: string,
    options?: GetOptions | Ttl,
    more?: object,
  ): Yieldable<U | undefined> {
    const fresh = typeof options === 'object' && options?.fresh === true
    const owner = contextOf(more)
    // Without a closure for each call when nothing subscribes.
    const session = isTraced('get')
      ? this.#lifecycle.traced('get', (trace) => this.#get(sid, fresh, owner, trace))
      : this.#get(sid, fresh, owner)
    return yieldable(session as Promise<U | undefined>)
  }

  /** Returns the session with the milliseconds until it expires, unless it is changed before. */
  async getWithTtl(sid: string, _?: unknown, more?: object): Promise<SessionWithTtl | undefined> {
    const session: Session | undefined = await this.get<Session>(sid, undefined, more)
    if (session === undefined) return undefined
    const { records, components } = this.#lifecycle
    return { session, ttl: components?.reader.getRemainingTtl(records.resolve(sid)) ?? 0 }
  }

  /** Not async: a promise fewer for each call. */
  #get(
    sid: string,
    fresh: boolean,
    owner: object | undefined,
    trace?: TraceContext,
  ): Promise<Session | undefined> {
    try {
      const record = this.#lifecycle.records.resolve(sid)
      const { digest, storedId: id } = record
      const cached = fresh ? undefined : this.#lifecycle.active?.reader.getCached(record, owner)
      if (trace !== undefined) trace.cached = cached !== undefined
      if (cached !== undefined) {
        record.loadedAt = performance.now()
        return Promise.resolve(cached)
      }
      // The table can't hold this id, so there is nothing to ask it.
      if (id === undefined) return Promise.resolve(undefined)
      const call: ReadCall = { verb: 'read', sid, digest, record, id, startedAt: tickNow(), fresh, owner }
      return this.#start(call, ({ reader }, read) => reader.read(read))
    } catch (error) {
      return Promise.reject(error)
    }
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
  set(sid: string, session: Saved<T>, ttl?: Ttl, more?: object): Yieldable<void> {
    const owner = contextOf(more)
    return yieldable(
      isTraced('set')
        ? this.#lifecycle.traced('set', () => this.#set(sid, session, ttl, owner))
        : this.#set(sid, session, ttl, owner),
    )
  }

  /** Serialized before it returns: the caller may change the object at once. */
  #set(sid: string, session: object, ttl: Ttl, owner?: object): Promise<void> {
    try {
      const { records, settings } = this.#lifecycle
      const record = records.resolve(sid)
      const { digest, storedId: id } = record
      if (id === undefined) throw new RangeError(cannotStore)
      const device = settings.device?.(owner as DeviceContext | undefined)
      const json = withDevice(toStored(session, settings), device)
      const ttlMs = resolveTtl(ttl, settings.ttl, settings.maxLifetime)
      const userId = findUserId(settings.userId, session as Session)
      const startedAt = tickNow()
      const base = this.#replacedBase(record, startedAt)
      const call: WriteCall = {
        verb: 'write',
        sid,
        digest,
        record,
        id,
        startedAt,
        json,
        ttlMs,
        userId,
        base,
        isUnchanged: false,
        session,
        owner,
      }
      return this.#start(call, ({ repository }, write) => repository.write(write))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** A new object in place of a session that was loaded lately may only update: if that is gone, it was destroyed. */
  #replacedBase({ loadedAt }: SessionRecord, now: number): 'replaced' | undefined {
    return loadedAt !== 0 && now - loadedAt < replaceWindowMs ? 'replaced' : undefined
  }

  /**
   * Moves an active session's expiry to `ttl` milliseconds from now, never to an earlier time. A missing session stays
   * missing. The write is deferred, as the option `touch` says, if the session is known to live until then.
   */
  touch(sid: string, ttl?: Ttl): Promise<void> {
    return this.#lifecycle.traced('touch', () => this.#touch(sid, ttl))
  }

  async #touch(sid: string, ttl?: Ttl): Promise<void> {
    const { records, settings, touches } = this.#lifecycle
    const ttlMs = resolveTtl(ttl, settings.ttl, settings.maxLifetime)
    const record = records.resolve(sid)
    const { digest, storedId: id } = record
    if (id === undefined) return
    const work = (components: Components): Promise<void> =>
      touches.touch(record, idIn(components, sid, digest), ttlMs)
    await this.#run('touch the session', [sid, id], work, this.#lifecycle.calls.touch)
  }

  /** Destroys a session. Nothing brings it back. Destroying a missing session is a no-op. */
  destroy(sid: string, ..._: unknown[]): Yieldable<void> {
    return yieldable(
      isTraced('destroy') ? this.#lifecycle.traced('destroy', () => this.#destroy(sid)) : this.#destroy(sid),
    )
  }

  #destroy(sid: string): Promise<void> {
    try {
      const record = this.#lifecycle.records.resolve(sid)
      const { digest, storedId: id } = record
      if (id === undefined) return Promise.resolve()
      const call: DestroyCall = { verb: 'destroy', sid, digest, record, id, startedAt: tickNow() }
      if (this.listenerCount('destroy') > 0) return this.#destroyAndReport(call)
      return this.#start(call, ({ repository }, destroy) => repository.destroy(destroy))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** For listeners of `destroy`: the row no longer has its user afterwards. */
  #destroyAndReport(call: DestroyCall): Promise<void> {
    let userId: string | undefined
    const onDestroyed = (): void =>
      this.#lifecycle.report('destroy', { handle: call.digest, userId, reason: 'logout' })
    const findUser = async (components: Components): Promise<void> => {
      userId = await components.registry.userOf([call.id, idIn(components, call.sid, call.digest)])
    }
    return this.#startAfter({ ...call, onDestroyed }, findUser, ({ repository }, destroy) =>
      repository.destroy(destroy),
    )
  }

  /**
   * Saves a new session under a new id and returns the id, which has 192 random bits.
   *
   * @example
   * ```ts
   * const sid = await store.create({ userId: 7 }, { ttl: 60_000 })
   * ```
   */
  async create(session: Saved<T>, { ttl }: { ttl?: Ttl } = {}): Promise<string> {
    const sid = createId()
    await this.set(sid, session, ttl)
    return sid
  }

  /**
   * Saves a session that comes from another store, unless the table has one with this id, or had one that was destroyed
   * within the last hour. Returns whether it was saved.
   *
   * @param ttl Milliseconds. `undefined`, `null`, `NaN` and `'session'` mean the option `ttl`.
   * @throws what `set` throws.
   * @example
   * ```ts
   * await store.add(sid, await oldStore.get(sid), 86_400_000)
   * ```
   */
  async add(sid: string, session: object, ttl?: Ttl): Promise<boolean> {
    const { connection, records, settings } = this.#lifecycle
    const { storedId: id } = records.resolve(sid)
    if (id === undefined) throw new RangeError(cannotStore)
    const json = toStored(session, settings)
    const expires = resolveTtl(ttl, settings.ttl, settings.maxLifetime)
    const userId = findUserId(settings.userId, session as Session)
    return this.#run('write the session', [sid, id, json], async ({ table }) => {
      const importer = new SessionImporter({ connection, table, codec: settings.codec })
      return (await importer.insert([{ id, rawId: rawId(sid), json, userId, expires }])).size > 0
    })
  }

  /** Returns the number of active sessions. */
  count(): Promise<number> {
    return this.#run('count the sessions', [], ({ registry }) => registry.count())
  }

  /** Returns a user's active sessions, the last used first. Needs the column `user_id`. */
  async sessionsOf(userId: string | number): Promise<SessionInfo<T>[]> {
    const id = toUserId(userId, 'userId')
    return this.#run('list the sessions of a user', [], async ({ registry }) => {
      await this.#lifecycle.touches.flush()
      return registry.sessionsOf(id) as Promise<SessionInfo<T>[]>
    })
  }

  /**
   * Destroys a user's sessions and returns how many were active. A session that comes to belong to the user while this runs
   * is not destroyed.
   *
   * @param userId The user, as the option `userId` returns it.
   * @param options Which session to keep.
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
    const count = await this.#run('destroy the sessions of a user', [], async ({ registry }) => {
      const count = await registry.destroySessionsOf(id, kept)
      await this.#lifecycle.catchUp()
      return count
    })
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
    return this.#run('destroy all sessions', [], async ({ registry }) => {
      const count = await registry.destroyAll()
      await this.#lifecycle.catchUp()
      return count
    })
  }

  /** Destroys the session with this handle, as lists show it. Returns whether there was one. */
  async revoke(handle: string): Promise<boolean> {
    assertString(handle, 'handle')
    return this.#run('revoke the session', [], async ({ registry, repository }) => {
      const found = await registry.revoke(handle)
      // Also if another instance has just destroyed it, whose notification is still on its way.
      repository.invalidate(handle, Number.POSITIVE_INFINITY)
      return found
    })
  }

  /**
   * Removes an attribute from all of a user's sessions, such as a role that was revoked, and returns how many had it. A
   * save in flight of a session that still had the attribute doesn't bring it back, unless `concurrency` is `'last-write'`
   * or the save changes that attribute. Other changes made at the same time are kept.
   */
  async deleteAttribute(userId: string | number, name: string): Promise<number> {
    const id = toUserId(userId, 'userId')
    assertString(name, 'name')
    return this.#run('delete the attribute', [], async ({ registry, repository }) => {
      const save: Parameters<typeof registry.deleteAttribute>[2] = (request, session) => {
        const owner = findUserId(this.#lifecycle.settings.userId, session)
        this.#lifecycle.operations.begin('delete the attribute')
        const digest = handleOf(request.id)
        return repository.write({
          ...request,
          session: undefined,
          owner: undefined,
          verb: 'write',
          sid: request.id,
          startedAt: undefined,
          digest,
          record: this.#lifecycle.records.of(digest, request.id),
          userId: owner,
        })
      }
      try {
        return await registry.deleteAttribute(id, name, save)
      } finally {
        // Also if it rejects, since some can't be decoded.
        await this.#lifecycle.catchUp()
      }
    })
  }

  /**
   * Yields every active session, in no particular order. A few are in memory at a time, however many there are.
   *
   * @example
   * ```ts
   * for await (const { handle, userId, lastAccessedAt } of store.sessions()) console.log(handle, userId, lastAccessedAt)
   * ```
   */
  async *sessions(): AsyncGenerator<SessionInfo<T>, void, undefined> {
    const { operations } = this.#lifecycle
    const description = 'list the sessions'
    const { registry } = await operations.run(description, () => this.#lifecycle.ready())
    try {
      yield* registry.sessions() as AsyncGenerator<SessionInfo<T>, void, undefined>
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
    return this.#run('clear the caches', [], () => this.#lifecycle.clearCaches())
  }

  /**
   * Returns counters, and the state of cache and listener. Asks the database one thing, how full its notification queue is;
   * that is `undefined` during an outage.
   */
  async stats(): Promise<Stats> {
    return readStats(this.#lifecycle, await this.#queueUsage().catch(() => undefined))
  }

  /**
   * Returns whether sessions can be read and saved, with what a readiness probe or a dashboard wants to know. Asks the
   * database. Never rejects, and resolves within the time that a connection and a statement may take.
   *
   * @example
   * ```ts
   * const { healthy, error } = await store.health()
   * ctx.status = healthy ? 200 : 503
   * ```
   */
  health(): Promise<Health> {
    return checkHealth(this.#lifecycle)
  }

  #queueUsage(): Promise<number> {
    const { operations, connection } = this.#lifecycle
    return operations.run('read the usage of the notification queue', async () => {
      const limit = { deadline: performance.now() + statsTimeoutMs }
      const [row] = await connection.query(queueUsageSql, [], limit)
      return Number(row?.usage)
    })
  }

  /**
   * Waits for calls in flight (of a sweep, for its batch), writes the pending touches, and closes the connections that the
   * store opened itself. Later calls reject. May be called twice. Never rejects, and resolves within `timeout` ms: then calls
   * that are still in flight reject, and a `warning` says how many touches could not be written.
   *
   * @param options How long it may take.
   * @param options.timeout In milliseconds; 5,000 by default.
   * @example
   * ```ts
   * process.once('SIGTERM', () => server.close(() => store.close()))
   * ```
   */
  async close({ timeout = 5_000 }: { timeout?: number } = {}): Promise<void> {
    if (timeout !== 0) assertDuration('timeout', timeout)
    await this.#lifecycle.close(timeout)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #run<T>(
    description: string,
    secrets: string[],
    work: (components: Components) => Promise<T>,
    recorder?: CallRecorder,
  ): Promise<T> {
    const { operations } = this.#lifecycle
    return operations.run(description, async () => work(await this.#lifecycle.ready()), secrets, recorder)
  }

  /** Starts what concerns one session. The repository says when it is done; see `onSettled`. */
  #start<C extends SessionCall, T>(
    call: C,
    work: (components: Components, call: C) => Promise<T>,
  ): Promise<T> {
    const { active } = this.#lifecycle
    return active === undefined ? this.#startAfter(call, undefined, work) : this.#begin(active, call, work)
  }

  /** The same once the table is set up and `prepare` is done. */
  #startAfter<C extends SessionCall, T>(
    call: C,
    prepare: ((components: Components) => Promise<void>) | undefined,
    work: (components: Components, call: C) => Promise<T>,
  ): Promise<T> {
    const { operations, calls } = this.#lifecycle
    const { verb, sid, id, startedAt = 0 } = call
    const start = async (): Promise<T> => {
      let components: Components
      try {
        components = await this.#lifecycle.ready()
        await prepare?.(components)
      } catch (error) {
        // A call that gets further is recorded with its batch.
        calls[methods[verb]].record(tickNow() - startedAt, true)
        throw error
      }
      return this.#begin(components, call, work)
    }
    return operations.run(descriptions[verb], start, [sid, id])
  }

  #begin<C extends SessionCall, T>(
    components: Components,
    call: C,
    work: (components: Components, call: C) => Promise<T>,
  ): Promise<T> {
    this.#lifecycle.operations.begin(descriptions[call.verb])
    const { takesStoredIds } = components
    return work(components, takesStoredIds ? call : { ...call, id: idIn(components, call.sid, call.digest) })
  }
}

/** Returns the id that statements are given for a session; see `hasRawIds`. */
function idIn({ table }: Components, sid: string, digest: string): string {
  const raw = table.hasRawIds || table.insertsRawIds ? rawId(sid) : undefined
  return raw ?? `sha256:${digest}`
}
