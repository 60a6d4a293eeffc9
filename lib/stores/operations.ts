// Counts the operations in progress, so that close() can wait for them, and wraps their errors.
import {
  ConflictError,
  DatabaseError,
  DecodeError,
  EncodeError,
  SessionTooLargeError,
  SetupError,
} from '../types/errors.js'
import type { CallRecorder } from '../util/call-stats.js'
import { codeOf, redact } from '../util/driver-errors.js'
import { tickNow } from '../util/tick-clock.js'

/** Errors that are passed on as they are. */
const ownErrors = [DatabaseError, SetupError, ConflictError, DecodeError, EncodeError, SessionTooLargeError]

/** The table or one of its columns is missing, or a type has changed: what setup found out is outdated. */
const tableChangedCodes = new Set(['42P01', '3F000', '42703', '42P10', '42804'])

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
    this.begin()
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

  /** Counts an operation that isn't run by `run`. */
  begin(): void {
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
    const cause = redact(error, secrets)
    return new DatabaseError(`can't ${description}: ${cause.message}`, { cause })
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
