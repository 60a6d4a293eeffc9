// One connection that hears what other instances change, and knows at any time how fresh its knowledge is.
import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import pg, { type ClientConfig } from 'pg'
import { within } from './connection.js'
import { messageOf } from './errors.js'
import { beatPayload, type Notice, readPayload } from './notice.js'

/** How long to wait before connecting again: doubled from the first to the last, each time less a random part. */
const firstPause = 100
const lastPause = 5_000

/** The same, where the connection is fine but notifications don't come through: a transaction pooler, say. */
const pauseWhenDeaf = 60_000

export interface ListenerOptions {
  readonly config: ClientConfig
  readonly channel: string
  /** How old, in ms, the last proof may be. */
  readonly maxStaleness: number
  /** Notifies on the channel over the connection that the store's changes go through. */
  readonly notify: (payload: string) => Promise<unknown>
  readonly onNotice: (notice: Exclude<Notice, { beat: string }>) => void
  /** Listening again: what was known before is worth nothing, and is to be forgotten now. */
  readonly onTrust: () => void
  readonly onDistrust: () => void
  readonly warn: (error: Error) => void
}

/** A heartbeat on its way, by both clocks: the monotonic one stands still while the machine sleeps. */
interface Beat {
  readonly token: string
  readonly monotonic: number
  readonly wall: number
}

export class Listener {
  readonly #options: ListenerOptions
  #client: pg.Client | undefined
  #socket: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  #heard: ((token: string) => void) | undefined
  /** The heartbeat that came back last: all that was committed before it was sent is known. */
  #proof: Beat | undefined
  #trusted = false
  #stopped = false
  #pause = firstPause
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
  get trusted(): boolean {
    return this.#trusted && this.proofAge < this.#options.maxStaleness
  }

  /** How long ago, in ms, the last heartbeat that came back was sent. */
  get proofAge(): number {
    if (this.#proof === undefined) return Number.POSITIVE_INFINITY
    return Math.max(performance.now() - this.#proof.monotonic, Date.now() - this.#proof.wall)
  }

  /** For good, and at once. */
  stop(): void {
    this.#stopped = true
    this.#trusted = false
    clearTimeout(this.#timer)
    this.#drop()
  }

  async #connect(): Promise<void> {
    const socket = new Socket()
    const client = new pg.Client({
      stream: () => socket,
      ...this.#options.config,
      keepAlive: true,
      fallback_application_name: 'koa-pg-store listener',
    })
    this.#socket = socket
    this.#client = client
    const lost = (reason?: unknown): void => this.#lost(client, reason)
    client.on('error', lost)
    client.on('end', lost)
    client.on('notification', ({ payload }) => this.#hear(payload ?? ''))
    const { channel, maxStaleness } = this.#options
    try {
      await within(client.connect(), Math.max(maxStaleness, lastPause), 'no connection to listen', false)
      // Neither waiting nor listening keeps the process alive.
      socket.unref()
      await within(
        client.query(`listen ${pg.escapeIdentifier(channel)}`),
        maxStaleness,
        'no answer to listen',
      )
      await this.#prove(client)
    } catch (error) {
      lost(error)
    }
  }

  /** A notification there and back: by the way that changes take at first, by the listener's own later. */
  async #prove(client: pg.Client): Promise<void> {
    if (client !== this.#client) return
    const { channel, maxStaleness, notify } = this.#options
    const token = randomBytes(9).toString('base64url')
    const beat: Beat = { token, monotonic: performance.now(), wall: Date.now() }
    const back = new Promise<void>((resolve) => {
      this.#heard = (heard) => {
        if (heard === token) resolve()
      }
    })
    const sent = this.#trusted
      ? client.query('select pg_notify($1, $2)', [channel, beatPayload(token)])
      : notify(beatPayload(token))
    await within(sent, maxStaleness, 'no answer to a heartbeat', false)
    await within(back, maxStaleness, deaf, false)
    if (client !== this.#client) return
    this.#proof = beat
    if (!this.#trusted) {
      this.#options.onTrust()
      this.#trusted = true
      this.#pause = firstPause
      this.#warned = false
    }
    this.#timer = setTimeout(() => {
      this.#prove(client).catch((error) => this.#lost(client, error))
    }, maxStaleness / 4)
    this.#timer.unref()
  }

  #hear(payload: string): void {
    const notice = readPayload(payload)
    if (typeof notice === 'object' && 'beat' in notice) this.#heard?.(notice.beat)
    else {
      this.received++
      this.#options.onNotice(notice)
    }
  }

  #lost(client: pg.Client, reason: unknown): void {
    if (client !== this.#client || this.#stopped) return
    this.#drop()
    const isDeaf = reason instanceof Error && reason.message.startsWith(deaf)
    const wasTrusted = this.#trusted
    this.#trusted = false
    if (!this.#warned) {
      this.#warned = true
      const advice = isDeaf
        ? ': if it goes through a pooler, give the option "listen" a connection that does not'
        : ''
      this.#options.warn(
        new Error(
          `can't hear of changes, so nothing is answered from the cache: ${messageOf(reason)}${advice}`,
        ),
      )
    }
    if (wasTrusted) this.#options.onDistrust()
    const pause = isDeaf && !wasTrusted ? pauseWhenDeaf : this.#pause * (0.5 + Math.random() / 2)
    this.#pause = Math.min(this.#pause * 2, lastPause)
    this.reconnects++
    this.#timer = setTimeout(() => void this.#connect(), pause)
    this.#timer.unref()
  }

  /** Lets go of the connection, at once and whatever state it is in. */
  #drop(): void {
    clearTimeout(this.#timer)
    const client = this.#client
    this.#client = undefined
    // What it says from now on is of no interest, but must not end the process.
    client?.on('error', () => undefined)
    this.#socket?.destroy()
    client?.end().catch(() => undefined)
  }
}

const deaf = 'a heartbeat did not come back'
