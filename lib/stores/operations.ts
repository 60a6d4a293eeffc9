// The calls of a store that are under way: counted, waited for at the end, and what they fail with put into words.
import {
  ConflictError,
  DatabaseError,
  DecodeError,
  EncodeError,
  SessionTooLargeError,
  SetupError,
} from '../types/errors.js'
import { codeOf, redact } from '../util/driver-errors.js'

/** Errors that say themselves what is wrong. */
const ownErrors = [SetupError, ConflictError, DecodeError, EncodeError, SessionTooLargeError]

/** The table or one of its columns went away, or its type changed: what setup found out isn't true any more. */
const tableChangedCodes = new Set(['42P01', '3F000', '42703', '42P10', '42804'])

export class OperationTracker {
  readonly #onTableChanged: () => void
  #count = 0
  #isClosed = false
  #idle: (() => void) | undefined

  constructor(onTableChanged: () => void) {
    this.#onTableChanged = onTableChanged
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Runs a call that is called `what`. Its error holds none of the secrets. */
  async run<T>(what: string, work: () => Promise<T>, secrets: string[] = []): Promise<T> {
    if (this.#isClosed) throw new Error(`can't ${what}: the session store is closed`)
    this.#count++
    try {
      return await work()
    } catch (error) {
      throw this.toError(error, what, secrets)
    } finally {
      this.#count--
      if (this.#count === 0) this.#idle?.()
    }
  }

  /** What a call that is called `what` rejects with. */
  toError(error: unknown, what: string, secrets: string[] = []): Error {
    if (ownErrors.some((type) => error instanceof type)) return error as Error
    // Set up again at the next use: somebody may just have mended or moved the table.
    if (tableChangedCodes.has(codeOf(error) ?? '')) this.#onTableChanged()
    const cause = redact(error, secrets)
    return new DatabaseError(`can't ${what}: ${cause.message}`, { cause })
  }

  /** Lets no further call in. */
  close(): void {
    this.#isClosed = true
  }

  /** Resolves when no call is under way. */
  async drained(): Promise<void> {
    if (this.#count === 0) return
    await new Promise<void>((resolve) => {
      this.#idle = resolve
    })
  }
}
