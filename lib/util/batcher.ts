// Joins concurrent calls into batches. Knows nothing of SQL.

export interface BatcherOptions<V, R> {
  /**
   * Runs a batch: sorted by key, each key once, unless the calls are unordered. Returns the results in the same order; an
   * `Error` rejects its call alone.
   */
  readonly run: (calls: readonly BatchCall<V>[]) => Promise<readonly (R | Error)[]>
  readonly maxBatchSize: number
  readonly maxConcurrentBatches: number
  /** The size of a call, and the maximum of a batch of more than one. Default: no limit. */
  readonly sizeOf?: (value: V) => number
  readonly maxSize?: number
  /** Calls with one key may run at the same time, and in one batch: for reads. */
  readonly isUnordered?: boolean
  /** Whether one of several calls may have caused this error, so that the batch is divided and run again. Default: never. */
  readonly canBisect?: (error: unknown) => boolean
  /** Returns the error that a call rejects with. Default: what `run` failed with. */
  readonly toError?: (error: unknown, call: BatchCall<V>) => Error
  /** Receives the calls that a batch has settled, and their results. */
  readonly onSettled?: (calls: readonly BatchCall<V>[], results: readonly (R | Error)[]) => void
}

export interface BatchCall<V> {
  readonly key: string
  readonly value: V
}

interface PendingCall<V, R> extends BatchCall<V> {
  resolve: (result: R) => void
  reject: (error: unknown) => void
}

/**
 * A call on an idle batcher is dispatched at the end of the tick, together with all calls of that tick. Calls that are made
 * while the maximum number of batches is in flight wait, and then go together. Calls with one key run one after another, in
 * their order. Taking a batch costs what the batch holds, however many calls wait.
 */
export class Batcher<V, R> {
  readonly #options: BatcherOptions<V, R>
  /** Calls that can run, from `#head` on. */
  #ready: PendingCall<V, R>[] = []
  #head = 0
  /** The keys that are ready or in flight, each with the calls that wait for it to be free. Unused if the calls are unordered. */
  readonly #busy = new Map<string, PendingCall<V, R>[] | undefined>()
  #inFlight = 0
  #isScheduled = false

  constructor(options: BatcherOptions<V, R>) {
    this.#options = options
  }

  add(key: string, value: V): Promise<R> {
    return new Promise<R>((resolve, reject) => this.#enqueue({ key, value, resolve, reject }))
  }

  #enqueue(call: PendingCall<V, R>): void {
    if (!this.#options.isUnordered) {
      const { key } = call
      const waiting = this.#busy.get(key)
      if (waiting !== undefined) {
        waiting.push(call)
        return
      }
      if (this.#busy.has(key)) {
        this.#busy.set(key, [call])
        return
      }
      this.#busy.set(key, undefined)
    }
    this.#ready.push(call)
    this.#schedule()
  }

  /** Dispatches on nextTick: that collects all calls of this tick without delaying I/O. */
  #schedule(): void {
    if (this.#isScheduled || this.#inFlight >= this.#options.maxConcurrentBatches) return
    this.#isScheduled = true
    process.nextTick(() => {
      this.#isScheduled = false
      this.#dispatchReady()
    })
  }

  #dispatchReady(): void {
    while (this.#inFlight < this.#options.maxConcurrentBatches) {
      const calls = this.#nextBatch()
      if (calls.length === 0) return
      void this.#dispatch(calls)
    }
  }

  #nextBatch(): PendingCall<V, R>[] {
    const { maxBatchSize, sizeOf, maxSize = Number.POSITIVE_INFINITY, isUnordered } = this.#options
    const from = this.#head
    const end = Math.min(this.#ready.length, from + maxBatchSize)
    let to = from
    if (sizeOf === undefined) to = end
    else
      for (let size = 0; to < end; to++) {
        size += sizeOf((this.#ready[to] as PendingCall<V, R>).value)
        if (size > maxSize && to > from) break
      }
    const isAll = from === 0 && to === this.#ready.length
    const calls = isAll ? this.#ready : this.#ready.slice(from, to)
    if (to === this.#ready.length) {
      this.#ready = []
      this.#head = 0
    } else {
      this.#head = to
      // Lets go of what was taken, once that is most of the array.
      if (to > 1_024 && to * 2 > this.#ready.length) {
        this.#ready = this.#ready.slice(to)
        this.#head = 0
      }
    }
    return isUnordered || calls.length === 1 ? calls : calls.sort(byKey)
  }

  async #dispatch(calls: PendingCall<V, R>[]): Promise<void> {
    this.#inFlight++
    const results = await this.#run(calls)
    if (!this.#options.isUnordered) for (const call of calls) this.#release(call.key)
    this.#inFlight--
    this.#options.onSettled?.(calls, results)
    if (this.#ready.length > this.#head) this.#schedule()
  }

  async #run(calls: PendingCall<V, R>[]): Promise<readonly (R | Error)[]> {
    const { run, canBisect, toError } = this.#options
    const results = await bisect(calls, run, canBisect)
    for (let n = 0; n < calls.length; n++) {
      const call = calls[n] as PendingCall<V, R>
      const result = results[n]
      if (result instanceof Error) call.reject(toError === undefined ? result : toError(result, call))
      else call.resolve(result as R)
    }
    return results
  }

  /** The next call for this key becomes ready. */
  #release(key: string): void {
    const waiting = this.#busy.get(key)
    if (waiting === undefined) {
      this.#busy.delete(key)
      return
    }
    this.#ready.push(waiting.shift() as PendingCall<V, R>)
    if (waiting.length === 0) this.#busy.set(key, undefined)
  }
}

/**
 * Runs all calls at once. If that fails, runs each half by itself, and so on, until every call that fails has failed alone;
 * its error stands in for its result.
 */
export async function bisect<C, R>(
  calls: readonly C[],
  run: (calls: readonly C[]) => Promise<readonly (R | Error)[]>,
  canBisect: (error: unknown) => boolean = () => false,
): Promise<readonly (R | Error)[]> {
  try {
    return await run(calls)
  } catch (error) {
    if (calls.length > 1 && canBisect(error)) {
      const half = calls.length >> 1
      const first = await bisect(calls.slice(0, half), run, canBisect)
      return [...first, ...(await bisect(calls.slice(half), run, canBisect))]
    }
    const failure = error instanceof Error ? error : new Error(String(error))
    return calls.map(() => failure)
  }
}

function byKey(a: { readonly key: string }, b: { readonly key: string }): number {
  return a.key < b.key ? -1 : 1
}
