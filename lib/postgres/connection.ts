// What the rest of the package needs of a database connection.
import type { ClientConfig } from 'pg'
import type { Row } from '../types/options.js'

/** How long a connection may take, where neither pool nor configuration says. */
export const defaultConnectTimeoutMs = 5_000

/** How long a statement may take, where the configuration doesn't say. */
export const defaultQueryTimeoutMs = 10_000

/** Runs statements, somewhere. */
export interface Connection {
  /** How long, in ms, getting a connection may take. */
  readonly connectTimeoutMs: number
  /** Runs one statement and answers its rows; `within` is for the few that may take longer than a request. */
  query(statement: string | Statement, values?: readonly unknown[], within?: number): Promise<Row[]>
  /** Whether `transaction` is one. */
  readonly isTransactional: boolean
  /** Runs statements in one transaction, if this form of connection can; undoes them if the result isn't to be kept. */
  transaction<T>(work: (query: Query) => Promise<T>, isToKeep?: (result: T) => boolean): Promise<T>
  /** Reads rows, so many at a time and never more in memory; `undefined` where this form of connection can't. */
  readonly stream: ((text: string, values: unknown[], atOnce: number) => AsyncGenerator<Row[]>) | undefined
  /** A connection of one's own to the same server, as far as that is known. */
  readonly clientConfig: ClientConfig | undefined
  /** Ends what it opened itself. */
  end(): Promise<void>
}

export type Query = (statement: string | Statement, values: readonly unknown[]) => Promise<Row[]>

/** One with a name is prepared, once on each connection. */
export interface Statement {
  readonly name: string
  readonly text: string
}
