// The advisory lock that only one sweeping instance holds, and its connection.
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import pg, { type ClientConfig } from 'pg'
import { openCursor } from '../postgres/pool-connection.js'
import type { Row } from '../types/options.js'
import { withTimeout } from '../util/timeout.js'

/** Time limit for each statement on this connection; all of them are short. */
const queryTimeoutMs = 10_000

/** How often the holder checks that its connection still works. */
const checkIntervalMs = 1_000

/**
 * A transaction on a dedicated connection, idle except while sessions are read. So the lock is released when its holder
 * exits, works through a pooler in transaction mode, and uses no connection of a pool that may have only one. The
 * transaction locks no rows, and holds back vacuum only while sessions are read.
 */
export class SweepLock {
  readonly #client: pg.Client
  #stream: Duplex | undefined
  #loss: Error | undefined
  #checked = performance.now()
  #isReading = false

  private constructor(config: ClientConfig) {
    const stream = (): Duplex => {
      this.#stream = config.stream?.() ?? new Socket()
      return this.#stream as Duplex
    }
    this.#client = new pg.Client({
      ...config,
      stream,
      keepAlive: true,
      fallback_application_name: 'koa-pg-store sweeper',
    } as ClientConfig)
    const lost = (error?: Error): void => {
      this.#loss ??= error ?? new Error('the connection ended')
    }
    this.#client.on('error', lost)
    this.#client.on('end', lost)
  }

  /** Resolves with the lock, or with `undefined` if another instance has it. Rejects without a connection in `connectMs`. */
  static async take(config: ClientConfig, name: string, connectMs: number): Promise<SweepLock | undefined> {
    const lock = new SweepLock(config)
    try {
      await withTimeout(lock.#client.connect(), connectMs, 'no connection for the sweep')
      // Keepalives release the lock if this machine loses its network or power. The server must not end the transaction for
      // being idle.
      await lock.#query(
        `begin; set local tcp_keepalives_idle = 10; set local tcp_keepalives_interval = 5; set local tcp_keepalives_count = 3;
         set local idle_in_transaction_session_timeout = 0`,
      )
      const text = `select pg_try_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1)) as held`
      const [row] = await lock.#query(text, [`sweep ${name}`])
      if (row?.held === true) return lock
      await lock.release()
      return undefined
    } catch (error) {
      await lock.release()
      throw error
    }
  }

  /** Rejects if the lock is known to be lost. */
  async check(): Promise<void> {
    // While a cursor is open, no other statement can run; the cursor itself fails if the connection is lost.
    const isDue = !this.#isReading && performance.now() - this.#checked > checkIntervalMs
    if (this.#loss === undefined && isDue) {
      await this.#query('select')
      this.#checked = performance.now()
    }
    if (this.#loss !== undefined) throw this.#loss
  }

  /** Yields rows from a cursor, up to `batchSize` at a time. */
  async *read(text: string, values: unknown[], batchSize: number): AsyncGenerator<Row[]> {
    this.#isReading = true
    const cursor = openCursor(this.#client, text, values)
    const next = (): Promise<Row[]> =>
      withTimeout(cursor.read(batchSize), queryTimeoutMs, 'no rows from the cursor')
    try {
      for (let rows = await next(); rows.length > 0; rows = await next()) yield rows
    } finally {
      this.#isReading = false
      if (this.#loss === undefined)
        await withTimeout(cursor.close(), queryTimeoutMs, 'the cursor did not close').catch(() => undefined)
    }
  }

  async release(): Promise<void> {
    await withTimeout(this.#client.end(), 1_000, 'the connection did not end').catch(() => undefined)
    this.#stream?.destroy()
  }

  async #query(text: string, values: unknown[] = []): Promise<Row[]> {
    const query = this.#client.query<Row>({ text, values, ...{ query_timeout: queryTimeoutMs } })
    return (await withTimeout(query, queryTimeoutMs, 'no response to the sweep')).rows
  }
}
