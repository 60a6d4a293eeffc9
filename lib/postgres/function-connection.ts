// Runs statements by the application's own query function.
import type { QueryFunction, Row } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { withTimeout } from '../util/timeout.js'
import { describe } from '../util/validate.js'
import { CircuitBreaker } from './circuit-breaker.js'
import {
  type Connection,
  defaultConnectTimeoutMs,
  defaultQueryTimeoutMs,
  noResponseCode,
  type Query,
  type Statement,
} from './connection.js'
import { qualify } from './qualify.js'

const noResponse = 'the query function did not resolve'

export class FunctionConnection implements Connection {
  readonly isTransactional = false
  readonly cancels = false
  readonly connectTimeoutMs = defaultConnectTimeoutMs
  readonly queryTimeoutMs = defaultQueryTimeoutMs
  readonly stream = undefined
  readonly pipeline = undefined
  readonly poolState = undefined
  readonly guard = undefined
  readonly clientConfig = undefined
  readonly #run: QueryFunction
  readonly #breaker = new CircuitBreaker()

  constructor(run: QueryFunction) {
    this.#run = run
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    limit: number | TimeLimit = defaultQueryTimeoutMs,
  ): Promise<Row[]> {
    const text = typeof statement === 'string' ? qualify(statement) : statement.text
    const startedAt = performance.now()
    const ms = typeof limit === 'number' ? limit : Math.min(defaultQueryTimeoutMs, limit.deadline - startedAt)
    this.#breaker.enter()
    // postgres.js rejects undefined.
    const query = this.#run(
      text,
      values.map((value) => value ?? null),
    )
    const result = await withTimeout(
      Promise.resolve(query).finally(() => this.#breaker.respond()),
      Math.max(ms, 0),
      noResponse,
    ).catch((error) => {
      if (!(error instanceof Error && error.message.startsWith(noResponse))) throw error
      this.#breaker.fail(startedAt, error)
      throw Object.assign(error, { code: noResponseCode })
    })
    const rows: unknown = Array.isArray(result) ? result : Reflect.get(Object(result), 'rows')
    if (!Array.isArray(rows))
      throw new TypeError(
        `the query function must resolve with rows or { rows }; received ${describe(result)}`,
      )
    return rows as Row[]
  }

  /** Each statement may run on another connection, so this only runs them in their order. */
  async transaction<T>(
    work: (query: Query) => Promise<T>,
    _shouldCommit?: (result: T) => boolean,
    afterCommit?: (query: Query) => Promise<unknown>,
    limit?: TimeLimit,
  ): Promise<T> {
    const query: Query = (statement, values) => this.query(statement, values, limit)
    const result = await work(query)
    await afterCommit?.(query)
    return result
  }

  async end(): Promise<void> {}
}
