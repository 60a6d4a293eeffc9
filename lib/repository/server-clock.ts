// Says what time it will be at the server when a call is given up, so that the server can refuse a save that it gets later.
import type { Row } from '../types/options.js'

/** The server's clock and this process's may drift apart by a few ms in this time. */
const maxAgeMs = 60_000

const clockSql = `select (date_part('epoch', clock_timestamp()) * 1000)::float8 as now`

/** The message of the error by which the server refuses a late save; see `inTimeSql`. */
const lateMessage = 'given up by the client'

/**
 * SQL that is true until the server's clock, in ms, has reached the parameter, and fails after that. `now()` is when the server
 * began with the statement: later than it was sent if the server's process was stopped. `clock_timestamp()` is later still if
 * it has waited for a lock. The error is that of a volatile function, which PostgreSQL doesn't call while planning.
 */
export function inTimeSql(parameter: string, clock: 'now()' | 'clock_timestamp()' = 'now()'): string {
  return (
    `case when date_part('epoch', ${clock}) * 1000 < coalesce(${parameter}::float8, 'infinity') then true` +
    ` else set_config('statement_timeout', '${lateMessage}', true) is null end`
  )
}

/** Whether the server refused a statement because it came too late. */
export function isRefusedAsLate(error: unknown): boolean {
  return error instanceof Error && error.message.includes(lateMessage)
}

export class ServerClock {
  readonly #query: (text: string) => Promise<Row[]>
  /** The server's time, in ms since 1970, less the monotonic clock's; rather too small than too great. */
  #offset: number | undefined
  #measuredAt = 0
  #measuring: Promise<void> | undefined

  constructor(query: (text: string) => Promise<Row[]>) {
    this.#query = query
  }

  /** Returns the server's time at a time of the monotonic clock, or not later; `null` if it can't be found out. */
  async at(time: number): Promise<number | null> {
    if (this.#offset === undefined) await this.measure()
    else if (performance.now() - this.#measuredAt > maxAgeMs) void this.measure()
    return this.#offset === undefined ? null : Math.floor(this.#offset + time)
  }

  /** Asks the server for its time. Never rejects. */
  measure(): Promise<void> {
    this.#measuring ??= this.#measure().finally(() => {
      this.#measuring = undefined
    })
    return this.#measuring
  }

  async #measure(): Promise<void> {
    try {
      const [row] = await this.#query(clockSql)
      // The response took a while, so that the server's time is later by now.
      this.#offset = Number(row?.now) - performance.now()
      this.#measuredAt = performance.now()
    } catch {
      // The save itself will show what is wrong.
    }
  }
}
