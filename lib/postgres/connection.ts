// What the rest of the package needs of a database connection.
import type { ClientConfig } from 'pg'
import type { Row } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { codeOf } from '../util/driver-errors.js'
import type { ServerGuard } from './server-guard.js'

/** How long getting a connection may take, unless the pool or its configuration says. */
export const defaultConnectTimeoutMs = 5_000

/** How long a statement may take, unless the configuration says. */
export const defaultQueryTimeoutMs = 10_000

/** Runs statements. One implementation for a pg.Pool, one for a query function. */
export interface Connection {
  /** How long getting a connection may take. */
  readonly connectTimeoutMs: number
  /** How long a statement may take. */
  readonly queryTimeoutMs: number
  /** Whether a statement that takes too long can be cancelled, so that it is known not to be executed later. */
  readonly cancels: boolean
  /**
   * Runs one statement and returns its rows. `limit` is what it may take, repeats and waiting for a connection included, or the
   * ms that the statement may take, for those that may take longer than a request.
   */
  query(
    statement: string | Statement,
    values?: readonly unknown[],
    limit?: number | TimeLimit,
  ): Promise<Row[]>
  /**
   * Runs two statements on one connection, each in a transaction of its own, and with one round trip where that is possible.
   * Elsewhere the second is left out unless `isNeeded`. If the first was executed though it was to be cancelled, `instead` runs
   * in place of the second. Rejects if the first fails; resolves with the rows of both, or with an error in place of the
   * second's, which is never repeated on another connection. `undefined` without connections.
   */
  readonly pipeline:
    | ((
        first: Statement,
        values: readonly unknown[],
        second: Statement,
        isNeeded: (rows: readonly Row[]) => boolean,
        instead: Statement,
        limit?: TimeLimit,
      ) => Promise<[Row[], Row[] | Error]>)
    | undefined
  /** Whether `transaction` runs its statements in one transaction. A query function can't. */
  readonly isTransactional: boolean
  /**
   * Runs statements in one transaction, if it can. Rolls back if `work` rejects or `shouldCommit` returns false. After the
   * commit, `afterCommit` may run statements on the same connection.
   */
  transaction<T>(
    work: (query: Query) => Promise<T>,
    shouldCommit?: (result: T) => boolean,
    afterCommit?: (query: Query) => Promise<unknown>,
    limit?: TimeLimit,
  ): Promise<T>
  /** Yields rows through a cursor, `batchSize` at a time; `undefined` if there can be no cursor. */
  readonly stream: ((text: string, values: unknown[], batchSize: number) => AsyncGenerator<Row[]>) | undefined
  /** What the pool is doing; `undefined` if there is none. */
  readonly poolState: PoolState | undefined
  /** Knows which server the connections lead to; `undefined` without connections. */
  readonly guard: ServerGuard | undefined
  /** The configuration for another connection to the same server; `undefined` if it isn't known. */
  readonly clientConfig: ClientConfig | undefined
  /** Closes what this object opened itself. Statements that are still running after `timeoutMs` reject. */
  end(timeoutMs?: number): Promise<void>
}

export interface PoolState {
  /** Whether a statement would have to wait for a connection. */
  readonly isFull: boolean
  /** The number of connections opened so far. */
  readonly opened: number
}

export type Query = (statement: string | Statement, values: readonly unknown[]) => Promise<Row[]>

/** A statement that each connection prepares once, under this name. */
export interface Statement {
  readonly name: string
  /** Qualified, unlike a statement that is a string. */
  readonly text: string
}

/** PostgreSQL's code for a statement that was cancelled, by us or by a time limit of the server: it was not executed. */
export const cancelledCode = '57014'

/** The code of the error of a statement without a response: whether it was or will be executed is unknown. */
export const noResponseCode = 'ERR_NO_RESPONSE'

/** The code of the error of a call that got no connection in time. */
export const noConnectionCode = 'ERR_NO_CONNECTION'

/** A setting that doesn't exist, which statements ask for on a standby, so that they fail. */
export const standbySetting = 'koa_pg_store.standby'

/** Whether PostgreSQL rejected the statement, and the connection is as good as before. */
export function isStatementError(error: unknown): boolean {
  // A server that has become a standby refuses writes (25006): the connection leads to the wrong server.
  return (
    error instanceof Error &&
    Reflect.get(error, 'severity') === 'ERROR' &&
    codeOf(error) !== '25006' &&
    !error.message.includes(standbySetting)
  )
}
