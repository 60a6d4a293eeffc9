// Whether what others change is heard of, and so whether the cache may be answered from: listens, or says why it can't.
import type { ClientConfig } from 'pg'
import type { Table } from '../schema/table.js'
import type { Settings } from '../types/settings.js'
import { Listener, type ListenerOptions } from './listener.js'
import { channelOf } from './payload.js'

export interface TrustMonitorOptions extends Omit<ListenerOptions, 'config' | 'channel' | 'maxStaleness'> {
  readonly settings: Settings
  /** How to connect; `undefined`: a query function, or not to listen. */
  readonly config: ClientConfig | undefined
}

export class TrustMonitor {
  readonly #options: TrustMonitorOptions
  #listener: Listener | undefined
  /** The cache needs no listener: a `ttl` was given, and nothing can be heard. */
  #worksWithoutListener = false

  constructor(options: TrustMonitorOptions) {
    this.#options = options
  }

  get isTrusted(): boolean {
    return this.#worksWithoutListener || this.#listener?.isTrusted === true
  }

  /** How long ago, in ms, the listener last proved itself. */
  get lastHeartbeatAge(): number | undefined {
    const age = this.#listener?.lastHeartbeatAge
    return age === Number.POSITIVE_INFINITY ? undefined : age
  }

  get received(): number {
    return this.#listener?.received ?? 0
  }

  get reconnects(): number {
    return this.#listener?.reconnects ?? 0
  }

  /** Begins to listen, once, or finds out why that can't be. */
  start(table: Table): void {
    const { settings, config, ...options } = this.#options
    const { cache, listen } = settings
    if (!cache || this.#listener !== undefined || this.#worksWithoutListener) return
    const why = !table.columns.has('version')
      ? 'the table has no column "version" (see sql/003-columns.sql)'
      : listen === false
        ? 'the option "listen" is false'
        : config === undefined && 'a query function can’t listen: give the option "listen" a connection'
    if (why) {
      this.#worksWithoutListener = cache.worksWithoutListener
      if (!cache.worksWithoutListener)
        options.warn(
          new Error(`nothing is cached, as changes can’t be heard of: ${why}, or cache a "ttl" of its own`),
        )
      return
    }
    const { maxStaleness } = cache
    this.#listener = new Listener({
      ...options,
      config: config ?? {},
      channel: channelOf(settings),
      maxStaleness,
    })
    this.#listener.start()
  }

  stop(): void {
    this.#listener?.stop()
  }
}
