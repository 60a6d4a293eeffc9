// Joins calls that are made at the same time into few; generic, and free of SQL.

export interface BatcherOptions<V, R> {
  /** Does all at once, sorted by key, each key once; answers in the same order. An `Error` is that call's alone. */
  readonly run: (calls: readonly BatchCall<V>[]) => Promise<readonly (R | Error)[]>
  /** How many calls at most are joined. */
  readonly maxBatchSize: number
  /** What a call weighs, and how much a batch of more than one may. Default: nothing. */
  readonly sizeOf?: (value: V) => number
  readonly maxSize?: number
  /** How many batches at most are under way. */
  readonly maxConcurrentBatches: number
  /** Calls for one key that wait are one call with one answer, and needn't wait for each other: reads. */
  readonly dedupe?: boolean
  /** Whether a batch that failed may have failed for one call's sake, and is to be taken apart, again and again. Default: never. */
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
 * A call on an idle batcher leaves at once, with those made in the same turn of the event loop; calls made while as many
 * batches as may be are under way leave together when one is back. Calls for one key are made one after another, in their
 * order.
 */
export class Batcher<V, R> {
  readonly #options: BatcherOptions<V, R>
  #waiting: Call<V, R>[] = []
  /** Those that wait where they are shared, by key and in their order. */
  #byKey: Map<string, Call<V, R>> | undefined
  readonly #inFlightKeys = new Set<string>()
  #inFlight = 0
  #isScheduled = false

  constructor(options: BatcherOptions<V, R>) {
    this.#options = options
    if (options.dedupe) this.#byKey = new Map()
  }

  add(key: string, value: V): Promise<R> {
    const same = this.#byKey?.get(key)
    if (same !== undefined) return same.promise as Promise<R>
    const call: Call<V, R> = { key, value, promise: undefined, resolve: unsettled, reject: unsettled }
    call.promise = new Promise<R>((resolve, reject) => {
      call.resolve = resolve
      call.reject = reject
    })
    if (this.#byKey === undefined) this.#waiting.push(call)
    else this.#byKey.set(key, call)
    this.#schedule()
    return call.promise
  }

  /** After everything that is about to happen in this turn, and before any I/O: nothing is later for it. */
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

  /** The next calls, each key once. */
  #nextBatch(): Call<V, R>[] {
    const taken = this.#byKey === undefined ? this.#nextOrdered() : this.#nextDeduped(this.#byKey)
    return taken.length > 1 ? taken.sort(byKey) : taken
  }

  #nextDeduped(waiting: Map<string, Call<V, R>>): Call<V, R>[] {
    const taken: Call<V, R>[] = []
    for (const call of waiting.values()) {
      if (taken.length === this.#options.maxBatchSize) break
      taken.push(call)
    }
    // A new one, as what the tables of an old one hold the garbage collector takes for used.
    if (taken.length === waiting.size) this.#byKey = new Map()
    else for (const { key } of taken) waiting.delete(key)
    return taken
  }

  /** At most one call for a key, none for a key under way; the others keep their places. */
  #nextOrdered(): Call<V, R>[] {
    const taken: Call<V, R>[] = []
    const left: Call<V, R>[] = []
    const keys = new Set<string>()
    const {
      maxBatchSize: max,
      sizeOf: weigh = () => 0,
      maxSize: maxWeight = Number.POSITIVE_INFINITY,
    } = this.#options
    let weight = 0
    for (const call of this.#waiting) {
      const isFree = !keys.has(call.key) && !this.#inFlightKeys.has(call.key)
      // Seen, taken or not: a later call for the key must not overtake.
      keys.add(call.key)
      const own = weigh(call.value)
      if (isFree && (taken.length === 0 || (taken.length < max && weight + own <= maxWeight))) {
        taken.push(call)
        weight += own
      } else left.push(call)
    }
    this.#waiting = left
    for (const { key } of taken) this.#inFlightKeys.add(key)
    return taken
  }

  async #dispatch(calls: Call<V, R>[]): Promise<void> {
    this.#inFlight++
    await this.#run(calls)
    if (this.#byKey === undefined) for (const { key } of calls) this.#inFlightKeys.delete(key)
    this.#inFlight--
    if ((this.#byKey?.size ?? this.#waiting.length) > 0) this.#schedule()
  }

  async #run(calls: Call<V, R>[]): Promise<void> {
    const { run, canBisect: isDivisible } = this.#options
    const results = await bisect(calls, run, isDivisible)
    for (const [n, call] of calls.entries()) {
      const result = results[n]
      if (result instanceof Error) call.reject(result)
      else call.resolve(result as R)
    }
  }
}

/** Runs all at once. What fails is halved, and again, until the calls that fail are alone, each with its error. */
export async function bisect<C, R>(
  calls: readonly C[],
  run: (calls: readonly C[]) => Promise<readonly (R | Error)[]>,
  isDivisible: (error: unknown) => boolean = () => false,
): Promise<readonly (R | Error)[]> {
  try {
    return await run(calls)
  } catch (error) {
    if (calls.length > 1 && isDivisible(error)) {
      const half = calls.length >> 1
      const first = await bisect(calls.slice(0, half), run, isDivisible)
      return [...first, ...(await bisect(calls.slice(half), run, isDivisible))]
    }
    const failure = error instanceof Error ? error : new Error(String(error))
    return calls.map(() => failure)
  }
}

function byKey(a: { readonly key: string }, b: { readonly key: string }): number {
  return a.key < b.key ? -1 : 1
}

function unsettled(): void {}
