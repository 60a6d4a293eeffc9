// Notifies other instances of changes that are committed already, where no statement can change and notify at once.
import { payloads, type SessionChange } from '../notifications/payload.js'
import { LogFlusher } from './log-flusher.js'

/** How soon a notification that failed is sent again, if no change takes it along before. */
const retryDelayMs = 1_000

/**
 * Joins the changes of concurrent statements into one notification: at most one is being sent, and one waits. A change stays
 * in the list until a notification of it was sent, even if its own call has failed by then.
 */
export class Announcer {
  readonly #send: (payloads: readonly string[]) => Promise<unknown>
  readonly #sender = new LogFlusher(() => this.#sendPending())
  #pending: SessionChange[] = []
  #retry: NodeJS.Timeout | undefined

  constructor(send: (payloads: readonly string[]) => Promise<unknown>) {
    this.#send = send
  }

  /**
   * Resolves when these changes and those of earlier calls that failed have been sent: a second `destroy` of a session changes
   * nothing, but must not resolve before other instances know of the first.
   */
  async announce(changes: readonly SessionChange[]): Promise<void> {
    for (const change of changes) this.#pending.push(change)
    if (this.#pending.length > 0) await this.#sender.flush()
  }

  async #sendPending(): Promise<void> {
    const changes = this.#pending
    if (changes.length === 0) return
    this.#pending = []
    try {
      await this.#send(payloads(changes))
    } catch (error) {
      this.#pending = [...changes, ...this.#pending]
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined
        this.#sender.flush().catch(() => undefined)
      }, retryDelayMs).unref()
      throw error
    }
  }
}
