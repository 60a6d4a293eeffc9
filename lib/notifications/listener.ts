// One connection that hears what other instances change, and knows at any time how fresh its knowledge is.
import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import pg, { type ClientConfig } from 'pg'
import { messageOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import { heartbeatPayload, type Notification, readPayload } from './payload.js'

/** How long to wait before connecting again: doubled from the first to the last, each time less a random part. */
const minDelayMs = 100
const maxDelayMs = 5_000

/** The same, where the connection is fine but notifications don't come through: a transaction pooler, say. */
const unreachableRetryMs = 60_000

export interface ListenerOptions {
  readonly config: ClientConfig
  readonly channel: string
  /** How old, in ms, the last proof may be. */
  readonly maxStaleness: number
  /** Notifies on the channel over the connection that the store's changes go through. */
  readonly notify: (payload: string) => Promise<unknown>
  readonly onNotification: (notice: Exclude<Notification, { beat: string }>) => void
  /** Listening again: what was known before is worth nothing, and is to be forgotten now. */
  readonly onTrust: () => void
  readonly onDistrust: () => void
  readonly warn: (error: Error) => void
}

/** A heartbeat on its way, by both clocks: the monotonic one stands still while the machine sleeps. */
interface Heartbeat {
  readonly monotonic: number
  readonly wall: number
}

/** One connection, from its beginning. */
interface ListenerConnection {
  stream: Duplex | undefined
  client: pg.Client | undefined
}

export class Listener {
  readonly #options: ListenerOptions
  #connection: ListenerConnection | undefined
  #timer: NodeJS.Timeout | undefined
  #onHeartbeat: ((token: string) => void) | undefined
  /** The heartbeat that came back last: all that was committed before it was sent is known. */
  #lastHeartbeat: Heartbeat | undefined
  #trusted = false
  #stopped = false
  #delayMs = minDelayMs
  /** Once for each time that trust is lost, or can't be had at first. */
  #warned = false
  reconnects = 0
  received = 0

  constructor(options: ListenerOptions) {
    this.#options = options
  }

  /** Connects, and again whenever that is lost, until `stop`. Never rejects. */
  start(): void {
    void this.#connect()
  }

  /** Whether everything that was committed more than `maxStaleness` ago has been heard. */
  get isTrusted(): boolean {
    return this.#trusted && this.lastHeartbeatAge < this.#options.maxStaleness
  }

  /** How long ago, in ms, the last heartbeat that came back was sent. */
  get lastHeartbeatAge(): number {
    if (this.#lastHeartbeat === undefined) return Number.POSITIVE_INFINITY
    return Math.max(performance.now() - this.#lastHeartbeat.monotonic, Date.now() - this.#lastHeartbeat.wall)
  }

  /** For good, and at once. */
  stop(): void {
    this.#stopped = true
    this.#trusted = false
    clearTimeout(this.#timer)
    this.#drop()
  }

  async #connect(): Promise<void> {
    const attempt: ListenerConnection = { stream: undefined, client: undefined }
    this.#connection = attempt
    const lost = (reason?: unknown): void => this.#lost(attempt, reason)
    const { channel, maxStaleness, config } = this.#options
    try {
      // The stream is remembered, so that it can be let go of in whatever state it is.
      const stream = (): Duplex | undefined => {
        attempt.stream = config.stream?.() ?? new Socket()
        return attempt.stream
      }
      const client = new pg.Client({
        ...config,
        stream,
        keepAlive: true,
        fallback_application_name: 'koa-pg-store listener',
      })
      attempt.client = client
      client.on('error', lost)
      client.on('end', lost)
      client.on('notification', ({ payload }) => this.#receive(payload ?? ''))
      await withTimeout(
        client.connect(),
        Math.max(maxStaleness, maxDelayMs),
        'no connection to listen',
        false,
      )
      // Neither waiting nor listening keeps the process alive.
      if (attempt.stream && 'unref' in attempt.stream) (attempt.stream as Socket).unref()
      const listening = client.query(`listen ${pg.escapeIdentifier(channel)}`)
      await withTimeout(listening, maxStaleness, 'no answer to listen', false)
      await this.#sendHeartbeat(attempt)
    } catch (error) {
      lost(error)
    }
  }

  /** A notification there, by the way that changes take, and back by this one. */
  async #sendHeartbeat(attempt: ListenerConnection): Promise<void> {
    if (attempt !== this.#connection) return
    const { maxStaleness, notify } = this.#options
    const token = randomBytes(9).toString('base64url')
    const beat: Heartbeat = { monotonic: performance.now(), wall: Date.now() }
    const back = new Promise<void>((resolve) => {
      this.#onHeartbeat = (heard) => {
        if (heard === token) resolve()
      }
    })
    const sent = notify(heartbeatPayload(token))
    await withTimeout(sent, maxStaleness, 'no answer to a heartbeat', false)
    await withTimeout(back, maxStaleness, heartbeatTimeout, false)
    if (attempt !== this.#connection) return
    this.#lastHeartbeat = beat
    if (!this.#trusted) {
      this.#options.onTrust()
      this.#trusted = true
      this.#delayMs = minDelayMs
      this.#warned = false
    }
    this.#timer = setTimeout(() => {
      this.#sendHeartbeat(attempt).catch((error) => this.#lost(attempt, error))
    }, maxStaleness / 4)
    this.#timer.unref()
  }

  #receive(payload: string): void {
    const notice = readPayload(payload)
    if (typeof notice === 'object' && 'beat' in notice) this.#onHeartbeat?.(notice.beat)
    else {
      this.received++
      this.#options.onNotification(notice)
    }
  }

  #lost(attempt: ListenerConnection, reason: unknown): void {
    if (attempt !== this.#connection || this.#stopped) return
    this.#drop()
    const isDeaf = reason instanceof Error && reason.message.startsWith(heartbeatTimeout)
    const wasTrusted = this.#trusted
    const isNews = !this.#warned
    this.#trusted = false
    this.#warned = true
    const pause = isDeaf && !wasTrusted ? unreachableRetryMs : this.#delayMs * (0.5 + Math.random() / 2)
    this.#delayMs = Math.min(this.#delayMs * 2, maxDelayMs)
    this.reconnects++
    this.#timer = setTimeout(() => void this.#connect(), pause)
    this.#timer.unref()
    // Last: these are the application's, and may throw.
    if (isNews) {
      const advice = isDeaf
        ? ': if it goes through a pooler, give the option "listen" a connection that does not'
        : ''
      const what = `can't hear of changes, so nothing is answered from the cache: ${messageOf(reason)}${advice}`
      this.#options.warn(new Error(what))
    }
    if (wasTrusted) this.#options.onDistrust()
  }

  /** Lets go of the connection, at once and whatever state it is in. */
  #drop(): void {
    clearTimeout(this.#timer)
    const attempt = this.#connection
    this.#connection = undefined
    // What it says from now on is of no interest, but must not end the process.
    attempt?.client?.on('error', () => undefined)
    attempt?.stream?.on('error', () => undefined)
    attempt?.stream?.destroy()
    attempt?.client?.end().catch(() => undefined)
  }
}

const heartbeatTimeout = 'a heartbeat did not come back'
