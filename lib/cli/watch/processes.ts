// Asks the processes that use a table for their figures, and keeps the last two answers of each.
import pg, { type ClientConfig } from 'pg'
import { notifySql } from '../../notifications/heartbeat.js'
import { statsAnswersOf, statsRequestsOf } from '../../notifications/payload.js'
import type { Connection } from '../../postgres/connection.js'
import { DedicatedClient } from '../../postgres/dedicated-client.js'
import { messageOf } from '../../util/driver-errors.js'
import { type Answer, readAnswer } from './answer.js'

const timeoutMs = 3_000

/** More are not kept, whatever arrives: any role of the database may send notifications. */
const maxProcesses = 1_000

/** A process that hasn't answered for this long, and so many requests, has ended, and is forgotten. */
const forgetAfterMs = 60_000
const forgetAfterRequests = 6

/** Several of these commands may be running, whose answers all receive: rates shouldn't be those of a few ms. */
const minIntervalMs = 500

/** What is known of one process. */
export interface KnownProcess {
  readonly last: Answer
  /** The answer before. */
  readonly previous: Answer | undefined
  /** When the last answer arrived, as `performance.now()`. */
  readonly answeredAt: number
}

export class Processes {
  readonly #connection: Connection
  readonly #config: ClientConfig
  readonly #channel: string
  readonly #forgetAfterMs: number
  readonly #known = new Map<string, KnownProcess>()
  #client: DedicatedClient | undefined
  /** Why the processes could not be asked the last time. */
  error: string | undefined

  /** `config`: for a connection that doesn't go through a pooler in transaction mode. `intervalMs`: how often `ask` is called. */
  constructor(connection: Connection, config: ClientConfig, channel: string, intervalMs: number) {
    this.#connection = connection
    this.#config = config
    this.#channel = channel
    this.#forgetAfterMs = Math.max(forgetAfterMs, forgetAfterRequests * intervalMs)
  }

  /** Asks. The answers arrive later. Never rejects. */
  async ask(): Promise<void> {
    try {
      this.#client ??= await this.#listen()
      const limit = { deadline: performance.now() + timeoutMs }
      await this.#connection.query(notifySql, [statsRequestsOf(this.#channel), ''], limit)
      this.error = undefined
    } catch (error) {
      this.error = messageOf(error)
    }
  }

  list(): KnownProcess[] {
    const oldest = performance.now() - this.#forgetAfterMs
    for (const [id, { answeredAt }] of this.#known) if (answeredAt < oldest) this.#known.delete(id)
    return [...this.#known.values()]
  }

  close(): void {
    this.#client?.drop()
  }

  async #listen(): Promise<DedicatedClient> {
    const client = new DedicatedClient({
      config: this.#config,
      name: 'stats',
      keepsProcessAlive: true,
      onLost: () => {
        if (this.#client === client) this.#client = undefined
        client.drop()
      },
    })
    client.client.on('notification', ({ payload }) => this.#receive(payload ?? ''))
    try {
      await client.connect(timeoutMs)
      await client.query(`listen ${pg.escapeIdentifier(statsAnswersOf(this.#channel))}`, [], timeoutMs)
      return client
    } catch (error) {
      client.drop()
      throw error
    }
  }

  #receive(payload: string): void {
    const answer = readAnswer(payload)
    if (answer === undefined) return
    const known = this.#known.get(answer.id)
    if (known === undefined && this.#known.size >= maxProcesses) return
    const isSoon = known !== undefined && answer.at - known.last.at < minIntervalMs
    if (isSoon) return
    this.#known.set(answer.id, { last: answer, previous: known?.last, answeredAt: performance.now() })
  }
}
