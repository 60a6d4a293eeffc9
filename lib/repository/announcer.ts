// Notifies other instances of changes that are committed already, where a statement can't notify and change at once.
import { payloads, type SessionChange } from '../notifications/payload.js'

/** How soon a notification that failed is sent again, if no change takes it along before. */
const retryDelayMs = 1_000

/**
 * Joins the changes of concurrent statements into one notification: at most one is being sent, and one waits. A change stays
 * in the list until a notification of it was sent, even if its own call has failed by then.
 */
export class Announcer {
  readonly #send: (payloads: readonly string[]) => Promise<unknown>
  #changes: SessionChange[] = []
  #running: Promise<unknown> | undefined
  #next: Promise<void> | undefined
  #retry: NodeJS.Timeout | undefined

  constructor(send: (payloads: readonly string[]) => Promise<unknown>) {
    this.#send = send
  }

  /** Resolves when the notification of these changes is sent. */
  announce(changes: readonly SessionChange[]): Promise<void> {
    for (const change of changes) this.#changes.push(change)
    return this.#flush()
  }

  #flush(): Promise<void> {
    if (this.#running === undefined) return this.#start()
    const startNext = (): Promise<void> => {
      this.#next = undefined
      return this.#start()
    }
    this.#next ??= this.#running.then(startNext, startNext)
    return this.#next
  }

  async #start(): Promise<void> {
    const changes = this.#changes
    if (changes.length === 0) return
    this.#changes = []
    const sending = this.#send(payloads(changes))
    this.#running = sending
    try {
      await sending
    } catch (error) {
      this.#changes = [...changes, ...this.#changes]
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined
        this.#flush().catch(() => undefined)
      }, retryDelayMs).unref()
      throw error
    } finally {
      if (this.#running === sending) this.#running = undefined
    }
  }
}
