// One client outside any pool, whose connection can be dropped at once in whatever state it is.
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import pg, { type ClientConfig } from 'pg'
import type { Row } from '../types/options.js'
import { withTimeout } from '../util/timeout.js'
import type { CursorClient } from './cursor.js'
import { qualify } from './qualify.js'

export interface DedicatedClientOptions {
  readonly config: ClientConfig
  /** Shown in `pg_stat_activity` after "koa-pg-store", unless the configuration has a name of its own. */
  readonly name: string
  /** Whether an open connection keeps the process running. */
  readonly keepsProcessAlive: boolean
  /** Called once, when the connection fails or ends; not after `drop` or `end`. */
  readonly onLost?: (error: Error) => void
}

export class DedicatedClient implements CursorClient {
  readonly client: pg.Client
  readonly #options: DedicatedClientOptions
  #stream: Duplex | undefined
  #error: Error | undefined
  #isDropped = false

  constructor(options: DedicatedClientOptions) {
    this.#options = options
    const { config, name } = options
    this.client = new pg.Client({
      ...config,
      // The stream is kept, so that it can be destroyed while pg still waits for the server.
      stream: () => {
        this.#stream = config.stream?.() ?? new Socket()
        return this.#stream
      },
      keepAlive: true,
      // `query` has a limit of its own, whose timer doesn't keep the process running.
      query_timeout: 0,
      fallback_application_name: `koa-pg-store ${name}`,
    })
    this.client.on('error', (error) => this.lose(error))
    this.client.on('end', () => this.lose(new Error('the connection ended')))
  }

  get isLost(): boolean {
    return this.#error !== undefined
  }

  /** Why the connection was lost. */
  get error(): Error | undefined {
    return this.#error
  }

  /** Marks the connection as failed. */
  lose(error: Error): void {
    if (this.#error !== undefined || this.#isDropped) return
    this.#error = error
    this.#options.onLost?.(error)
  }

  async connect(timeoutMs: number): Promise<void> {
    const { keepsProcessAlive } = this.#options
    await withTimeout(this.client.connect(), timeoutMs, 'no connection', keepsProcessAlive)
    if (!keepsProcessAlive && this.#stream instanceof Socket) this.#stream.unref()
  }

  /** Runs one statement and returns its rows. */
  async query(text: string, values: unknown[], timeoutMs: number): Promise<Row[]> {
    const query = this.client.query<Row>(qualify(text), values)
    return (await withTimeout(query, timeoutMs, 'no answer', this.#options.keepsProcessAlive)).rows
  }

  /** Ends the connection as the protocol asks, or drops it after a second. */
  async end(): Promise<void> {
    this.#isDropped = true
    await withTimeout(this.client.end(), 1_000, 'the connection did not end').catch(() => undefined)
    this.drop()
  }

  /** Closes the connection at once. Statements in flight reject; nothing is emitted any more. */
  drop(): void {
    this.#isDropped = true
    this.#stream?.on('error', () => undefined)
    this.#stream?.destroy()
    this.client.end().catch(() => undefined)
  }
}
