// The connection that listens for changes, the heartbeats that prove that it works, and connecting again when it is lost.
import { randomBytes } from 'node:crypto'
import pg, { type ClientConfig } from 'pg'
import type { PoolState } from '../postgres/connection.js'
import { DedicatedClient } from '../postgres/dedicated-client.js'
import type { ServerGuard } from '../postgres/server-guard.js'
import type { Row } from '../types/options.js'
import { messageOf } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import { isQueueFull, notifySql, sendHeartbeat } from './heartbeat.js'
import { heartbeatItem, type Notification, readPayload, statsAnswersOf, statsRequestsOf } from './payload.js'

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
  /** The name of the table, quoted. */
  readonly table: string
  /** How old, in ms, the last heartbeat may be. */
  readonly maxStaleness: number
  /** Runs a statement over the connection that changes go through. */
  readonly query: (text: string, values: unknown[]) => Promise<Row[]>
  /** Knows which server these changes go to, if that can be known. */
  readonly guard: ServerGuard | undefined
  readonly poolState: () => PoolState | undefined
  readonly onNotification: (notification: Notification) => void
  /** The listener works again. Whatever was cached before may be stale, and has to be dropped now. */
  readonly onTrust: () => void
  readonly onDistrust: () => void
  /** Whatever was cached before may be stale without a loss of trust, and has to be dropped now. */
  readonly onStale: () => void
  /** Receives how full the server's queue of notifications is, from 0 to 1. */
  readonly onQueueUsage: (usage: number) => void
  /** Returns what is sent when another process asks for this store's figures. */
  readonly statsAnswer: () => string
  readonly warn: (error: Error) => void
}

/** When a heartbeat was sent, by two clocks: the monotonic one stands still while the machine sleeps. */
interface Heartbeat {
  readonly monotonic: number
  readonly wall: number
  onReceived?: () => void
}

/** Heartbeats that are remembered until they come back. A change that sends no notification doesn't send its heartbeat either. */
const maxSent = 100

/** How long `catchUp` waits. */
const catchUpTimeoutMs = 1_000

export class Listener {
  readonly #options: ListenerOptions
  readonly #intervalMs: number
  #client: DedicatedClient | undefined
  #timer: NodeJS.Timeout | undefined
  /** Heartbeats on their way, by token. */
  readonly #sent = new Map<string, Heartbeat>()
  /** The last heartbeat that came back: everything announced before it was sent has been received. */
  #lastHeartbeat: Heartbeat | undefined
  /** When the server was last asked for unannounced changes, and what it said. */
  #lastAsked: Heartbeat | undefined
  #unannounced: string | undefined
  /** The older of the two: everything committed before it has been received, or dropped from the cache. */
  #proof: Heartbeat | undefined
  #lastSentAt = 0
  /** The number of connections that the pool had opened when it last sent a heartbeat that came back. */
  #provedPool: number | undefined
  #isTrusted = false
  /** The proof became too old: the cache isn't used until there is a new one. */
  #hasLapsed = false
  #isStopped = false
  /** No request came for a while: nothing is sent until the next. */
  #isDormant = false
  #isAnswering = false
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
    if (options.guard !== undefined)
      options.guard.onChange = () => {
        if (this.#client !== undefined)
          this.#onLost(this.#client, new Error('a new connection of the pool leads to another server'))
      }
  }

  /** Connects, and again whenever the connection is lost, until `stop`. Never rejects. */
  start(): void {
    void this.#connect()
  }

