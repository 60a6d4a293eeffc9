// The connection that listens for changes, the heartbeats that prove that it works, and connecting again when it is lost.
import { randomBytes } from 'node:crypto'
import pg, { type ClientConfig } from 'pg'
import type { PoolState } from '../postgres/connection.js'
import { DedicatedClient } from '../postgres/dedicated-client.js'
import { messageOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import { heartbeatItem, type Notification, readPayload } from './payload.js'

/** The pause before connecting again: doubled each time, less a random part. */
const minDelayMs = 100
const maxDelayMs = 5_000

/** The pause where the connection works but notifications don't arrive: through a pooler in transaction mode, say. */
const unreachableRetryMs = 60_000

/** Without a request for this long, heartbeats stop, so that a database without requests can sleep. */
const idleMs = 60_000

/** Limits that a server may put on idle connections. Not all versions have all of them. */
const disableTimeouts = `select pg_catalog.set_config(name, '0', false) from pg_catalog.pg_settings
  where name in ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout')`

export interface ListenerOptions {
  readonly config: ClientConfig
  readonly channel: string
  /** How old, in ms, the last heartbeat may be. */
  readonly maxStaleness: number
  /** Notifies the channel over the connection that changes go through. */
  readonly notify: (payload: string) => Promise<unknown>
  readonly poolState: () => PoolState | undefined
  readonly onNotification: (notification: Notification) => void
  /** The listener works again. Whatever was cached before may be stale, and has to be dropped now. */
  readonly onTrust: () => void
  readonly onDistrust: () => void
  readonly warn: (error: Error) => void
}

/** When a heartbeat was sent, by two clocks: the monotonic one stands still while the machine sleeps. */
interface Heartbeat {
  readonly monotonic: number
  readonly wall: number
}

export class Listener {
  readonly #options: ListenerOptions
  readonly #intervalMs: number
  #client: DedicatedClient | undefined
  #timer: NodeJS.Timeout | undefined
  /** Heartbeats on their way, by token. */
  readonly #sent = new Map<string, Heartbeat>()
  #onHeartbeat: ((token: string) => void) | undefined
  /** The last heartbeat that came back: everything committed before it was sent has been received. */
  #lastHeartbeat: Heartbeat | undefined
  #lastSentAt = 0
  /** The number of connections that the pool had opened when it last sent a heartbeat that came back. */
  #provedPool: number | undefined
  #isTrusted = false
  #isStopped = false
  /** No request came for a while: nothing is sent until the next. */
  #isDormant = false
  #wasUsed = false
  #usedAt = performance.now()
  #delayMs = minDelayMs
  /** One warning for each time that trust is lost, or can't be gained at first. */
  #hasWarned = false
  reconnects = 0
  received = 0

  constructor(options: ListenerOptions) {
    this.#options = options
    this.#intervalMs = options.maxStaleness / 4
  }

  /** Connects, and again whenever the connection is lost, until `stop`. Never rejects. */
  start(): void {
    void this.#connect()
  }

  /** Whether everything that was committed more than `maxStaleness` ago has been received. */
  get isTrusted(): boolean {
    return this.#isTrusted && this.lastHeartbeatAge < this.#options.maxStaleness
  }

  /** The same for a request, which keeps heartbeats going, or makes them start again. */
  use(): boolean {
    this.#wasUsed = true
    if (this.#isDormant) this.#wake()
    return this.isTrusted
  }

  /** How long ago, in ms, the last heartbeat that came back was sent. */
  get lastHeartbeatAge(): number {
    if (this.#lastHeartbeat === undefined) return Number.POSITIVE_INFINITY
    const { monotonic, wall } = this.#lastHeartbeat
    return Math.max(performance.now() - monotonic, Date.now() - wall)
  }

  /** Returns the token of a heartbeat to send along with a change, if one is due. */
  takeToken(): string | undefined {
    // Well before the next heartbeat is, so that this takes its place.
    const isDue = performance.now() - this.#lastSentAt >= this.#intervalMs / 2
    return this.#isTrusted && isDue ? this.#newToken() : undefined
  }

  /** Stops at once, and for good. */
  stop(): void {
    this.#isStopped = true
    this.#isTrusted = false
    this.#drop()
  }

  #newToken(): string {
    const token = randomBytes(9).toString('base64url')
    this.#lastSentAt = performance.now()
    // A change that sends no notification doesn't send its heartbeat either: forget those that never came back.
    if (this.#sent.size >= 8) this.#sent.clear()
    this.#sent.set(token, { monotonic: this.#lastSentAt, wall: Date.now() })
    return token
  }

  async #connect(): Promise<void> {
    const { channel, maxStaleness, config } = this.#options
    let client: DedicatedClient | undefined
    try {
      client = new DedicatedClient({
        config,
        name: 'listener',
        keepsProcessAlive: false,
        onLost: (error) => this.#onLost(client, error),
      })
      this.#client = client
      client.client.on('notification', ({ payload }) => this.#receive(payload ?? ''))
      await client.connect(Math.max(maxStaleness, maxDelayMs))
      await client.query(`listen ${pg.escapeIdentifier(channel)}`, [], maxStaleness)
      await this.#sendHeartbeat(client)
      // Not before: through a pooler, this would be another application's connection.
      if (client === this.#client) await client.query(disableTimeouts, [], maxStaleness)
    } catch (error) {
      this.#onLost(client, error)
    }
  }

  /** Sends a heartbeat the way that changes take, waits until it arrives here, and plans the next. */
  async #sendHeartbeat(client: DedicatedClient): Promise<void> {
    if (client !== this.#client) return
    const { maxStaleness, poolState } = this.#options
    const pool = poolState()
    const token = this.#newToken()
    const received = new Promise<void>((resolve) => {
      this.#onHeartbeat = (other) => {
        if (other === token) resolve()
      }
    })
    // A full pool shouldn't cost trust. If it has opened no connection since its last heartbeat, its changes still go to the
    // server that this connection listens to, and it is enough to prove that this connection works.
    const isProved = pool !== undefined && pool.opened === this.#provedPool
    const sending =
      pool?.isFull && isProved
        ? client.query(
            'select pg_catalog.pg_notify($1, $2)',
            [this.#options.channel, heartbeatItem(token)],
            maxStaleness,
          )
        : this.#options.notify(heartbeatItem(token))
    await withTimeout(sending, maxStaleness, 'a heartbeat was not sent', false)
    await withTimeout(received, maxStaleness, heartbeatTimeout, false)
    if (client !== this.#client) return
    if (!(pool?.isFull && isProved)) this.#provedPool = pool?.opened
    if (!this.#isTrusted) {
      this.#options.onTrust()
      this.#isTrusted = true
      this.#delayMs = minDelayMs
      this.#hasWarned = false
    }
    this.#schedule(client)
  }

  #schedule(client: DedicatedClient, delayMs = this.#intervalMs): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#tick(client), delayMs)
    this.#timer.unref()
  }

  #tick(client: DedicatedClient): void {
    const ageMs = this.lastHeartbeatAge
    if (this.#isIdle()) this.#isDormant = true
    // A change that came back has proved as much as a heartbeat.
    else if (ageMs < this.#intervalMs) this.#schedule(client, this.#intervalMs - ageMs)
    else this.#sendHeartbeat(client).catch((error) => this.#onLost(client, error))
  }

  #isIdle(): boolean {
    if (this.#wasUsed) this.#usedAt = performance.now()
    this.#wasUsed = false
    return performance.now() - this.#usedAt > idleMs
  }

  #wake(): void {
    this.#isDormant = false
    const client = this.#client
    if (client === undefined) void this.#connect()
    else this.#sendHeartbeat(client).catch((error) => this.#onLost(client, error))
  }

  #receive(payload: string): void {
    const notification = readPayload(payload)
    const { heartbeat, changes, clear } = notification
    if (changes.length > 0 || clear) {
      this.received++
      this.#options.onNotification(notification)
    }
    if (heartbeat === undefined) return
    const sent = this.#sent.get(heartbeat)
    if (sent === undefined) return
    this.#sent.delete(heartbeat)
    if (sent.monotonic > (this.#lastHeartbeat?.monotonic ?? 0)) this.#lastHeartbeat = sent
    this.#onHeartbeat?.(heartbeat)
  }

  #onLost(client: DedicatedClient | undefined, reason: unknown): void {
    if (client !== this.#client || this.#isStopped) return
    this.#drop()
    const isUnreachable = reason instanceof Error && reason.message.startsWith(heartbeatTimeout)
    const wasTrusted = this.#isTrusted
    const shouldWarn = !this.#hasWarned
    this.#isTrusted = false
    this.reconnects++
    // The next request connects: until then there is nothing to serve, and a database that sleeps isn't woken.
    if (this.#isDormant) return
    this.#hasWarned = true
    const isPooler = isUnreachable && !wasTrusted
    const delayMs = isPooler ? unreachableRetryMs : this.#delayMs * (0.5 + Math.random() / 2)
    this.#delayMs = Math.min(this.#delayMs * 2, maxDelayMs)
    this.#timer = setTimeout(() => void this.#connect(), delayMs)
    this.#timer.unref()
    // Last: these callbacks are the application's, and may throw.
    if (shouldWarn) {
      const advice = isUnreachable
        ? '. If it goes through a pooler, set the option "listen" to a connection that does not'
        : ''
      this.#options.warn(
        new Error(
          `LISTEN connection lost, serving sessions from the database until it recovers: ${messageOf(reason)}${advice}`,
        ),
      )
    }
    if (wasTrusted) this.#options.onDistrust()
  }

  #drop(): void {
    clearTimeout(this.#timer)
    const client = this.#client
    this.#client = undefined
    this.#sent.clear()
    client?.drop()
  }
}

const heartbeatTimeout = 'a heartbeat did not come back'
