// Runs statements on a pg.Pool: time limits, repeats after a lost connection, transactions, cursors.
import type pg from 'pg'
import type { ClientConfig, Pool, PoolClient, QueryConfig } from 'pg'
import Cursor from 'pg-cursor'
import type { Row } from '../types/options.js'
import { codeOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import {
  type Connection,
  defaultConnectTimeoutMs,
  defaultQueryTimeoutMs,
  type Query,
  type Statement,
} from './connection.js'

/** What is said of a prepared statement by a pooler that hands each transaction another connection, and after an upgrade. */
const stalePlanCodes = new Set(['26000', '42P05', '0A000'])

/** A client of the pool while it is used, and the errors that say that its connection is lost. */
export interface Lease {
  readonly client: PoolClient
  readonly connectionErrors: Error[]
  readonly onError: (loss: Error) => void
}

export class PoolConnection implements Connection {
  readonly isTransactional = true
  readonly connectTimeoutMs: number
  readonly #pool: Pool
  readonly #isOwned: boolean
  readonly #queryTimeoutMs: number
  /** If it is asked to, and until a pooler shows that it can't. */
  #prepares: boolean
  readonly #warn: (error: Error) => void

  /** The pool hides its password from whoever enumerates, and must not hide it here. */
  get clientConfig(): ClientConfig {
    return { ...this.#pool.options, password: this.#pool.options.password }
  }

  constructor(pool: Pool, warn: (error: Error) => void, owned: boolean, prepare: boolean) {
    this.#pool = pool
    this.#isOwned = owned
    this.#prepares = prepare
    this.#warn = warn
    this.connectTimeoutMs = pool.options.connectionTimeoutMillis || defaultConnectTimeoutMs
    this.#queryTimeoutMs = pool.options.query_timeout || defaultQueryTimeoutMs
    // Without a listener the loss of an idle connection would end the process.
    pool.on('error', warn)
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    ms = this.#queryTimeoutMs,
  ): Promise<Row[]> {
    for (let attempt = 1; ; attempt++) {
      const lease = await this.#acquire()
      try {
        return await this.#use(lease, () => this.#send(lease.client, statement, values, ms))
      } catch (error) {
        if (attempt > this.#pool.options.max || !this.#canRepeat(statement, error)) throw error
      }
      // The server closes many connections at once, each in its own time: at most all of them. Let the pool hear first.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /**
   * Whether a statement may be sent again: it was certainly not executed, or it only reads and the connection was lost, as
   * happens to one that the pool hands out while the server is closing it.
   */
  #canRepeat(statement: string | Statement, error: unknown): boolean {
    const code = codeOf(error)
    if (typeof statement !== 'string' && this.#prepares && stalePlanCodes.has(code ?? '')) {
      this.#prepares = false
      return true
    }
    if (isStatementError(error) || !(error instanceof Error)) return false
    // A time that is up isn't given a second time.
    if (/timeout|within \d+ ms/.test(error.message)) return false
    const text = typeof statement === 'string' ? statement : statement.text
    return text.startsWith('select') || code === '57P01'
  }

  async transaction<T>(work: (query: Query) => Promise<T>, isToKeep = (_: T) => true): Promise<T> {
    try {
      return await this.#transact(work, isToKeep)
    } catch (error) {
      // Undone, and made again without.
      if (!this.#prepares || !stalePlanCodes.has(codeOf(error) ?? '')) throw error
      this.#prepares = false
      return this.#transact(work, isToKeep)
    }
  }

  async #transact<T>(work: (query: Query) => Promise<T>, isToKeep: (result: T) => boolean): Promise<T> {
    const lease = await this.#acquire()
    return this.#use(lease, async () => {
      const query: Query = (statement, values) =>
        this.#send(lease.client, statement, values, this.#queryTimeoutMs)
      // Whatever the database's default is: who has waited for a lock has to see what was done meanwhile.
      await query('begin isolation level read committed', [])
      try {
        const result = await work(query)
        await query(isToKeep(result) ? 'commit' : 'rollback', [])
        return result
      } catch (error) {
        // A connection that can't roll back is lost, and the transaction with it.
        if (isStatementError(error)) await query('rollback', [])
        throw error
      }
    })
  }

  /** Who reads may ask other things meanwhile: with one connection alone, a cursor would keep it from them. */
  get stream(): Connection['stream'] {
    return this.#pool.options.max > 1 ? (...args) => this.#read(...args) : undefined
  }

  /** Through a cursor, on a connection that nobody else gets meanwhile. */
  async *#read(text: string, values: unknown[], atOnce: number): AsyncGenerator<Row[]> {
    const { client, connectionErrors: losses, onError } = await this.#acquire()
    let isOpen = true
    try {
      const cursor = openCursor(client, text, values)
      try {
        for (;;) {
          const rows = await withTimeout(cursor.read(atOnce), this.#queryTimeoutMs, 'no answer of the cursor')
          if (rows.length === 0) return
          yield rows
        }
      } catch (error) {
        // There is nothing to close, and no answer to that would come.
        isOpen = false
        if (!isStatementError(error)) losses.push(error as Error)
        throw error
      } finally {
        if (isOpen && losses.length === 0)
          await withTimeout(cursor.close(), this.#queryTimeoutMs, 'the cursor did not close').catch(
            (error: Error) => void losses.push(error),
          )
      }
    } finally {
      client.off('error', onError)
      client.release(losses[0])
    }
  }

  async #send(
    client: PoolClient,
    statement: string | Statement,
    values: readonly unknown[],
    ms: number,
  ): Promise<Row[]> {
    const { text, name = undefined } = typeof statement === 'string' ? { text: statement } : statement
    const named = this.#prepares && name !== undefined && { name }
    return (
      await client.query<Row>({ text, values: [...values], query_timeout: ms, ...named } as QueryConfig)
    ).rows
  }

  /** Gives the client back in the end, or up if the connection was lost. */
  async #use<T>({ client, connectionErrors: losses, onError }: Lease, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!isStatementError(error)) losses.push(error as Error)
      throw error
    } finally {
      client.off('error', onError)
      client.release(losses[0])
    }
  }

  /** A client, or an error in time; one that comes too late goes back unused, so that nothing is written late. */
  #acquire(): Promise<Lease> {
    return new Promise((resolve, reject) => {
      let late = false
      const timer = setTimeout(() => {
        late = true
        reject(new Error(`no connection to PostgreSQL within ${this.connectTimeoutMs} ms`))
      }, this.connectTimeoutMs)
      this.#pool.connect((error, client) => {
        clearTimeout(timer)
        if (late) client?.release()
        else if (client === undefined) reject(error ?? new Error('the pool gave no connection'))
        else {
          const losses: Error[] = []
          // pg rejects the statement too; the listener keeps the event from ending the process. It must be there before
          // this function returns: the server's farewell can be in the same packet as its welcome.
          const onError = (loss: Error): void => void losses.push(loss)
          client.on('error', onError)
          resolve({ client, connectionErrors: losses, onError })
        }
      })
    })
  }

  async end(): Promise<void> {
    if (this.#isOwned) {
      await withTimeout(this.#pool.end(), this.connectTimeoutMs, 'the connections did not close').catch(
        this.#warn,
      )
      // The pool doesn't wait until they have closed, and what they say until then would end the process.
      this.#pool.on('error', () => undefined)
    }
    this.#pool.off('error', this.#warn)
  }
}

/** An error that PostgreSQL answered to the statement: the connection is as good as before. */
function isStatementError(error: unknown): boolean {
  // A former primary refuses writes until the connection is given up (25006).
  return error instanceof Error && Reflect.get(error, 'severity') === 'ERROR' && codeOf(error) !== '25006'
}

/**
 * Sends a statement whose rows are read bit by bit. pg would end the whole of it after `query_timeout`, which is meant for
 * each answer, and its timer would outlive a lost connection: told that there is an answer, it forgets both.
 */
export function openCursor(client: pg.ClientBase, text: string, values: unknown[]): Cursor<Row> {
  const cursor = client.query(new Cursor<Row>(text, values))
  const answered: unknown = Reflect.get(cursor, 'callback')
  if (typeof answered === 'function') answered()
  return cursor
}
