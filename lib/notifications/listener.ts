// The connection that listens for changes, its heartbeats, and connecting again when it is lost.
import { randomBytes } from 'node:crypto'
import pg, { type ClientConfig } from 'pg'
import { DedicatedClient } from '../postgres/dedicated-client.js'
import { messageOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import { heartbeatPayload, type Notification, readPayload } from './payload.js'

/** The pause before connecting again: doubled each time, less a random part. */
const minDelayMs = 100
const maxDelayMs = 5_000

/** The pause where the connection works but notifications don't arrive: through a pooler in transaction mode, say. */
const unreachableRetryMs = 60_000

export interface ListenerOptions {
  readonly config: ClientConfig
  readonly channel: string
  /** How old, in ms, the last heartbeat may be. */
  readonly maxStaleness: number
  /** Notifies the channel over the connection that changes go through. */
  readonly notify: (payload: string) => Promise<unknown>
  readonly onNotification: (notification: Exclude<Notification, { heartbeat: string }>) => void
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
  #client: DedicatedClient | undefined
  #timer: NodeJS.Timeout | undefined
  #onHeartbeat: ((token: string) => void) | undefined
  /** The last heartbeat that came back: everything committed before it was sent has been received. */
  #lastHeartbeat: Heartbeat | undefined
  #isTrusted = false
  #isStopped = false
  #delayMs = minDelayMs
  /** One warning for each time that trust is lost, or can't be gained at first. */
  #hasWarned = false
  reconnects = 0
  received = 0

  constructor(options: ListenerOptions) {
    this.#options = options
  }

  /** Connects, and again whenever the connection is lost, until `stop`. Never rejects. */
  start(): void {
    void this.#connect()
  }

  /** Whether everything that was committed more than `maxStaleness` ago has been received. */
  get isTrusted(): boolean {
    return this.#isTrusted && this.lastHeartbeatAge < this.#options.maxStaleness
  }

  /** How long ago, in ms, the last heartbeat that came back was sent. */
  get lastHeartbeatAge(): number {
    if (this.#lastHeartbeat === undefined) return Number.POSITIVE_INFINITY
    const { monotonic, wall } = this.#lastHeartbeat
    return Math.max(performance.now() - monotonic, Date.now() - wall)
  }

  /** Stops at once, and for good. */
  stop(): void {
    this.#isStopped = true
    this.#isTrusted = false
    this.#drop()
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
    } catch (error) {
      this.#onLost(client, error)
    }
  }

  /** Sends a notification the way that changes take, and waits until it arrives here. */
  async #sendHeartbeat(client: DedicatedClient): Promise<void> {
    if (client !== this.#client) return
    const { maxStaleness, notify } = this.#options
    const token = randomBytes(9).toString('base64url')
    const heartbeat: Heartbeat = { monotonic: performance.now(), wall: Date.now() }
    const received = new Promise<void>((resolve) => {
      this.#onHeartbeat = (other) => {
        if (other === token) resolve()
      }
    })
    await withTimeout(notify(heartbeatPayload(token)), maxStaleness, 'a heartbeat was not sent', false)
    await withTimeout(received, maxStaleness, heartbeatTimeout, false)
    if (client !== this.#client) return
    this.#lastHeartbeat = heartbeat
    if (!this.#isTrusted) {
      this.#options.onTrust()
      this.#isTrusted = true
      this.#delayMs = minDelayMs
      this.#hasWarned = false
    }
    this.#timer = setTimeout(() => {
      this.#sendHeartbeat(client).catch((error) => this.#onLost(client, error))
    }, maxStaleness / 4)
    this.#timer.unref()
  }

  #receive(payload: string): void {
    const notification = readPayload(payload)
    if (typeof notification === 'object' && 'heartbeat' in notification)
      this.#onHeartbeat?.(notification.heartbeat)
    else {
      this.received++
      this.#options.onNotification(notification)
    }
  }

  #onLost(client: DedicatedClient | undefined, reason: unknown): void {
    if (client !== this.#client || this.#isStopped) return
    this.#drop()
    const isUnreachable = reason instanceof Error && reason.message.startsWith(heartbeatTimeout)
    const wasTrusted = this.#isTrusted
    const shouldWarn = !this.#hasWarned
    this.#isTrusted = false
    this.#hasWarned = true
    const isPooler = isUnreachable && !wasTrusted
    const delayMs = isPooler ? unreachableRetryMs : this.#delayMs * (0.5 + Math.random() / 2)
    this.#delayMs = Math.min(this.#delayMs * 2, maxDelayMs)
    this.reconnects++
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
    client?.drop()
  }
}

const heartbeatTimeout = 'a heartbeat did not come back'
