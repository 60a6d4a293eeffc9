// The advisory lock that lets one instance sweep at a time, and the connection that holds it.
import type { ClientConfig } from 'pg'
import { readRows } from '../postgres/cursor.js'
import { DedicatedClient } from '../postgres/dedicated-client.js'
import type { Row } from '../types/options.js'

/** How long one of its statements may take: none has much to do. */
const queryTimeoutMs = 10_000

/** How often the holder checks that it still has the lock. */
const checkIntervalMs = 1_000

/**
 * A transaction on a connection of its own, idle except for reading sessions. So the lock ends with its holder, works
 * through a pooler in transaction mode, and takes no connection from a pool that may have only one. It locks no rows, and
 * holds vacuum back only while it reads.
 */
export class SweepLock {
  readonly #client: DedicatedClient
  #checkedAt = performance.now()
  #isReading = false

  private constructor(client: DedicatedClient) {
    this.#client = client
  }

  /** Resolves with the lock, or `undefined` if another instance has it. Rejects without a connection in time. */
  static async take(
    config: ClientConfig,
    tableName: string,
    connectTimeoutMs: number,
  ): Promise<SweepLock | undefined> {
    const client = new DedicatedClient({ config, name: 'sweeper', keepsProcessAlive: true })
    try {
      await client.connect(connectTimeoutMs)
      // If this process or its network goes away, the server has to notice. A limit on idle transactions is meant for
      // those that lock rows, and must not end this one.
      await client.query(
        `begin; set local tcp_keepalives_idle = 10; set local tcp_keepalives_interval = 5; set local tcp_keepalives_count = 3;
         set local idle_in_transaction_session_timeout = 0`,
        [],
        queryTimeoutMs,
      )
      const text = `select pg_try_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1)) as held`
      const [row] = await client.query(text, [`sweep ${tableName}`], queryTimeoutMs)
      if (row?.held === true) return new SweepLock(client)
      await client.end()
      return undefined
    } catch (error) {
      await client.end()
      throw error
    }
  }

  /** Rejects if the lock is lost, as far as this process can know. */
  async check(): Promise<void> {
    // While a cursor is open no other statement runs, and its next rows show that the connection works.
    if (!this.#isReading && !this.#client.isLost && performance.now() - this.#checkedAt > checkIntervalMs) {
      await this.#client.query('select', [], queryTimeoutMs)
      this.#checkedAt = performance.now()
    }
    if (this.#client.error !== undefined) throw this.#client.error
  }

  /** Yields rows through a cursor, `batchSize` at a time. */
  async *read(text: string, values: unknown[], batchSize: number): AsyncGenerator<Row[]> {
    this.#isReading = true
    try {
      yield* readRows(this.#client, text, values, batchSize, queryTimeoutMs)
    } finally {
      this.#isReading = false
    }
  }

  release(): Promise<void> {
    return this.#client.end()
  }
}
