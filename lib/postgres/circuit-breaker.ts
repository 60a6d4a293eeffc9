// Remembers that the server can't be reached, so that calls are refused at once instead of each waiting for it.
import { messageOf } from '../util/driver-errors.js'

/**
 * The time between attempts to reach the server: a share of how long it has been unreachable, within limits. It can be short
 * where the server refuses connections; where it is silent, the calls of each attempt wait.
 */
const outageShare = 1 / 10
const minDelayMs = 50
const maxRefusedDelayMs = 250
const maxSilentDelayMs = 500

/** The code of the errors of calls that were refused without an attempt to reach the server. */
export const unreachableCode = 'ERR_SERVER_UNREACHABLE'

/**
 * Closed as long as the server responds. A failed attempt to reach it opens the breaker, unless the server has responded on
 * another connection since that attempt began. While it is open, one attempt at a time is let through; any response closes it.
 */
export class CircuitBreaker {
  #reason: unknown
  #isOpen = false
  #respondedAt = Number.NEGATIVE_INFINITY
  #openedAt = 0
  #retryAt = 0
  #maxDelayMs = maxRefusedDelayMs

  get isOpen(): boolean {
    return this.#isOpen
  }

  /** To be called before an attempt. Throws if the server is known to be unreachable and the next attempt isn't due. */
  enter(): void {
    if (!this.#isOpen) return
    if (performance.now() < this.#retryAt) throw this.#refusal()
    this.#delayNextAttempt()
  }

  /** The server has responded. */
  respond(): void {
    this.#respondedAt = performance.now()
    this.#isOpen = false
  }

  /** An attempt that began at `startedAt` got no response. Returns whether the breaker is open now. */
  fail(startedAt: number, reason: unknown): boolean {
    if (this.#respondedAt >= startedAt) return this.#isOpen
    this.#reason = reason
    this.#maxDelayMs =
      performance.now() - startedAt > maxRefusedDelayMs ? maxSilentDelayMs : maxRefusedDelayMs
    if (!this.#isOpen) {
      this.#isOpen = true
      this.#openedAt = startedAt
      this.#delayNextAttempt()
    }
    return true
  }

  #delayNextAttempt(): void {
    const now = performance.now()
    const delayMs = Math.max(minDelayMs, (now - this.#openedAt) * outageShare)
    this.#retryAt = now + Math.min(delayMs, this.#maxDelayMs) * (1 - Math.random() / 4)
  }

  #refusal(): Error {
    const message = `${messageOf(this.#reason)} (the server is tried again within a second)`
    return Object.assign(new Error(message, { cause: this.#reason }), { code: unreachableCode })
  }
}
