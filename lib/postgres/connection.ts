// The four forms of `connection` as one: runs a statement, with an end to every wait.
import pg, { type ClientConfig, type Pool, type PoolClient, type PoolConfig, type QueryConfig } from 'pg'
import Cursor from 'pg-cursor'
import { codeOf, describe } from '../types/errors.js'
import type { ConnectionSource, QueryFunction, Row } from '../types/session-store.js'

/** How long a connection may take, where neither pool nor configuration says. */
const connectMs = 5_000

/** How long a statement may take, where the configuration doesn't say. */
const statementMs = 10_000

/** Runs statements, somewhere. */
export interface Connection {
  /** How long, in ms, getting a connection may take. */
  readonly connectMs: number
  /** Runs one statement and answers its rows; `within` is for the few that may take longer than a request. */
  query(statement: string | Statement, values?: readonly unknown[], within?: number): Promise<Row[]>
  /** Whether `transaction` is one. */
  readonly canUndo: boolean
  /** Runs statements in one transaction, if this form of connection can; undoes them if the result isn't to be kept. */
  transaction<T>(work: (query: Query) => Promise<T>, isToKeep?: (result: T) => boolean): Promise<T>
  /** Reads rows, so many at a time and never more in memory; `undefined` where this form of connection can't. */
  readonly read: ((text: string, values: unknown[], atOnce: number) => AsyncGenerator<Row[]>) | undefined
  /** A connection of one's own to the same server, as far as that is known. */
  readonly clientConfig: ClientConfig | undefined
  /** Ends what it opened itself. */
  end(): Promise<void>
}

type Query = (statement: string | Statement, values: readonly unknown[]) => Promise<Row[]>

/** One with a name is prepared, once on each connection. */
export interface Statement {
  readonly name: string
  readonly text: string
}

/** What is said of a prepared statement by a pooler that hands each transaction another connection, and after an upgrade. */
const unprepared = new Set(['26000', '42P05', '0A000'])

/**
 * Makes the connection without opening it. `warn` gets the errors of idle connections, which nobody waits for. Throws a
 * `TypeError` for what can't be one; its message never quotes a connection string, which may hold a password.
 */
export function connect(source: ConnectionSource, warn: (error: Error) => void, prepare = true): Connection {
  if (typeof source === 'function') return new FunctionConnection(source)
  if (typeof source === 'object' && source !== null && isPool(source))
    return new PoolConnection(source, warn, false, prepare)
  return new PoolConnection(new pg.Pool(poolConfig(source)), warn, true, prepare)
}

/** What the listener connects with: its own configuration, or the same as the store; `undefined`: it can't. */
export function listenConfig(
  listen: string | ClientConfig | false | undefined,
  connection: Connection,
): ClientConfig | undefined {
  if (listen === false) return undefined
  return listen === undefined
    ? connection.clientConfig
    : poolConfig(listen, 'option "listen"', 'a connection string, a pg configuration or false')
}

const sources = 'a connection string, a pg configuration, a pg.Pool or a query function'

function poolConfig(source: string | PoolConfig, what = 'connection', forms = sources): PoolConfig {
  const config = typeof source === 'string' ? { connectionString: connectionString(source, what) } : source
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new TypeError(`${what} must be ${forms}; received ${describe(config)}`)
  if (config instanceof pg.Client || typeof Reflect.get(config, 'query') === 'function')
    throw new TypeError(
      `${what} must be ${forms}; received a client: give (text, values) => client.query(text, values)`,
    )
  if ('connectionString' in config && config.connectionString !== undefined)
    connectionString(config.connectionString, what)
  return {
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    // No idle connection keeps the process alive (promise 14).
    allowExitOnIdle: true,
    fallback_application_name: 'koa-pg-store',
    ...config,
  }
}

function connectionString(value: unknown, what: string): string {
  const right = `${what} string must look like postgres://user:password@host:5432/database`
  if (typeof value !== 'string') throw new TypeError(`${right}; received ${describe(value)}`)
  if (value.trim() === '') throw new TypeError(`${right}; received an empty one`)
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(value)?.[1]?.toLowerCase()
  if (scheme === undefined && !value.startsWith('/') && !value.startsWith('socket:'))
    throw new TypeError(`${right}; received one without postgres:// (not shown: it may hold a password)`)
  if (scheme !== undefined && !['postgres', 'postgresql', 'socket'].includes(scheme))
    throw new TypeError(`${right}; received one that begins with ${scheme}://`)
  try {
    new pg.Client(value)
  } catch (error) {
    throw new TypeError(`${right}; received one that can't be read (${codeOf(error) ?? 'not shown'})`)
  }
  return value
}

