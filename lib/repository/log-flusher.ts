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
