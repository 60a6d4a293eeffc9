// The advisory lock that lets one instance of all sweep, and the connection that holds it.
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import pg, { type ClientConfig } from 'pg'
import { openCursor } from '../postgres/pool-connection.js'
import type { Row } from '../types/options.js'
import { withTimeout } from '../util/timeout.js'

/** How long one of its statements, none of which has much to do, may take. */
const queryTimeoutMs = 10_000

/** How often the holder makes sure that it still is one. */
const checkIntervalMs = 1_000

/**
 * A transaction on a connection of its own, idle but for the reading of sessions. So the lock ends with its holder,
 * goes through a pooler that hands each transaction another connection, and takes none from a pool that may have only one.
 * It holds no rows, and vacuum back only while it reads.
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

  /** The lock, or `undefined` if another instance has it. Rejects if there is no connection within `connectMs`. */
  static async take(config: ClientConfig, name: string, connectMs: number): Promise<SweepLock | undefined> {
    const lock = new SweepLock(config)
    try {
      await withTimeout(lock.#client.connect(), connectMs, 'no connection to sweep with')
      // An instance that is cut off, or a machine that is gone, must not keep it. No time limit that is meant for
      // transactions which hold something ends it either.
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

  /** Rejects if the lock is lost, as far as anybody can know. */
  async check(): Promise<void> {
    // Nothing gets past a cursor, and the next of its rows say as much.
    const isDue = !this.#isReading && performance.now() - this.#checked > checkIntervalMs
    if (this.#loss === undefined && isDue) {
      await this.#query('select')
      this.#checked = performance.now()
    }
    if (this.#loss !== undefined) throw this.#loss
  }

  /** Reads rows through a cursor, so many at a time. */
  async *read(text: string, values: unknown[], most: number): AsyncGenerator<Row[]> {
    this.#isReading = true
    const cursor = openCursor(this.#client, text, values)
    const next = (): Promise<Row[]> =>
      withTimeout(cursor.read(most), queryTimeoutMs, 'no answer of the cursor')
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
    return (await withTimeout(query, queryTimeoutMs, 'no answer to the sweeper')).rows
  }
}
