// Tracks whether changes made by other processes reach this one, so that its cache can be trusted.
import type { ClientConfig } from 'pg'
import type { Settings } from '../types/settings.js'
import { Listener, type ListenerOptions } from './listener.js'
import { channelOf, heartbeatItem } from './payload.js'

export interface TrustMonitorOptions
  extends Omit<ListenerOptions, 'config' | 'channel' | 'table' | 'maxStaleness'> {
  readonly settings: Settings
  /** How to connect; `undefined` where there is no connection to listen on. */
  readonly config: ClientConfig | undefined
}

export class TrustMonitor {
  readonly #options: TrustMonitorOptions
  #listener: Listener | undefined
  /** The application set a cache `ttl`, and so accepted that much staleness, where there is no listener. */
  #worksWithoutListener = false

  constructor(options: TrustMonitorOptions) {
    this.#options = options
  }

  /** Whether the cache may be used by a request, which keeps heartbeats going. */
  use(): boolean {
    return this.#worksWithoutListener || this.#listener?.use() === true
  }

  /** The suffix of a payload about to be sent: a heartbeat, if one is due. */
  payloadSuffix(): string {
    const token = this.#listener?.takeToken()
    return token === undefined ? '' : `,${heartbeatItem(token)}`
  }

  get isTrusted(): boolean {
    return this.#worksWithoutListener || this.#listener?.isTrusted === true
  }

  /** Resolves with whether all changes that were committed before this call have been applied to the cache. */
  async catchUp(): Promise<boolean> {
    return (await this.#listener?.catchUp()) === true
  }

  /** How long ago, in ms, the last heartbeat that came back was sent; `undefined` if none came back. */
  get lastHeartbeatAge(): number | undefined {
    const age = this.#listener?.lastHeartbeatAge
    return age === Number.POSITIVE_INFINITY ? undefined : age
  }

  /** Notifications received, heartbeats not counted. */
  get received(): number {
    return this.#listener?.received ?? 0
  }

  get reconnects(): number {
    return this.#listener?.reconnects ?? 0
  }

  /** Starts the listener, once, or warns why there can be none. */
  start(table: { readonly name: string; readonly hasVersion: boolean }): void {
    const { settings, config, ...options } = this.#options
    const { cache, listen } = settings
    if (!cache || this.#listener !== undefined || this.#worksWithoutListener) return
    const problem = !table.hasVersion
      ? 'the table has no column "version"'
      : listen === false
        ? 'the option "listen" is false'
        : config === undefined && 'a query function cannot listen'
    if (problem) {
      this.#worksWithoutListener = cache.worksWithoutListener
      const remedy = table.hasVersion
        ? 'Set the option "listen" to a connection'
        : 'Run koa-pg-store migrate or sql/003-columns.sql as the owner of the table'
      if (!cache.worksWithoutListener)
        options.warn(
          new Error(
            `cache disabled, cannot receive notifications of changes: ${problem}. ${remedy}, or` +
              ' set cache.ttl to accept sessions that are as old as that',
          ),
        )
      return
    }
    this.#listener = new Listener({
      ...options,
      config: config ?? {},
      channel: channelOf(settings),
      table: table.name,
      maxStaleness: cache.maxStaleness,
    })
    this.#listener.start()
  }

  stop(): void {
    this.#listener?.stop()
  }
}