  /** Whether everything that was committed more than `maxStaleness` ago has been received. */
  get isTrusted(): boolean {
    if (!this.#isTrusted || this.#hasLapsed) return false
    this.#hasLapsed = this.lastHeartbeatAge >= this.#options.maxStaleness
    return !this.#hasLapsed
  }

  /** The same for a request, which keeps heartbeats going, or makes them start again. */
  use(): boolean {
    this.#wasUsed = true
    if (this.#isDormant) this.#wake()
    return this.isTrusted
  }

  /** How long ago, in ms, the last heartbeat that came back was sent. */
  get lastHeartbeatAge(): number {
    return ageOf(this.#proof)
  }

  /**
   * Resolves with whether everything that was committed before this call has been received: a heartbeat that is sent now comes
   * back after it. Waits for a second at most.
   */
  async catchUp(): Promise<boolean> {
    if (!this.use()) return false
    const token = this.#newToken()
    const received = this.#received(token)
    const { query, channel } = this.#options
    try {
      const sent = query(notifySql, [channel, heartbeatItem(token)])
      // A call waits for this: it keeps the process running.
      await withTimeout(Promise.all([sent, received]), catchUpTimeoutMs, heartbeatTimeout)
      return true
    } catch {
      return false
    }
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
    const { monotonic, wall } = now()
    this.#lastSentAt = monotonic
    for (const oldest of this.#sent.keys()) {
      if (this.#sent.size < maxSent) break
      this.#sent.delete(oldest)
    }
    this.#sent.set(token, { monotonic, wall })
    return token
  }

  /** Resolves when the heartbeat with this token comes back. */
  #received(token: string): Promise<void> {
    return new Promise((resolve) => {
      const heartbeat = this.#sent.get(token)
      if (heartbeat !== undefined) heartbeat.onReceived = resolve
    })
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
      client.client.on('notification', ({ channel: name, payload }) => {
        if (name === channel) this.#receive(payload ?? '')
        else void this.#answerStats(client as DedicatedClient)
      })
      await client.connect(Math.max(maxStaleness, maxDelayMs))
      const query = (text: string, values: unknown[] = []): Promise<Row[]> =>
        (client as DedicatedClient).query(text, values, maxStaleness)
      await this.#options.guard?.follow(query)
      await query(`listen ${pg.escapeIdentifier(channel)}`)
      await this.#sendHeartbeat(client)
      // Not before: through a pooler, this would be another application's connection.
      if (client === this.#client) await client.query(disableTimeouts, [], maxStaleness)
      if (client === this.#client) await query(`listen ${pg.escapeIdentifier(statsRequestsOf(channel))}`)
    } catch (error) {
      this.#onLost(client, error)
    }
  }

  /**
   * Sends a heartbeat the way that changes take, waits until it arrives here, and plans the next. A change that came back has
   * proved as much; then the server is only asked for unannounced changes.
   */
  async #sendHeartbeat(client: DedicatedClient): Promise<void> {
    if (client !== this.#client) return
    const { maxStaleness, poolState, guard, table, channel } = this.#options
    const pool = poolState()
    const isDue = !this.#isTrusted || ageOf(this.#lastHeartbeat) >= this.#intervalMs
    const token = isDue ? this.#newToken() : undefined
    const received = token === undefined ? undefined : this.#received(token)
    const asked = now()
    // A full pool shouldn't cost trust. If it has opened no connection since its last heartbeat, its changes still go to the
    // server that this connection listens to, and it is enough to prove that this connection works.
    const isProved = pool !== undefined && pool.opened === this.#provedPool
    const query = pool?.isFull && isProved ? client.query.bind(client) : this.#options.query
    const payload = token === undefined ? undefined : heartbeatItem(token)
    const sending = sendHeartbeat(
      (text, values) => query(text, values, maxStaleness),
      table,
      channel,
      payload,
    )
    const state = await withTimeout(sending, maxStaleness, 'a heartbeat was not sent', false)
    if (received !== undefined) await withTimeout(received, maxStaleness, heartbeatTimeout, false)
    if (client !== this.#client) return
    if (guard?.isInAgreement === false) throw new Error('the pool leads to another server than LISTEN')
    if (!(pool?.isFull && isProved)) this.#provedPool = pool?.opened
    const hasUnannounced = state.unannounced !== this.#unannounced
    this.#unannounced = state.unannounced
    const wasTrusted = this.#isTrusted
    if (wasTrusted && hasUnannounced) this.#options.onStale()
    this.#lastAsked = asked
    this.#updateProof()
    if (!wasTrusted) {
      this.#options.onTrust()
      this.#isTrusted = true
      this.#delayMs = minDelayMs
      this.#hasWarned = false
    }
    this.#schedule(client)
    this.#options.onQueueUsage(state.queueUsage)
  }

  #updateProof(): void {
    const [heartbeat, asked] = [this.#lastHeartbeat, this.#lastAsked]
    if (heartbeat === undefined || asked === undefined) return
    // In the meantime requests have read from the database, and must not get older sessions from the cache now.
    const hasLapsed = this.#isTrusted && !this.isTrusted
    this.#proof = heartbeat.monotonic < asked.monotonic ? heartbeat : asked
    this.#hasLapsed = false
    if (hasLapsed) this.#options.onStale()
  }

  #schedule(client: DedicatedClient): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#tick(client), this.#intervalMs)
    this.#timer.unref()
  }

  #tick(client: DedicatedClient): void {
    if (this.#isIdle()) this.#isDormant = true
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
    this.#updateProof()
    sent.onReceived?.()
  }

  /**
   * Sends this store's figures, over the connection that listens, so that no request waits for it. Further requests in the
   * meantime are dropped, as any role may send them.
   */
  async #answerStats(client: DedicatedClient): Promise<void> {
    if (this.#isAnswering) return
    this.#isAnswering = true
    const { channel, statsAnswer, maxStaleness } = this.#options
    try {
      await client.query(notifySql, [statsAnswersOf(channel), statsAnswer()], maxStaleness)
    } catch {
      // Whoever asked sees that there is no answer.
    } finally {
      this.#isAnswering = false
    }
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
      const [what, advice] = isQueueFull(reason)
        ? ['heartbeat not sent', '. To see what keeps the queue full, run koa-pg-store doctor']
        : [
            'LISTEN connection lost',
            isUnreachable
              ? '. If it goes through a pooler, set the option "listen" to a connection that does not'
              : '',
          ]
      this.#options.warn(
        new Error(
          `${what}, serving sessions from the database until it recovers: ${messageOf(reason)}${advice}`,
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
    this.#options.guard?.unfollow()
    client?.drop()
  }
}

function now(): Heartbeat {
  return { monotonic: performance.now(), wall: Date.now() }
}

function ageOf(heartbeat: Heartbeat | undefined): number {
  if (heartbeat === undefined) return Number.POSITIVE_INFINITY
  return Math.max(performance.now() - heartbeat.monotonic, Date.now() - heartbeat.wall)
}

const heartbeatTimeout = 'a heartbeat did not come back'
