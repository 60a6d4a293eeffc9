// The four forms of `connection` as one: runs a statement, with an end to every wait.
import pg, { type Pool, type PoolClient, type PoolConfig, type QueryConfig } from 'pg'
import { codeOf, describe } from './errors.js'
import type { ConnectionSource, QueryFunction, Row } from './types.js'

/** How long a connection may take, where neither pool nor configuration says. */
const connectMs = 5_000

/** How long a statement may take, where the configuration doesn't say. */
const statementMs = 10_000

/** Runs statements, somewhere. */
export interface Connection {
  /** How long, in ms, getting a connection may take. */
  readonly connectMs: number
  /** Runs one statement and answers its rows; `within` is for the few that may take longer than a request. */
  query(text: string, values?: readonly unknown[], within?: number): Promise<Row[]>
  /** Ends what it opened itself. */
  end(): Promise<void>
}

/**
 * Makes the connection without opening it. `warn` gets the errors of idle connections, which nobody waits for. Throws a
 * `TypeError` for what can't be one; its message never quotes a connection string, which may hold a password.
 */
export function connect(source: ConnectionSource, warn: (error: Error) => void): Connection {
  if (typeof source === 'function') return new FunctionConnection(source)
  if (typeof source === 'object' && source !== null && isPool(source))
    return new PoolConnection(source, warn, false)
  return new PoolConnection(new pg.Pool(poolConfig(source)), warn, true)
}

function poolConfig(source: string | PoolConfig): PoolConfig {
  const config = typeof source === 'string' ? { connectionString: connectionString(source) } : source
  const forms = 'a connection string, a pg configuration, a pg.Pool or a query function'
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new TypeError(`connection must be ${forms}; received ${describe(config)}`)
  if (config instanceof pg.Client || typeof Reflect.get(config, 'query') === 'function')
    throw new TypeError(
      `connection must be ${forms}; received a client: give (text, values) => client.query(text, values)`,
    )
  if ('connectionString' in config && config.connectionString !== undefined)
    connectionString(config.connectionString)
  return {
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    // No idle connection keeps the process alive (promise 14).
    allowExitOnIdle: true,
    fallback_application_name: 'koa-pg-store',
    ...config,
  }
}

function connectionString(value: unknown): string {
  const right = 'connection string must look like postgres://user:password@host:5432/database'
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

class PoolConnection implements Connection {
  readonly connectMs: number
  readonly #pool: Pool
  readonly #owned: boolean
  readonly #statementMs: number
  readonly #warn: (error: Error) => void

  constructor(pool: Pool, warn: (error: Error) => void, owned: boolean) {
    this.#pool = pool
    this.#owned = owned
    this.#warn = warn
    this.connectMs = pool.options.connectionTimeoutMillis || connectMs
    this.#statementMs = pool.options.query_timeout || statementMs
    // Without a listener the loss of an idle connection would end the process.
    pool.on('error', warn)
  }

  async query(text: string, values: readonly unknown[] = [], ms = this.#statementMs): Promise<Row[]> {
    for (let attempt = 1; ; attempt++) {
      const client = await this.#acquire()
      let lost: Error | undefined
      // pg rejects the query too; the listener keeps the event from ending the process.
      const onError = (error: Error): void => {
        lost = error
      }
      client.on('error', onError)
      try {
        return (await client.query<Row>({ text, values: [...values], query_timeout: ms } as QueryConfig)).rows
      } catch (error) {
        if (!isStatementError(error)) lost ??= error as Error
        if (attempt > this.#pool.options.max || lost === undefined || !canRepeat(text, error as Error))
          throw error
      } finally {
        client.off('error', onError)
        client.release(lost)
      }
      // The server closes many connections at once, each in its own time: at most all of them. Let the pool hear first.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /** A client, or an error in time; one that comes too late goes back unused, so that nothing is written late. */
  #acquire(): Promise<PoolClient> {
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
        else resolve(client)
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
  readonly connectMs = connectMs
  readonly #run: QueryFunction

  constructor(run: QueryFunction) {
    this.#run = run
  }

  async query(text: string, values: readonly unknown[] = [], ms = statementMs): Promise<Row[]> {
    const result = await within(this.#run(text, [...values]), ms, 'the query function did not answer')
    const rows: unknown = Array.isArray(result) ? result : Reflect.get(Object(result), 'rows')
    if (!Array.isArray(rows))
      throw new TypeError(`the query function must answer rows or { rows }; it answered ${describe(result)}`)
    return rows as Row[]
  }

  async end(): Promise<void> {}
}

/** An error that PostgreSQL answered to the statement: the connection is as good as before. */
function isStatementError(error: unknown): boolean {
  // A former primary refuses writes until the connection is given up (25006).
  return error instanceof Error && Reflect.get(error, 'severity') === 'ERROR' && codeOf(error) !== '25006'
}

/**
 * Whether a statement may be sent again over another connection after this one was lost, as happens to one that the pool
 * hands out while the server is closing it: it only reads, or it was certainly not executed.
 */
function canRepeat(text: string, error: Error): boolean {
  if (error.message === 'Query read timeout') return false
  return text.startsWith('select') || codeOf(error) === '57P01'
}

/** The promise, or an error after `ms`. */
export async function within<T>(promise: PromiseLike<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} within ${ms} ms`)), ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
