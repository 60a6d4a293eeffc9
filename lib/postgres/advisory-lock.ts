// An advisory lock on a connection of its own, for work that one instance at a time may do.
import pg, { type ClientConfig } from 'pg'
import { DedicatedClient } from './dedicated-client.js'

/** How long one of its statements may take: none has much to do. */
const queryTimeoutMs = 10_000

/** How often the holder checks that it still has the lock. */
const checkIntervalMs = 1_000

export interface AdvisoryLockOptions {
  readonly config: ClientConfig
  /** What is locked, by all instances. */
  readonly key: string
  readonly connectTimeoutMs: number
  /** Names the connection in `pg_stat_activity`. */
  readonly name: string
  readonly keepsProcessAlive: boolean
}

/**
 * An idle transaction. So the lock ends with its holder, works through a pooler in transaction mode and stays on none of its
 * connections, and takes no connection from a pool that may have only one. It locks no rows, and as it is read committed,
 * it holds back neither vacuum nor `create index concurrently`.
 */
export class AdvisoryLock {
  readonly #client: DedicatedClient
  #checkedAt = performance.now()

  private constructor(client: DedicatedClient) {
    this.#client = client
  }

  /** Resolves with the lock, or `undefined` if another instance has it. Rejects without a connection in time. */
  static async take(options: AdvisoryLockOptions): Promise<AdvisoryLock | undefined> {
    const client = new DedicatedClient(options)
    try {
      await client.connect(options.connectTimeoutMs)
      await client.query('begin isolation level read committed', [], queryTimeoutMs)
      // If this process or its network goes away, the server has to notice. Limits on transactions are meant for those that
      // lock rows, and must not end this one. Not every version of PostgreSQL has all of these settings.
      await client.query(
        `select set_config(name, case when name = 'tcp_keepalives_idle' then '10' when name = 'tcp_keepalives_interval' then '5'
           when name = 'tcp_keepalives_count' then '3' else '0' end, true)
         from pg_settings where name in ('tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count',
           'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')`,
        [],
        queryTimeoutMs,
      )
      // Without parameters: the portal of a parameterized statement would stay open, and with it its snapshot.
      const key = `hashtext('koa-pg-store'), hashtext(${pg.escapeLiteral(options.key)})`
      const [row] = await client.query(`select pg_try_advisory_xact_lock(${key}) as held`, [], queryTimeoutMs)
      if (row?.held === true) return new AdvisoryLock(client)
      await client.end()
      return undefined
    } catch (error) {
      await client.end()
      throw error
    }
  }

  /** Rejects if the lock is lost, as far as this process can know. */
  async check(): Promise<void> {
    if (!this.#client.isLost && performance.now() - this.#checkedAt > checkIntervalMs) {
      await this.#client.query('select', [], queryTimeoutMs)
      this.#checkedAt = performance.now()
    }
    if (this.#client.error !== undefined) throw this.#client.error
  }

  release(): Promise<void> {
    return this.#client.end()
  }
}
