// Runs statements on a pg.Pool: retries after a lost connection, transactions, cursors.
import type { ClientConfig, Pool, QueryConfig } from 'pg'
import type { Row } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import {
  type Connection,
  defaultConnectTimeoutMs,
  defaultQueryTimeoutMs,
  isStatementError,
  noConnectionCode,
  noResponseCode,
  type PoolState,
  type Query,
  type Statement,
} from './connection.js'
import { readRows } from './cursor.js'
import { LateResult, type Lease } from './lease.js'
import { LeaseQueue } from './lease-queue.js'
import { qualify } from './qualify.js'
import { ServerGuard } from './server-guard.js'

/** A pooler in transaction mode doesn't know our prepared statement (26000, 42P05), or its plan is stale (0A000). */
const stalePlanCodes = new Set(['26000', '42P05', '0A000'])

/** The longest delay of Node's timers. */
const maxTimeoutMs = 2 ** 31 - 1

/** How many new connections are tried: the host name may lead to several servers, or the server may be closing them. */
const maxServers = 3

type Settled = PromiseSettledResult<Row[]>

export class PoolConnection implements Connection {
  readonly isTransactional = true
  readonly cancels = true
  readonly connectTimeoutMs: number
  readonly queryTimeoutMs: number
  readonly #pool: Pool
  readonly #leases: LeaseQueue
  readonly #isOwned: boolean
  readonly #warn: (error: Error) => void
  /** As the option `prepare` says, until a pooler rejects a prepared statement. */
  #prepares: boolean
  /** The clients of pg-native have no cursors. */
  #isNative = false
  #opened = 0
  readonly guard = new ServerGuard()
  readonly #onConnect = (): void => {
    this.#opened++
  }

  constructor(pool: Pool, warn: (error: Error) => void, isOwned: boolean, prepares: boolean) {
    this.#pool = pool
    this.#isOwned = isOwned
    this.#prepares = prepares
    this.#warn = warn
    this.connectTimeoutMs = pool.options.connectionTimeoutMillis || defaultConnectTimeoutMs
    this.queryTimeoutMs = pool.options.query_timeout || defaultQueryTimeoutMs
    const { connectTimeoutMs, queryTimeoutMs } = this
    this.#leases = new LeaseQueue({ pool, connectTimeoutMs, queryTimeoutMs })
    // Without a listener the loss of an idle connection would end the process.
    pool.on('error', warn)
    pool.on('connect', this.#onConnect)
    pool.on('remove', this.guard.forget)
  }

  get poolState(): PoolState {
    return { isFull: this.#leases.isFull, opened: this.#opened }
  }

  get clientConfig(): ClientConfig {
    // The pool's `password` isn't enumerable.
    return { ...this.#pool.options, password: this.#pool.options.password }
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    limit?: number | TimeLimit,
  ): Promise<Row[]> {
    const { deadline, statementMs } = this.#limit(limit)
    return this.#retrying(statement, deadline, (lease) =>
      lease.limit(deadline, statementMs, () => this.#send(lease, statement, values)).catch(rowsOf),
    )
  }

  pipeline(
    first: Statement,
    values: readonly unknown[],
    second: Statement,
    isNeeded: (rows: readonly Row[]) => boolean,
    instead: Statement,
    limit?: TimeLimit,
  ): Promise<[Row[], Row[] | Error]> {
    const { deadline, statementMs } = this.#limit(limit)
    return this.#retrying(first, deadline, async (lease) => {
      const { client } = lease
      const prepares = this.#prepares
      const sendFirst = async (): Promise<Row[]> => {
        const rows = await this.#send(lease, first, values)
        // The second waits for the disk or a replica, not for a lock.
        lease.beginLast()
        return rows
      }
      const sendSecond = (): Promise<Row[]> => this.#send(lease, second, [])
      let [one, two] = await lease.limit(deadline, statementMs, async () => {
        const results = await (this.#isOwned ? together : inTurn)()
        const [one] = results
        if (one.status === 'rejected' && !(one.reason instanceof LateResult)) throw one.reason
        return results
      })
      // Nothing is thrown from here on: the first is done, and must not be repeated.
      if (
        one.status === 'fulfilled' &&
        two.status === 'rejected' &&
        this.#stopPreparing(two.reason, prepares)
      )
        [two] = await Promise.allSettled([lease.limit(deadline, this.queryTimeoutMs, sendSecond)])
      if (one.status === 'fulfilled' && two.status === 'fulfilled') return [one.value, two.value]
      const error: unknown = one.status === 'rejected' ? one.reason : two.status === 'rejected' && two.reason
      if (error instanceof LateResult) {
        const rerun = (): Promise<Row[]> => this.#send(lease, instead, [])
        const three = await lease.limit(deadline, this.queryTimeoutMs, rerun).catch(throwUnknown)
        return [one.status === 'fulfilled' ? one.value : error.rows, three]
      }
      if (!isStatementError(error)) lease.lose(error as Error)
      return [one.status === 'fulfilled' ? one.value : [], error as Error]

      async function together(): Promise<[Settled, Settled]> {
        Reflect.set(client, 'pipeline', true)
        try {
          return await Promise.allSettled([sendFirst(), sendSecond()])
        } finally {
          Reflect.set(client, 'pipeline', false)
        }
      }

      // The connections of a caller's pool may be of another version of pg, which doesn't pipeline.
      async function inTurn(): Promise<[Settled, Settled]> {
        const [one] = await Promise.allSettled([sendFirst()])
        if (one.status === 'rejected') return [one, one]
        const [two] = await Promise.allSettled([isNeeded(one.value) ? sendSecond() : []])
        return [one, two]
      }
    })
  }

  /** What a call may take: getting a connection and one statement together, unless `limit` says. */
  #limit(limit: number | TimeLimit | undefined): Required<TimeLimit> {
    if (typeof limit === 'object') return { statementMs: this.queryTimeoutMs, ...limit }
    const statementMs = limit ?? this.queryTimeoutMs
    return { deadline: performance.now() + this.connectTimeoutMs + statementMs, statementMs }
  }

  async #retrying<T>(
    statement: string | Statement,
    deadline: number,
    work: (lease: Lease) => Promise<T>,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const lease = await this.#acquire(deadline)
      const prepares = this.#prepares
      try {
        return await lease.use(() => work(lease))
      } catch (error) {
        const wasPrepared = typeof statement !== 'string' && this.#stopPreparing(error, prepares)
        if (attempt > this.#pool.options.max || !(wasPrepared || this.#canRetry(statement, error)))
          throw error
      }
      // A server that shuts down closes its connections one after the other. Give the pool a turn to notice.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /**
   * Whether a statement may be sent again: it was certainly not executed, or it only reads and the connection was lost,
   * which happens when the pool hands out a connection that the server is closing.
   */
  #canRetry(statement: string | Statement, error: unknown): boolean {
    if (isStatementError(error) || !(error instanceof Error)) return false
    const code = codeOf(error)
    // A time limit isn't spent twice.
    if (code === noResponseCode || code === noConnectionCode) return false
    const text = typeof statement === 'string' ? statement : statement.text
    return text.startsWith('select') || code === '57P01'
  }

  /**
   * Whether a statement failed because it was prepared, so that it can be sent again: from now on none is. `prepares`: whether
   * they were when it was sent. Of several in flight, each fails.
   */
  #stopPreparing(error: unknown, prepares: boolean): boolean {
    if (!prepares || !stalePlanCodes.has(codeOf(error) ?? '')) return false
    this.#prepares = false
    return true
  }

  async transaction<T>(
    work: (query: Query) => Promise<T>,
    shouldCommit: (result: T) => boolean = () => true,
    afterCommit?: (query: Query) => Promise<unknown>,
    limit?: TimeLimit,
  ): Promise<T> {
    const time = this.#limit(limit)
    const prepares = this.#prepares
    try {
      return await this.#transaction(work, shouldCommit, afterCommit, time)
    } catch (error) {
      if (!this.#stopPreparing(error, prepares)) throw error
      // It was rolled back.
      return this.#transaction(work, shouldCommit, afterCommit, time)
    }
  }

  async #transaction<T>(
    work: (query: Query) => Promise<T>,
    shouldCommit: (result: T) => boolean,
    afterCommit: ((query: Query) => Promise<unknown>) | undefined,
    { deadline, statementMs }: Required<TimeLimit>,
  ): Promise<T> {
    const lease = await this.#acquire(deadline)
    return lease.use(async () => {
      const run = (statement: string | Statement, values: readonly unknown[], ms: number): Promise<Row[]> =>
        lease.limit(deadline, ms, () => this.#send(lease, statement, values))
      const query: Query = (statement, values) => run(statement, values, statementMs).catch(rowsOf)
      // Whatever the database's default is: a statement that has waited for a lock must see what was committed before.
      await query('begin isolation level read committed', [])
      try {
        const result = await work(query)
        const commits = shouldCommit(result)
        // A commit waits for the disk or a replica, not for a lock.
        await run(commits ? 'commit' : 'rollback', [], this.queryTimeoutMs)
        if (commits) await afterCommit?.(query)
        return result
      } catch (error) {
        // A lost connection takes its transaction with it.
        if (isStatementError(error)) await this.#rollBack(lease)
        throw error
      }
    })
  }

  /** Even if no time is left: the connection can't be used again otherwise. */
  async #rollBack(lease: Lease): Promise<void> {
    const deadline = performance.now() + this.connectTimeoutMs
    await lease.limit(deadline, this.connectTimeoutMs, () => this.#send(lease, 'rollback', []))
  }

  /** With a single connection a cursor would keep all other statements waiting. */
  get stream(): Connection['stream'] {
    return this.#pool.options.max > 1 && !this.#isNative ? (...args) => this.#stream(...args) : undefined
  }

  async *#stream(text: string, values: unknown[], batchSize: number): AsyncGenerator<Row[]> {
    const lease = await this.#acquire()
    try {
      yield* readRows(lease, qualify(text), values, batchSize, this.queryTimeoutMs)
    } finally {
      lease.release()
    }
  }

  async #send(lease: Lease, statement: string | Statement, values: readonly unknown[]): Promise<Row[]> {
    const { text, name = undefined } =
      typeof statement === 'string' ? { text: qualify(statement) } : statement
    this.#isNative = 'native' in lease.client
    const { query_timeout } = this.#pool.options
    return lease.send({
      text,
      values: values as unknown[],
      // pg's own limit leaves the statement running on the server. pg-native's clients have no other.
      ...((query_timeout || this.#isNative) && {
        query_timeout: this.#isNative ? this.queryTimeoutMs : maxTimeoutMs,
      }),
      ...(this.#prepares && name !== undefined && { name }),
    } as QueryConfig)
  }

  /** Resolves with a client that leads to the primary. Others are given back, and the pool closes them. */
  async #acquire(deadline?: number): Promise<Lease> {
    for (let attempt = 1; ; ) {
      const lease = await this.#leases.acquire(deadline)
      const { client } = lease
      if (this.guard.isCurrent(client)) return lease
      try {
        if (this.guard.isKnown(client)) throw new Error('the connection is older than a failover')
        const end = deadline ?? performance.now() + this.connectTimeoutMs + this.queryTimeoutMs
        const run = (text: string): Promise<Row[]> =>
          lease.limit(end, this.connectTimeoutMs, () => this.#send(lease, text, [])).catch(rowsOf)
        await this.guard.admit(client, run)
        return lease
      } catch (error) {
        const isOld = this.guard.isKnown(client)
        lease.lose(error as Error)
        lease.release()
        // A time limit isn't spent twice.
        if (!isOld && (++attempt > maxServers || codeOf(error) === noResponseCode)) throw error
      }
    }
  }

  async end(timeoutMs = this.connectTimeoutMs): Promise<void> {
    if (this.#isOwned) {
      const ended = this.#pool.end()
      const drop = (): void => this.#leases.drop()
      await withTimeout(ended, timeoutMs, 'the connections did not close').catch(drop)
      // The pool doesn't wait until they have closed. Until then an error without a listener would end the process.
      this.#pool.on('error', () => undefined)
    } else this.#leases.drop()
    this.#pool.off('error', this.#warn)
    this.#pool.off('connect', this.#onConnect)
    this.#pool.off('remove', this.guard.forget)
  }
}

/** The first statement was executed: it must not be repeated for this error's sake. */
function throwUnknown(error: unknown): never {
  throw Object.assign(new Error(messageOf(error)), { code: noResponseCode })
}

/** A statement that was executed though it was to be cancelled has a result all the same. */
function rowsOf(error: unknown): Row[] {
  if (error instanceof LateResult) return error.rows
  throw error
}
