// A client of the pool while it is used: gives up a statement that takes too long, so that it ends on the server as well.
import type { Pool, PoolClient, QueryConfig, Submittable } from 'pg'
import type { Row } from '../types/options.js'
import { unwatch, type Watched, watch } from '../util/deadlines.js'
import { codeOf } from '../util/driver-errors.js'
import { canCancel, requestCancel } from './cancel-request.js'
import type { CircuitBreaker } from './circuit-breaker.js'
import { cancelledCode, isStatementError, noResponseCode } from './connection.js'
import type { CursorClient } from './cursor.js'

/** What all leases of a pool share. */
export interface LeaseOptions {
  readonly pool: Pool
  readonly breaker: CircuitBreaker
  /** How long a statement may take, in ms. */
  readonly queryTimeoutMs: number
  /** How long the server may take to cancel a statement, in ms. */
  readonly cancelTimeoutMs: number
  readonly onReleased: (lease: Lease) => void
  /** A cancel request was received and changed nothing: a load balancer may have taken it to another server. */
  readonly onCancelIgnored: () => void
  /** Whether cancel requests have been ignored. */
  readonly ignoresCancel: () => boolean
}

/** A statement was cancelled too late: it had been executed. */
export class LateResult extends Error {
  readonly rows: Row[]
  constructor(rows: Row[]) {
    super('the statement was executed while it was being cancelled')
    this.rows = rows
  }
}

export class Lease implements CursorClient, Watched {
  readonly client: PoolClient
  readonly #options: LeaseOptions
  /** The next thing that the watch does: ask the server to cancel, ask again, or drop the connection. */
  dueAt = 0
  #startedAt = 0
  #lastCancelAt = 0
  #dropAt = 0
  /** Whether the server received the last request to cancel the statement. */
  #cancelling: Promise<boolean> | undefined
  #isDropped = false
  #error: Error | undefined
  readonly lose = (error: Error): void => {
    this.#error ??= error
  }

  /**
   * To be called in the pool's callback: the server's goodbye can come in the same packet as its welcome, and its error
   * would end the process without a listener. The statement in flight rejects as well.
   */
  constructor(client: PoolClient, options: LeaseOptions) {
    this.client = client
    this.#options = options
    client.on('error', this.lose)
  }

  get isLost(): boolean {
    return this.#error !== undefined
  }

