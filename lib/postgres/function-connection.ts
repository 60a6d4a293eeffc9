// Runs statements by the application's own query function.
import type { QueryFunction, Row } from '../types/options.js'
import { withTimeout } from '../util/timeout.js'
import { describe } from '../util/validate.js'
import {
  type Connection,
  defaultConnectTimeoutMs,
  defaultQueryTimeoutMs,
  type Query,
  type Statement,
} from './connection.js'

export class FunctionConnection implements Connection {
  readonly isTransactional = false
  readonly connectTimeoutMs = defaultConnectTimeoutMs
  readonly stream = undefined
  readonly pipeline = undefined
  readonly poolState = undefined
  readonly guard = undefined
  readonly clientConfig = undefined
  readonly #run: QueryFunction

  constructor(run: QueryFunction) {
    this.#run = run
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    timeoutMs = defaultQueryTimeoutMs,
  ): Promise<Row[]> {
    const text = typeof statement === 'string' ? statement : statement.text
    // postgres.js rejects undefined.
    const query = this.#run(
      text,
      values.map((value) => value ?? null),
    )
    const result = await withTimeout(query, timeoutMs, 'the query function did not resolve')
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
  ): Promise<T> {
    const query: Query = (statement, values) => this.query(statement, values)
    const result = await work(query)
    await afterCommit?.(query)
    return result
  }

  async end(): Promise<void> {}
}
