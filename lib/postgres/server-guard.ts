// Keeps all connections of a store on one server, the primary: after a failover, some may lead to a standby, or to the old primary.
import type { PoolClient } from 'pg'
import type { Row } from '../types/options.js'
import { codeOf, wrongServer } from '../util/driver-errors.js'

/** A run of a server. Whatever can't be found out is `undefined`. */
export interface Server {
  /** When it was started, to the microsecond: no two servers have this in common. */
  readonly startedAt: string | undefined
  /** Identifies the data: a primary and its standbys have the same. */
  readonly system: string | undefined
  /** Counts the promotions that led to this primary. */
  readonly timeline: number | undefined
}

type Run = (text: string) => Promise<Row[]>

const base = `select pg_catalog.pg_is_in_recovery() as is_standby, pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.text as started_at`

/** Some services don't allow these functions, or don't have them. */
const details =
  `, (select system_identifier from pg_catalog.pg_control_system())::pg_catalog.text as system,` +
  ` case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) end as wal_file`

/** SQLSTATE classes of functions that are missing, not allowed or not supported. */
const notAvailableCodes = /^(0A|42|55)/

export class ServerGuard {
  /** The server of each open connection of the pool that was used. */
  readonly #servers = new Map<PoolClient, Server>()
  /** The server that the pool's connections must lead to. */
  #current: Server | undefined
  /** The server of the LISTEN connection while that is open. */
  #listening: Server | undefined
  /** The server that was last followed, so that two servers that disagree don't make the pool reconnect again and again. */
  #followed: string | undefined
  #hasDetails = true
  /** Called before a connection to another server than the pool's is used. */
  onChange: () => void = () => undefined

  /** Whether a connection was found to lead to the current server. */
  isCurrent(client: PoolClient): boolean {
    const server = this.#servers.get(client)
    return server !== undefined && server.startedAt === this.#current?.startedAt
  }

  /** Whether a connection has been admitted once. */
  isKnown(client: PoolClient): boolean {
    return this.#servers.has(client)
  }

  /** Whether the pool's connections lead to the server of the LISTEN connection, as far as is known. */
  get isInAgreement(): boolean {
    const [pool, listening] = [this.#current?.startedAt, this.#listening?.startedAt]
    return pool === undefined || listening === undefined || pool === listening
  }

  /** Asks a new connection of the pool where it leads. Rejects if it must not be used. */
  async admit(client: PoolClient, run: Run): Promise<void> {
    const server = await this.#identify(run)
    this.#assertNotReplaced(server, [
      this.#isOpen(this.#current) ? this.#current : undefined,
      this.#listening,
    ])
    this.#servers.set(client, server)
    const hasChanged = this.#current !== undefined && this.#current.startedAt !== server.startedAt
    this.#current = server
    if (hasChanged) this.onChange()
  }

  /** To be called when the pool closes a connection. */
  readonly forget = (client: PoolClient): void => {
    this.#servers.delete(client)
  }

  /**
   * Asks a new LISTEN connection where it leads. If it leads to another server than the pool, the pool's connections may be
   * older than a failover, and are not used again. Rejects if the LISTEN connection must not be used.
   */
  async follow(run: Run): Promise<void> {
    this.#listening = undefined
    const server = await this.#identify(run)
    this.#assertNotReplaced(server, [this.#isOpen(this.#current) ? this.#current : undefined])
    this.#listening = server
    const { startedAt } = server
    if (startedAt === this.#current?.startedAt || startedAt === this.#followed) return
    this.#followed = startedAt
    this.#current = server
  }

  /** To be called when the LISTEN connection is closed. */
  unfollow(): void {
    this.#listening = undefined
  }

  #isOpen(server: Server | undefined): boolean {
    for (const { startedAt } of this.#servers.values()) if (startedAt === server?.startedAt) return true
    return false
  }

  async #identify(run: Run): Promise<Server> {
    const row = await this.#ask(run)
    if (row?.is_standby === true) throw refuse('a standby, which may lack the latest changes')
    const timeline = Number.parseInt(String(row?.wal_file).slice(0, 8), 16)
    return {
      startedAt: row?.started_at as string | undefined,
      system: row?.system as string | undefined,
      timeline: Number.isNaN(timeline) ? undefined : timeline,
    }
  }

  async #ask(run: Run): Promise<Row | undefined> {
    for (const text of this.#hasDetails ? [base + details, base] : [base])
      try {
        return (await run(text))[0]
      } catch (error) {
        if (!notAvailableCodes.test(codeOf(error) ?? '')) throw error
        this.#hasDetails = false
      }
    return undefined
  }

  #assertNotReplaced({ system, timeline = 0 }: Server, others: readonly (Server | undefined)[]): void {
    if (
      others.some(
        (other) => system !== undefined && other?.system === system && timeline < (other.timeline ?? 0),
      )
    )
      throw refuse('a former primary, which another server has replaced')
  }
}

/** SQLSTATE 25006, as if the server had refused to write: the connection is given up. */
function refuse(what: string): Error {
  return Object.assign(new Error(wrongServer(what)), { code: '25006' })
}
