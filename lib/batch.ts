// Joins calls that are made at the same time into few; generic, and free of SQL.

export interface BatchOptions<V, R> {
  /** Does all at once, sorted by key, each key once; answers in the same order. */
  readonly run: (calls: readonly { readonly key: string; readonly value: V }[]) => Promise<readonly R[]>
  /** How many calls at most are joined. */
  readonly max: number
  /** What a call weighs, and how much a batch of more than one may. Default: nothing. */
  readonly weigh?: (value: V) => number
  readonly maxWeight?: number
  /** How many batches at most are under way. */
  readonly concurrency: number
  /** Calls for one key that wait are one call with one answer, and needn't wait for each other: reads. */
  readonly isShared?: boolean
  /** Whether a batch that failed may have failed for one call's sake, and is to be taken apart. Default: never. */
  readonly isDivisible?: (error: unknown) => boolean
}

interface Call<V, R> {
  readonly key: string
  readonly value: V
  readonly answer: Promise<R>
  readonly resolve: (result: R) => void
  readonly reject: (error: unknown) => void
}

/**
 * A call on an idle batcher leaves at once, with those made in the same turn of the event loop; calls made while as many
 * batches as may be are under way leave together when one is back. Calls for one key are made one after another, in their
 * order.
 */
export class Batch<V, R> {
  readonly #options: BatchOptions<V, R>
  #waiting: Call<V, R>[] = []
  /** Those that wait, by key, where they are shared. */
  readonly #shared: Map<string, Call<V, R>> | undefined
  readonly #keysUnderWay = new Set<string>()
  #underWay = 0
  #isScheduled = false

  constructor(options: BatchOptions<V, R>) {
    this.#options = options
    if (options.isShared) this.#shared = new Map()
  }

  add(key: string, value: V): Promise<R> {
    const same = this.#shared?.get(key)
    if (same !== undefined) return same.answer
    let resolve: Call<V, R>['resolve'] = () => undefined
    let reject: Call<V, R>['reject'] = () => undefined
    const answer = new Promise<R>((yes, no) => {
      resolve = yes
      reject = no
    })
    const call = { key, value, answer, resolve, reject }
    this.#waiting.push(call)
    this.#shared?.set(key, call)
    this.#schedule()
    return answer
  }

  /** After everything that is about to happen in this turn, and before any I/O: nothing is later for it. */
  #schedule(): void {
    if (this.#isScheduled || this.#underWay >= this.#options.concurrency) return
    this.#isScheduled = true
    process.nextTick(() => {
      this.#isScheduled = false
      this.#leave()
    })
  }

  #leave(): void {
    while (this.#underWay < this.#options.concurrency) {
      const calls = this.#take()
      if (calls.length === 0) return
      void this.#send(calls)
    }
  }

  /** The next calls: at most one for a key, none for a key under way; the others keep their places. */
  #take(): Call<V, R>[] {
    const taken: Call<V, R>[] = []
    const left: Call<V, R>[] = []
    const keys = new Set<string>()
    const { max, weigh = () => 0, maxWeight = Number.POSITIVE_INFINITY } = this.#options
    let weight = 0
    for (const call of this.#waiting) {
      const isFree = !keys.has(call.key) && (this.#shared !== undefined || !this.#keysUnderWay.has(call.key))
      // Seen, taken or not: a later call for the key must not overtake.
      keys.add(call.key)
      const fits = taken.length === 0 || (taken.length < max && weight + weigh(call.value) <= maxWeight)
      if (isFree && fits) {
        taken.push(call)
        this.#shared?.delete(call.key)
        weight += weigh(call.value)
      } else left.push(call)
    }
    this.#waiting = left
    return taken.sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  async #send(calls: Call<V, R>[]): Promise<void> {
    this.#underWay++
    for (const { key } of calls) this.#keysUnderWay.add(key)
    await this.#run(calls)
    for (const { key } of calls) this.#keysUnderWay.delete(key)
    this.#underWay--
    if (this.#waiting.length > 0) this.#schedule()
  }

  /** Settles each call. Halves that fail are halved again, until the calls that fail are alone. */
  async #run(calls: Call<V, R>[]): Promise<void> {
    try {
      const results = await this.#options.run(calls)
      for (const [n, call] of calls.entries()) call.resolve(results[n] as R)
    } catch (error) {
      if (calls.length > 1 && this.#options.isDivisible?.(error)) {
        const half = calls.length >> 1
        await this.#run(calls.slice(0, half))
        await this.#run(calls.slice(half))
      } else for (const call of calls) call.reject(error)
    }
  }
}