/** By form, not by class: the application's `pg` may be another copy than ours. */
function isPool(source: object): source is Pool {
  const has = (name: string) => typeof Reflect.get(source, name) === 'function'
  return has('connect') && has('query') && typeof Reflect.get(source, 'totalCount') === 'number'
}

/** A client of the pool while it is used, and the errors that say that its connection is lost. */
interface Lease {
  readonly client: PoolClient
  readonly losses: Error[]
  readonly onError: (loss: Error) => void
}

class PoolConnection implements Connection {
  readonly canUndo = true
  readonly connectMs: number
  readonly #pool: Pool
  readonly #owned: boolean
  readonly #statementMs: number
  /** If it is asked to, and until a pooler shows that it can't. */
  #prepares: boolean
  readonly #warn: (error: Error) => void

  /** The pool hides its password from whoever enumerates, and must not hide it here. */
  get clientConfig(): ClientConfig {
    return { ...this.#pool.options, password: this.#pool.options.password }
  }

  constructor(pool: Pool, warn: (error: Error) => void, owned: boolean, prepare: boolean) {
    this.#pool = pool
    this.#owned = owned
    this.#prepares = prepare
    this.#warn = warn
    this.connectMs = pool.options.connectionTimeoutMillis || connectMs
    this.#statementMs = pool.options.query_timeout || statementMs
    // Without a listener the loss of an idle connection would end the process.
    pool.on('error', warn)
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    ms = this.#statementMs,
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
    if (typeof statement !== 'string' && this.#prepares && unprepared.has(code ?? '')) {
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
      if (!this.#prepares || !unprepared.has(codeOf(error) ?? '')) throw error
      this.#prepares = false
      return this.#transact(work, isToKeep)
    }
  }

  async #transact<T>(work: (query: Query) => Promise<T>, isToKeep: (result: T) => boolean): Promise<T> {
    const lease = await this.#acquire()
    return this.#use(lease, async () => {
      const query: Query = (statement, values) =>
        this.#send(lease.client, statement, values, this.#statementMs)
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
  get read(): Connection['read'] {
    return this.#pool.options.max > 1 ? (...args) => this.#read(...args) : undefined
  }

  /** Through a cursor, on a connection that nobody else gets meanwhile. */
  async *#read(text: string, values: unknown[], atOnce: number): AsyncGenerator<Row[]> {
    const { client, losses, onError } = await this.#acquire()
    let isOpen = true
    try {
      const cursor = openCursor(client, text, values)
      try {
        for (;;) {
          const rows = await within(cursor.read(atOnce), this.#statementMs, 'no answer of the cursor')
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
          await within(cursor.close(), this.#statementMs, 'the cursor did not close').catch(
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
  async #use<T>({ client, losses, onError }: Lease, work: () => Promise<T>): Promise<T> {
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
        reject(new Error(`no connection to PostgreSQL within ${this.connectMs} ms`))
      }, this.connectMs)
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
          resolve({ client, losses, onError })
        }
      })
    })
  }

  async end(): Promise<void> {
    if (this.#owned) {
      await within(this.#pool.end(), this.connectMs, 'the connections did not close').catch(this.#warn)
      // The pool doesn't wait until they have closed, and what they say until then would end the process.
      this.#pool.on('error', () => undefined)
    }
    this.#pool.off('error', this.#warn)
  }
}

class FunctionConnection implements Connection {
  readonly canUndo = false
  readonly connectMs = connectMs
  readonly read = undefined
  readonly clientConfig = undefined
  readonly #run: QueryFunction

  constructor(run: QueryFunction) {
    this.#run = run
  }

  async query(
    statement: string | Statement,
    values: readonly unknown[] = [],
    ms = statementMs,
  ): Promise<Row[]> {
    const text = typeof statement === 'string' ? statement : statement.text
    const result = await within(this.#run(text, [...values]), ms, 'the query function did not answer')
    const rows: unknown = Array.isArray(result) ? result : Reflect.get(Object(result), 'rows')
    if (!Array.isArray(rows))
      throw new TypeError(`the query function must answer rows or { rows }; it answered ${describe(result)}`)
    return rows as Row[]
  }

  /** Each call may run on another connection: no transaction, but the statements in their order. */
  transaction<T>(work: (query: Query) => Promise<T>): Promise<T> {
    return work((statement, values) => this.query(statement, values))
  }

  async end(): Promise<void> {}
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

/** The promise, or an error after `ms`; `ref: false`: waiting for it doesn't keep the process alive. */
export async function within<T>(promise: PromiseLike<T>, ms: number, what: string, ref = true): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} within ${ms} ms`)), ms)
    if (!ref) timer.unref()
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
