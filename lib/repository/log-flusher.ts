// Flushes PostgreSQL's log for changes that were committed asynchronously: one flush for all that wait.

/**
 * At most one flush runs and one waits. A caller is served by a flush that begins after its call, so that it covers what the
 * caller has committed.
 */
export class LogFlusher {
  readonly #flush: () => Promise<unknown>
  #running: Promise<unknown> | undefined
  #next: Promise<void> | undefined

  constructor(flush: () => Promise<unknown>) {
    this.#flush = flush
  }

  /** Whether no flush is running. */
  get isIdle(): boolean {
    return this.#running === undefined
  }

  /** Resolves when everything that was committed before this call is flushed; rejects if that isn't known. */
  flush(): Promise<void> {
    if (this.#running === undefined) return this.#start(this.#flush())
    this.#next ??= this.#running.then(
      () => this.#startNext(),
      () => this.#startNext(),
    )
    return this.#next
  }

  /** Counts a flush that a caller runs itself, together with its change. Others wait for the next. */
  async cover<T>(work: Promise<T>): Promise<T> {
    void this.#start(work).catch(() => undefined)
    return work
  }

  #startNext(): Promise<void> {
    this.#next = undefined
    return this.#start(this.#flush())
  }

  async #start(flush: Promise<unknown>): Promise<void> {
    this.#running = flush
    try {
      await flush
    } finally {
      if (this.#running === flush) this.#running = undefined
    }
  }
}
