// Passes expired sessions to `onExpired` before they are deleted.
import { fromColumn } from '../codec/codec.js'
import { parse } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { DecodeError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import type { ExpiredSession } from '../types/results.js'
import { messageOf, redact } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'

/** How long a running `onExpired` may take after the sweeper was stopped: it may be waiting for the sweeper itself. */
const shutdownTimeoutMs = 10_000

/** How long `onExpired` may take for one session: one that never resolves would end all sweeps. */
const hookTimeoutMs = 60_000

/** How many different reasons why sessions can't be decoded a warning names. */
const maxReportedCauses = 3

export interface ExpiredHookOptions {
  readonly onExpired: (session: ExpiredSession) => unknown
  readonly codec: Codec | undefined
  /** Aborted when the sweeper is stopped. */
  readonly signal: AbortSignal
  readonly warn: (error: Error) => void
}

/** Runs `onExpired` for the rows of one sweep. */
export class ExpiredHook {
  readonly #options: ExpiredHookOptions
  #undecodedCount = 0
  readonly #undecodedCauses = new Set<string>()

  constructor(options: ExpiredHookOptions) {
    this.#options = options
  }

  /**
   * Calls `onExpired` for each row, one after the other, and resolves with the place, id and version of the rows that may be
   * deleted: those for which it succeeded, and tombstones. The others stay for the next sweep.
   */
  async run(rows: readonly Row[]): Promise<Row[]> {
    const { onExpired, signal, warn } = this.#options
    const handled: Row[] = []
    const errors: unknown[] = []
    for (const row of rows) {
      if (signal.aborted) break
      try {
        const session = row.session === null ? undefined : parse(await this.#decode(row))
        if (session) await this.#withShutdownTimeout(onExpired(toExpiredSession(row, session)))
        handled.push({ at: row.at, id: row.id, version: row.version })
      } catch (error) {
        // Not deleted: its key may be configured again.
        if (error instanceof DecodeError) this.#recordUndecoded(error)
        else errors.push(redact(error, [row.id as string]))
      }
    }
    if (errors.length > 0)
      warn(
        new Error(
          `onExpired failed for ${countOf(errors.length)}, kept for the next sweep: ${messageOf(errors[0])}`,
        ),
      )
    return handled
  }

  /** To be called at the end of the sweep: warns once of all sessions that couldn't be decoded. */
  warnOfUndecoded(): void {
    if (this.#undecodedCount === 0) return
    this.#options.warn(
      new DecodeError(
        `${countOf(this.#undecodedCount)} can't be decoded for onExpired, kept for the next sweep: ${[...this.#undecodedCauses].join('; ')}`,
      ),
    )
  }

  #decode({ id, session }: Row): string | Promise<string> {
    return fromColumn(this.#options.codec, session as string, { id: handleOf(id as string) })
  }

  /** There may be a million such sessions, but only few different causes. */
  #recordUndecoded({ message }: DecodeError): void {
    this.#undecodedCount++
    if (this.#undecodedCauses.size < maxReportedCauses) this.#undecodedCauses.add(message)
  }

  async #withShutdownTimeout(running: unknown): Promise<void> {
    const { signal } = this.#options
    let timer: NodeJS.Timeout | undefined
    let onAbort = (): void => undefined
    const timeout = new Promise<never>((_, reject) => {
      onAbort = () => {
        timer = setTimeout(
          () => reject(new Error('it did not finish while the store was closing')),
          shutdownTimeoutMs,
        )
      }
    })
    signal.addEventListener('abort', onAbort, { once: true })
    const finished = Promise.race([running, timeout])
    try {
      await (isPromise(running) ? withTimeout(finished, hookTimeoutMs, 'it did not finish') : running)
    } finally {
      signal.removeEventListener('abort', onAbort)
      clearTimeout(timer)
    }
  }
}

function isPromise(value: unknown): boolean {
  return typeof Object(value).then === 'function'
}

function countOf(sessions: number): string {
  return sessions === 1 ? '1 expired session' : `${sessions} expired sessions`
}

function toExpiredSession(row: Row, session: ExpiredSession['session']): ExpiredSession {
  const date = (ms: unknown): Date | undefined => (ms == null ? undefined : new Date(Number(ms)))
  return {
    handle: handleOf(row.id as string),
    session,
    userId: (row.user_id as string | null) ?? undefined,
    createdAt: date(row.created_at),
    lastAccessedAt: date(row.last_access),
    expiresAt: new Date(Number(row.expiry)),
  }
}
