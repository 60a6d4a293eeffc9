// Counts the calls of one kind, and how long they take, for stats().
import type { CallStats } from '../types/results.js'

/** The upper bounds of the histogram's buckets, in ms: from a fast statement to the timeout of a call. */
const boundsMs = [0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000] as const

export class CallRecorder {
  /** One more than there are bounds: the last counts what took longer. */
  readonly #counts = new Array<number>(boundsMs.length + 1).fill(0)
  #sumMs = 0
  #errors = 0
  #batches = 0

  /** Records a call that has ended, successfully or not, and that took `ms`. */
  record(ms: number, isError: boolean): void {
    let bucket = 0
    while (bucket < boundsMs.length && ms > (boundsMs[bucket] as number)) bucket++
    ;(this.#counts[bucket] as number)++
    this.#sumMs += ms
    if (isError) this.#errors++
  }

  /** Records a batch that calls were joined into. */
  recordBatch(): void {
    this.#batches++
  }

  /** Returns the figures so far. Buckets are cumulative, as in Prometheus. */
  stats(): CallStats {
    let count = 0
    const buckets = this.#counts.map((own, n) => {
      count += own
      return { le: boundsMs[n] ?? Number.POSITIVE_INFINITY, count }
    })
    return { count, errors: this.#errors, batches: this.#batches, latency: { buckets, sum: this.#sumMs } }
  }
}
