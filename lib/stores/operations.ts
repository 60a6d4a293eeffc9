// Counts the operations in progress, which have a maximum and which close() waits for, and wraps their errors.
import { unreachableCode } from '../postgres/circuit-breaker.js'
import { cancelledCode, noConnectionCode, noResponseCode } from '../postgres/connection.js'
import {
  ConflictError,
  DatabaseError,
  type DatabaseErrorCode,
  DecodeError,
  EncodeError,
  SessionTooLargeError,
  SetupError,
} from '../types/errors.js'
import { busyCode } from '../util/batcher.js'
import type { CallRecorder } from '../util/call-stats.js'
import { codeOf, redact } from '../util/driver-errors.js'
import { tickNow } from '../util/tick-clock.js'
import { timeoutCode } from '../util/timeout.js'

/** Errors that are passed on as they are. */
const ownErrors = [DatabaseError, SetupError, ConflictError, DecodeError, EncodeError, SessionTooLargeError]

/**
 * The table or one of its columns is missing, a type has changed, or Citus has distributed the table and takes other statements
 * since: what setup found out is outdated.
 */
const tableChangedCodes = new Set(['42P01', '3F000', '42703', '42P10', '42804', '0A000'])

/** What the codes of other errors mean for a call. */
const codes: Record<string, DatabaseErrorCode> = {
  [unreachableCode]: 'ERR_SESSION_UNREACHABLE',
  [noConnectionCode]: 'ERR_SESSION_TIMEOUT',
  [noResponseCode]: 'ERR_SESSION_TIMEOUT',
  [cancelledCode]: 'ERR_SESSION_TIMEOUT',
  // A lock that wasn't granted within lock_timeout.
  '55P03': 'ERR_SESSION_TIMEOUT',
  [timeoutCode]: 'ERR_SESSION_TIMEOUT',
  [busyCode]: 'ERR_SESSION_BUSY',
}

/** Further ones are refused: each needs memory, and none would be served in time. */
const maxOperations = 20_000

export class OperationTracker {
  readonly #onTableChanged: () => void
  #count = 0
  #isClosed = false
  /** The number of operations so far. */
  started = 0
  #onIdle: (() => void) | undefined

  /** `onTableChanged` is called when an error shows that the table has changed. */
  constructor(onTableChanged: () => void) {
    this.#onTableChanged = onTableChanged
  }

  /** The number of operations in progress. */
  get count(): number {
    return this.#count
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /**
   * Runs an operation. `description` appears in its errors, such as 'read the session'; `secrets` don't. Rejects if `close`
   * has been called. `recorder` counts it and its duration.
   */
  async run<T>(
    description: string,
    work: () => Promise<T>,
    secrets: string[] = [],
    recorder?: CallRecorder,
  ): Promise<T> {
    if (this.#isClosed) throw new DatabaseError(`can't ${description}: the session store is closed`)
    this.begin(description)
    const startedAt = recorder && tickNow()
    let isError = false
    try {
      return await work()
    } catch (error) {
      isError = true
      throw this.toError(error, description, secrets)
    } finally {
      if (startedAt !== undefined) recorder?.record(tickNow() - startedAt, isError)
      this.end(1)
    }
  }

  /** The numbers of errors so far, by code. */
  readonly errors: Partial<Record<DatabaseErrorCode, number>> = {}

  /** Counts an operation that isn't run by `run`. Throws if there are too many. */
  begin(description: string): void {
    if (this.#count >= maxOperations) throw this.toError(tooMany(), description)
    this.#count++
    this.started++
  }

  /** Counts the end of so many operations. */
  end(count: number): void {
    this.#count -= count
    if (this.#count === 0) this.#onIdle?.()
  }

  /** Returns the error that an operation rejects with: one of the package's own, or a `DatabaseError` without the secrets. */
  toError(error: unknown, description: string, secrets: string[] = []): Error {
    if (ownErrors.some((type) => error instanceof type)) return error as Error
    // The next operation sets the store up again: the table may have been repaired or moved.
    if (tableChangedCodes.has(codeOf(error) ?? '')) this.#onTableChanged()
    const errorCode = codeOf(error) ?? ''
    const code = codes[errorCode] ?? 'ERR_SESSION_DATABASE'
    // Thousands of calls may share an error of our own, which has nothing to redact.
    const isOwn = code !== 'ERR_SESSION_DATABASE' && errorCode.startsWith('ERR_')
    const cause = isOwn ? (error as Error) : redact(error, secrets)
    this.errors[code] = (this.errors[code] ?? 0) + 1
    return new DatabaseError(`can't ${description}: ${cause.message}`, { cause, code })
  }

  /** Makes later operations reject. */
  close(): void {
    this.#isClosed = true
  }

  /** Resolves when no operation is in progress. */
  async drained(): Promise<void> {
    if (this.#count === 0) return
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve
    })
  }
}

function tooMany(): Error {
  return Object.assign(new Error(`the session store is busy: ${maxOperations} calls wait for the database`), {
    code: busyCode,
  })
}
