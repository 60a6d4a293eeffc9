// Tells all instances when a user has signed in or a session has ended. The store emits its events in the instance that made the
// change; this passes them on to the others, by PostgreSQL's LISTEN and NOTIFY.
import { EventEmitter } from 'node:events'
import type { PgStore } from 'koa-pg-store'
import pg from 'pg'

export interface Announcement {
  /** Identifies the session; it can't be used as a cookie. */
  readonly handle: string
  readonly userId: string
  readonly hasEnded: boolean
}

const channel = 'example_sessions'
const retryMs = 500

/** Events: `announcement`, and `gap` after a connection was lost, as announcements may have been missed. */
export class Announcements extends EventEmitter<{ announcement: [Announcement]; gap: [] }> {
  readonly #databaseUrl: string
  #client: pg.Client | undefined
  #retry: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(store: PgStore, databaseUrl: string) {
    super()
    this.#databaseUrl = databaseUrl
    store.on('destroy', ({ handle, userId }) => this.#announceEnd(handle, userId))
    store.on('revoke', ({ handle, userId }) => this.#announceEnd(handle, userId))
    this.#connect()
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#retry)
    await this.#client?.end().catch(() => {})
  }

  /**
   * For the request that signs a user in, after `ctx.login()`. There is no event for that: koa-session has saved the session, under
   * its new id, before it had a user.
   */
  announceSignIn(handle: string, userId: string): void {
    this.#notify({ handle, userId, hasEnded: false })
  }

  #announceEnd(handle: string, userId: string | undefined): void {
    if (userId !== undefined) this.#notify({ handle, userId, hasEnded: true })
  }

  /** The empty announcement says that some may have been missed. */
  #notify(announcement: Announcement | Record<string, never>): void {
    // If this fails the connection is lost, and all instances hear of it when it is back.
    this.#client?.query('select pg_notify($1, $2)', [channel, JSON.stringify(announcement)]).catch(() => {})
  }

  async #connect(): Promise<void> {
    const client = new pg.Client({
      connectionString: this.#databaseUrl,
      application_name: channel,
      connectionTimeoutMillis: 5_000,
      keepAlive: true,
    })
    this.#client = client
    client.on('error', () => {})
    client.once('end', () => {
      if (!this.#isClosed) this.#retry = setTimeout(() => this.#connect(), retryMs)
    })
    client.on('notification', ({ payload = '{}' }) => this.#receive(payload))
    try {
      await client.connect()
      await client.query(`listen ${channel}`)
      this.#notify({})
    } catch {
      await client.end().catch(() => {})
    }
  }

  #receive(payload: string): void {
    const announcement = JSON.parse(payload) as Announcement | Record<string, never>
    if ('handle' in announcement) this.emit('announcement', announcement as Announcement)
    else this.emit('gap')
  }
}