  /**
   * Runs work of one statement, or of several that are sent together. After `statementMs` the server is asked to cancel it, and
   * again at the end of the time for a statement; if it doesn't, the connection is dropped, at `deadline` at the latest.
   * Rejects with the code `cancelledCode` if the statement was certainly not executed, and `noResponseCode` if that is unknown.
   */
  async limit<T>(deadline: number, statementMs: number, work: () => Promise<T>): Promise<T> {
    const { queryTimeoutMs, cancelTimeoutMs, breaker, ignoresCancel } = this.#options
    const now = performance.now()
    const lastMs = Math.min(Math.max(statementMs, queryTimeoutMs), deadline - now - cancelTimeoutMs)
    if (lastMs <= 0) throw timeLimitExceeded()
    this.#startedAt = now
    this.#cancelling = undefined
    this.#lastCancelAt = now + lastMs
    this.#dropAt = this.#lastCancelAt + cancelTimeoutMs
    const isPatient = ignoresCancel() || !canCancel(this.client)
    this.dueAt = isPatient ? this.#lastCancelAt : Math.min(now + statementMs, this.#lastCancelAt)
    watch(this)
    try {
      const result = await work()
      breaker.respond()
      return result
    } catch (error) {
      throw this.#explain(error)
    } finally {
      unwatch(this)
      // A request that arrives later would cancel the next statement on this connection.
      if (this.#cancelling !== undefined && !(await this.#cancelling))
        this.lose(new Error('a cancel request was lost'))
    }
  }

  /** To be called within `limit`. A result that comes after the statement was to be cancelled rejects with `LateResult`. */
  async send(config: QueryConfig): Promise<Row[]> {
    const rows = await query(this.client, config)
    if (this.#cancelling !== undefined) throw new LateResult(rows)
    return rows
  }

  /** To be called within `limit` when what remains to be done needn't be cancelled early. */
  beginLast(): void {
    if (this.#cancelling !== undefined || this.dueAt >= this.#lastCancelAt) return
    this.dueAt = this.#lastCancelAt
  }

  onDue(): void {
    const { pool, cancelTimeoutMs } = this.#options
    const now = performance.now()
    if (now >= this.#dropAt) {
      this.#drop()
      return
    }
    if (this.#cancelling !== undefined) this.#options.onCancelIgnored()
    this.#cancelling = requestCancel(this.client, pool.options, cancelTimeoutMs)
    this.dueAt = now < this.#lastCancelAt ? this.#lastCancelAt : this.#dropAt
    watch(this)
  }

  /** Asks the server to cancel what runs on the connection, which is not to be used again. */
  cancel(): void {
    const { pool, cancelTimeoutMs } = this.#options
    void requestCancel(this.client, pool.options, cancelTimeoutMs)
  }

  /** Closes the connection at once: its statement rejects. */
  drop(): void {
    this.lose(new Error('the connection was closed'))
    const stream: unknown = Reflect.get(Object(Reflect.get(this.client, 'connection')), 'stream')
    const destroy: unknown = Reflect.get(Object(stream), 'destroy')
    if (typeof destroy === 'function') destroy.call(stream)
    else void Promise.resolve(this.client.end()).catch(() => undefined)
  }

  #drop(): void {
    this.#isDropped = true
    const { breaker } = this.#options
    // A server that receives cancel requests is there, though this statement's process may be stopped.
    void this.#cancelling?.then((isReceived) => {
      if (!isReceived) breaker.fail(this.#startedAt, noResponse())
    })
    this.drop()
  }

  #explain(error: unknown): unknown {
    if (this.#isDropped) return noResponse()
    if (error instanceof LateResult || isStatementError(error)) this.#options.breaker.respond()
    if (this.#cancelling !== undefined && codeOf(error) === cancelledCode)
      return Object.assign(new Error(cancelledMessage), { code: cancelledCode, severity: 'ERROR' })
    return error
  }

  /** Runs work with the client, then releases it. */
  async use<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!isStatementError(error) && !(error instanceof LateResult)) this.lose(error as Error)
      throw error
    } finally {
      this.release()
    }
  }

  /** Returns the client to the pool, which closes it if its connection was lost. */
  release(): void {
    this.client.off('error', this.lose)
    this.client.release(this.#error)
    this.#options.onReleased(this)
  }
}

type QueryClass = new (
  text: string,
  values: unknown[] | undefined,
  callback: (error: Error | null, result: { rows: Row[] }) => void,
) => Submittable & { name?: string; query_timeout?: number }

/**
 * Runs a statement. pg copies a configuration property by property and makes two more promises, which is a tenth of the cost of a
 * lone statement. A `Query`, of the client's own version of pg, it takes as it is.
 */
async function query(client: PoolClient, config: QueryConfig & { query_timeout?: number }): Promise<Row[]> {
  const Query =
    'native' in client ? undefined : (Reflect.get(client.constructor, 'Query') as QueryClass | undefined)
  if (Query === undefined) return (await client.query<Row>(config)).rows
  return new Promise((resolve, reject) => {
    const { text, values, name, query_timeout } = config
    const query = new Query(text, values, (error, result) => {
      if (error) reject(error)
      else resolve(result.rows)
    })
    if (name !== undefined) query.name = name
    if (query_timeout !== undefined) query.query_timeout = query_timeout
    client.query(query)
  })
}

const cancelledMessage =
  'the statement took too long and was cancelled: another transaction may hold a lock that it needs'

function noResponse(): Error {
  return Object.assign(new Error('no response from PostgreSQL within the time that a statement may take'), {
    code: noResponseCode,
  })
}

/** No time is left: the statement isn't sent. */
function timeLimitExceeded(): Error {
  return Object.assign(new Error('no time was left to send the statement within its time limit'), {
    code: cancelledCode,
    severity: 'ERROR',
  })
}
