// Flushes PostgreSQL's log for changes that were committed asynchronously: one flush for all that wait.

/**
 * At most one flush runs and one waits. A caller is served by a flush that begins after its call, so that it covers what the
 * caller has committed.
 */
export class LogFlusher {
  readonly #flush: () => Promise<unknown>
  #running: Promise<unknown> | undefined
  #next: Promise<void> | undefined
  #covered = 0

  constructor(flush: () => Promise<unknown>) {
    this.#flush = flush
  }

  /** Whether no flush is running, not even that of a caller. */
  get isIdle(): boolean {
    return this.#running === undefined && this.#covered === 0
  }

  /** Resolves when everything that was committed before this call is flushed; rejects if that isn't known. */
  flush(): Promise<void> {
    if (this.#running === undefined) return this.#start()
    const startNext = (): Promise<void> => {
      this.#next = undefined
      return this.#start()
    }
    this.#next ??= this.#running.then(startNext, startNext)
    return this.#next
  }

  /**
   * Counts a flush that a caller runs itself, together with its change. It may first wait for the lock of a row, so no other
   * flush waits for it.
   */
  async cover<T>(work: Promise<T>): Promise<T> {
    this.#covered++
    try {
      return await work
    } finally {
      this.#covered--
    }
  }

  async #start(): Promise<void> {
    const flush = this.#flush()
    this.#running = flush
    try {
      await flush
    } finally {
      if (this.#running === flush) this.#running = undefined
    }
  }
}
