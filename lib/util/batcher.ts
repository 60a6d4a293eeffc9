// Joins calls that are made at the same time into batches; generic, and free of SQL.

export interface BatcherOptions<V, R> {
  /** Runs a batch, sorted by key, each key once. Resolves with results in the same order; an `Error` rejects its call alone. */
  readonly run: (calls: readonly BatchCall<V>[]) => Promise<readonly (R | Error)[]>
  /** The maximum number of calls in a batch. */
  readonly maxBatchSize: number
  /** The size of a call, and the maximum size of a batch of more than one. Default: unlimited. */
  readonly sizeOf?: (value: V) => number
  readonly maxSize?: number
  /** The maximum number of batches in flight. */
  readonly maxConcurrentBatches: number
  /**
   * Whether calls for one key that wait share one result, and needn't wait for calls in flight: for reads, whose value is
   * always the same.
   */
  readonly dedupe?: boolean
  /** Whether one call alone may be the cause of a batch's error: then the batch is halved until it is found. Default: never. */
  readonly canBisect?: (error: unknown) => boolean
}

export interface BatchCall<V> {
  readonly key: string
  readonly value: V
}

interface Call<V, R> extends BatchCall<V> {
  promise: Promise<R> | undefined
  resolve: (result: R) => void
  reject: (error: unknown) => void
}

/**
 * While fewer than `maxConcurrentBatches` are in flight, a call is dispatched at once, together with those of the same tick.
 * Otherwise it waits, and is dispatched with all that wait when a batch is done. Without `dedupe`, calls for one key run one
 * after another, in their order.
 */
export class Batcher<V, R> {
  readonly #options: BatcherOptions<V, R>
  #waiting: Call<V, R>[] = []
  /** The waiting calls by key, in their order; only with `dedupe`. */
  #waitingByKey: Map<string, Call<V, R>> | undefined
  readonly #inFlightKeys = new Set<string>()
  #inFlight = 0
  #isScheduled = false

  constructor(options: BatcherOptions<V, R>) {
    this.#options = options
    if (options.dedupe) this.#waitingByKey = new Map()
  }

  add(key: string, value: V): Promise<R> {
    const same = this.#waitingByKey?.get(key)
    if (same !== undefined) return same.promise as Promise<R>
    const call: Call<V, R> = { key, value, promise: undefined, resolve: unsettled, reject: unsettled }
    call.promise = new Promise<R>((resolve, reject) => {
      call.resolve = resolve
      call.reject = reject
    })
    if (this.#waitingByKey === undefined) this.#waiting.push(call)
    else this.#waitingByKey.set(key, call)
    this.#schedule()
    return call.promise
  }

  /** Dispatches on `nextTick`: that collects all calls of this tick, and comes before any I/O. */
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

  #nextBatch(): Call<V, R>[] {
    const batch =
      this.#waitingByKey === undefined ? this.#nextOrdered() : this.#nextDeduped(this.#waitingByKey)
    return batch.length > 1 ? batch.sort(byKey) : batch
  }

  #nextDeduped(waiting: Map<string, Call<V, R>>): Call<V, R>[] {
    const batch: Call<V, R>[] = []
    for (const call of waiting.values()) {
      if (batch.length === this.#options.maxBatchSize) break
      batch.push(call)
    }
    // A new map: the table of an emptied one keeps its calls from being garbage-collected.
    if (batch.length === waiting.size) this.#waitingByKey = new Map()
    else for (const { key } of batch) waiting.delete(key)
    return batch
  }

  /** At most one call for a key, and none for a key in flight; the other calls keep their places. */
  #nextOrdered(): Call<V, R>[] {
    const { maxBatchSize, sizeOf = () => 0, maxSize = Number.POSITIVE_INFINITY } = this.#options
    const batch: Call<V, R>[] = []
    const waiting: Call<V, R>[] = []
    const seenKeys = new Set<string>()
    let batchSize = 0
    for (const call of this.#waiting) {
      const isFree = !seenKeys.has(call.key) && !this.#inFlightKeys.has(call.key)
      // Also if the call waits on: a later call for the key must not overtake it.
      seenKeys.add(call.key)
      const size = sizeOf(call.value)
      const fits = batch.length === 0 || (batch.length < maxBatchSize && batchSize + size <= maxSize)
      if (isFree && fits) {
        batch.push(call)
        batchSize += size
      } else waiting.push(call)
    }
    this.#waiting = waiting
    for (const { key } of batch) this.#inFlightKeys.add(key)
    return batch
  }

  async #dispatch(calls: Call<V, R>[]): Promise<void> {
    this.#inFlight++
    await this.#run(calls)
    if (this.#waitingByKey === undefined) for (const { key } of calls) this.#inFlightKeys.delete(key)
    this.#inFlight--
    if ((this.#waitingByKey?.size ?? this.#waiting.length) > 0) this.#schedule()
  }

  async #run(calls: Call<V, R>[]): Promise<void> {
    const results = await bisect(calls, this.#options.run, this.#options.canBisect)
    for (const [n, call] of calls.entries()) {
      const result = results[n]
      if (result instanceof Error) call.reject(result)
      else call.resolve(result as R)
    }
  }
}

/** Runs all calls at once. If that fails, halves them, and again, until each call that fails is alone with its error. */
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

function unsettled(): void {}
