// Runs statements on a pg.Pool: time limits, retries after a lost connection, transactions, cursors.
import type { ClientConfig, Pool, PoolClient, QueryConfig } from 'pg'
import type { Row } from '../types/options.js'
import { codeOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import {
  type Connection,
  defaultConnectTimeoutMs,
  defaultQueryTimeoutMs,
  isStatementError,
  type PoolState,
  type Query,
  type Statement,
} from './connection.js'
import { type CursorClient, readRows } from './cursor.js'
import { ServerGuard } from './server-guard.js'

/** A pooler in transaction mode doesn't know our prepared statement (26000, 42P05), or its plan is stale (0A000). */
const stalePlanCodes = new Set(['26000', '42P05', '0A000'])

/** How many new connections are tried: the host name may lead to several servers, or the server may be closing them. */
const maxServers = 3

type Settled = PromiseSettledResult<Row[]>

export class PoolConnection implements Connection {
  readonly isTransactional = true
  readonly connectTimeoutMs: number
  readonly #pool: Pool
  readonly #isOwned: boolean
  readonly #queryTimeoutMs: number
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
    this.#queryTimeoutMs = pool.options.query_timeout || defaultQueryTimeoutMs
    // Without a listener the loss of an idle connection would end the process.
    pool.on('error', warn)
    pool.on('connect', this.#onConnect)
    pool.on('remove', this.guard.forget)
  }

  get poolState(): PoolState {
    const { idleCount, totalCount, options } = this.#pool
    return { isFull: idleCount === 0 && totalCount >= options.max, opened: this.#opened }
  }

  get clientConfig(): ClientConfig {
    // The pool's `password` isn't enumerable.
    return { ...this.#pool.options, password: this.#pool.options.password }
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    timeoutMs = this.#queryTimeoutMs,
  ): Promise<Row[]> {
    return this.#retrying(statement, (lease) => this.#send(lease.client, statement, values, timeoutMs))
  }

  pipeline(
    first: Statement,
    values: readonly unknown[],
    second: Statement,
    isNeeded: (rows: readonly Row[]) => boolean,
  ): Promise<[Row[], Row[] | Error]> {
    return this.#retrying(first, async (lease) => {
      const { client } = lease
      const prepares = this.#prepares
      const sendFirst = (): Promise<Row[]> => this.#send(client, first, values, this.#queryTimeoutMs)
      const sendSecond = (): Promise<Row[]> => this.#send(client, second, [], this.#queryTimeoutMs)
      let [one, two] = await (this.#isOwned ? together : inTurn)()
      if (one.status === 'rejected') throw one.reason
      if (two.status === 'rejected' && this.#stopPreparing(two.reason, prepares))
        [two] = await Promise.allSettled([sendSecond()])
      if (two.status === 'fulfilled') return [one.value, two.value]
      // Not thrown: the first is done, and must not be repeated.
      if (!isStatementError(two.reason)) lease.lose(two.reason)
      return [one.value, two.reason]

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
        const rows = await sendFirst()
        const [two] = await Promise.allSettled([isNeeded(rows) ? sendSecond() : []])
        return [{ status: 'fulfilled', value: rows }, two]
      }
    })
  }

  async #retrying<T>(statement: string | Statement, work: (lease: Lease) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const lease = await this.#acquire()
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
    // A time limit isn't spent twice.
    if (/timeout|within \d+ ms/.test(error.message)) return false
    const text = typeof statement === 'string' ? statement : statement.text
    return text.startsWith('select') || codeOf(error) === '57P01'
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
  ): Promise<T> {
    const prepares = this.#prepares
    try {
      return await this.#transaction(work, shouldCommit, afterCommit)
    } catch (error) {
      if (!this.#stopPreparing(error, prepares)) throw error
      // It was rolled back.
      return this.#transaction(work, shouldCommit, afterCommit)
    }
  }

  async #transaction<T>(
    work: (query: Query) => Promise<T>,
    shouldCommit: (result: T) => boolean,
    afterCommit: ((query: Query) => Promise<unknown>) | undefined,
  ): Promise<T> {
    const lease = await this.#acquire()
    return lease.use(async () => {
      const query: Query = (statement, values) =>
        this.#send(lease.client, statement, values, this.#queryTimeoutMs)
      // Whatever the database's default is: a statement that has waited for a lock must see what was committed before.
      await query('begin isolation level read committed', [])
      try {
        const result = await work(query)
        const commits = shouldCommit(result)
        await query(commits ? 'commit' : 'rollback', [])
        if (commits) await afterCommit?.(query)
        return result
      } catch (error) {
        // A lost connection takes its transaction with it.
        if (isStatementError(error)) await query('rollback', [])
        throw error
      }
    })
  }

  /** With a single connection a cursor would keep all other statements waiting. */
  get stream(): Connection['stream'] {
    return this.#pool.options.max > 1 && !this.#isNative ? (...args) => this.#stream(...args) : undefined
  }

  async *#stream(text: string, values: unknown[], batchSize: number): AsyncGenerator<Row[]> {
    const lease = await this.#acquire()
    try {
      yield* readRows(lease, text, values, batchSize, this.#queryTimeoutMs)
    } finally {
      lease.release()
    }
  }

  async #send(
    client: PoolClient,
    statement: string | Statement,
    values: readonly unknown[],
    timeoutMs: number,
  ): Promise<Row[]> {
    const { text, name = undefined } = typeof statement === 'string' ? { text: statement } : statement
    const config = {
      text,
      values: [...values],
      query_timeout: timeoutMs,
      ...(this.#prepares && name !== undefined && { name }),
    } as QueryConfig
    return (await client.query<Row>(config)).rows
  }

  /** Resolves with a client that leads to the primary. Others are given back, and the pool closes them. */
  async #acquire(): Promise<Lease> {
    for (let attempt = 1; ; ) {
      const lease = await this.#lease()
      const { client } = lease
      if (this.guard.isCurrent(client)) return lease
      try {
        if (this.guard.isKnown(client)) throw new Error('the connection is older than a failover')
        await this.guard.admit(client, (text) => this.#send(client, text, [], this.connectTimeoutMs))
        return lease
      } catch (error) {
        const isOld = this.guard.isKnown(client)
        lease.lose(error as Error)
        lease.release()
        // A time limit isn't spent twice.
        if (!isOld && (++attempt > maxServers || /timeout/.test((error as Error).message))) throw error
      }
    }
  }

  /** Resolves with a client of the pool, or rejects in time. A client that comes too late goes back unused. */
  #lease(): Promise<Lease> {
    return new Promise((resolve, reject) => {
      let isLate = false
      const timer = setTimeout(() => {
        isLate = true
        reject(new Error(`no connection to PostgreSQL within ${this.connectTimeoutMs} ms`))
      }, this.connectTimeoutMs)
      this.#pool.connect((error, client) => {
        clearTimeout(timer)
        if (isLate) client?.release()
        else if (client === undefined) reject(error ?? new Error('the pool gave no connection'))
        else {
          this.#isNative = 'native' in client
          resolve(new Lease(client))
        }
      })
    })
  }

  async end(): Promise<void> {
    if (this.#isOwned) {
      await withTimeout(this.#pool.end(), this.connectTimeoutMs, 'the connections did not close').catch(
        this.#warn,
      )
      // The pool doesn't wait until they have closed. Until then an error without a listener would end the process.
      this.#pool.on('error', () => undefined)
    }
    this.#pool.off('error', this.#warn)
    this.#pool.off('connect', this.#onConnect)
    this.#pool.off('remove', this.guard.forget)
  }
}

/** A client of the pool while it is used. */
class Lease implements CursorClient {
  readonly client: PoolClient
  #error: Error | undefined
  readonly lose = (error: Error): void => {
    this.#error ??= error
  }

  /**
   * To be called in the pool's callback: the server's goodbye can come in the same packet as its welcome, and its error
   * would end the process without a listener. The statement in flight rejects as well.
   */
  constructor(client: PoolClient) {
    this.client = client
    client.on('error', this.lose)
  }

  get isLost(): boolean {
    return this.#error !== undefined
  }

  /** Runs work with the client, then releases it. */
  async use<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!isStatementError(error)) this.lose(error as Error)
      throw error
    } finally {
      this.release()
    }
  }

  /** Returns the client to the pool, which closes it if its connection was lost. */
  release(): void {
    this.client.off('error', this.lose)
    this.client.release(this.#error)
  }
}
