// Holds the calls of a batcher from the time they are made until they are settled, and says which can run next.

export interface CallQueueOptions<V> {
  readonly maxBatchSize: number
  /** The size of a call, and the maximum of a batch of more than one. Default: no limit. */
  readonly sizeOf?: (value: V) => number
  readonly maxSize?: number
  /** The maximum size of all calls that have not settled. */
  readonly maxTotalSize?: number
  /** Calls with one key may run at the same time, and in one batch: for reads. */
  readonly isUnordered?: boolean
}

interface QueuedCall<V> {
  readonly key: string
  readonly value: V
}

/**
 * Calls with one key run one after another, in their order. Taking a batch costs what the batch holds, however many calls
 * wait.
 */
export class CallQueue<V, C extends QueuedCall<V>> {
  readonly #options: CallQueueOptions<V>
  /** Calls that can run, from `#head` on. */
  #ready: C[] = []
  #head = 0
  /** The keys that are ready or in flight, each with the calls that wait for it to be free. Unused if the calls are unordered. */
  readonly #busy = new Map<string, C[] | null>()
  /** The number of these calls. */
  #waitingCount = 0
  #totalSize = 0

  constructor(options: CallQueueOptions<V>) {
    this.#options = options
  }

  /** The number of calls that can run. */
  get readyCount(): number {
    return this.#ready.length - this.#head
  }

  /** The oldest of them. */
  get first(): C | undefined {
    return this.#ready[this.#head]
  }

  /** The size of all calls that have not settled. */
  get totalSize(): number {
    return this.#totalSize
  }

  hasRoomFor(value: V): boolean {
    const { sizeOf, maxTotalSize = Infinity } = this.#options
    return sizeOf === undefined || this.#totalSize === 0 || this.#totalSize + sizeOf(value) <= maxTotalSize
  }

  /** Returns whether the call can run now; otherwise it waits for another one with its key. */
  add(call: C): boolean {
    const { sizeOf, isUnordered } = this.#options
    if (sizeOf !== undefined) this.#totalSize += sizeOf(call.value)
    if (!isUnordered) {
      const { key } = call
      const waiting = this.#busy.get(key)
      if (waiting !== undefined) {
        if (waiting === null) this.#busy.set(key, [call])
        else waiting.push(call)
        this.#waitingCount++
        return false
      }
      this.#busy.set(key, null)
    }
    this.#ready.push(call)
    return true
  }

  /** Adds a call that `release` returned. */
  makeReady(call: C): void {
    this.#ready.push(call)
  }

  /** Returns the next batch, sorted by key unless the calls are unordered. */
  take(): C[] {
    const from = this.#head
    const to = this.#endOfBatch()
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
    return this.#options.isUnordered || calls.length === 1 ? calls : calls.sort(byKey)
  }

  #endOfBatch(): number {
    const { maxBatchSize, sizeOf, maxSize = Infinity } = this.#options
    const end = Math.min(this.#ready.length, this.#head + maxBatchSize)
    if (sizeOf === undefined) return end
    let to = this.#head
    for (let size = 0; to < end; to++) {
      size += sizeOf((this.#ready[to] as C).value)
      if (size > maxSize && to > this.#head) break
    }
    return to
  }

  /** To be called when a call has settled. Returns the next one for its key, which can run from now on. */
  release({ key, value }: C): C | undefined {
    const { sizeOf, isUnordered } = this.#options
    if (sizeOf !== undefined) this.#totalSize -= sizeOf(value)
    if (isUnordered) return undefined
    const waiting = this.#waitingCount === 0 ? null : this.#busy.get(key)
    if (waiting === null || waiting === undefined) {
      this.#busy.delete(key)
      return undefined
    }
    const next = waiting.shift() as C
    this.#waitingCount--
    if (waiting.length === 0) this.#busy.set(key, null)
    return next
  }

  /** Removes and returns those calls that wait for another one with their key. They have been released. */
  removeWaiting(isExpired: (call: C) => boolean): C[] {
    const { sizeOf } = this.#options
    const removed: C[] = []
    for (const [key, waiting] of this.#busy) {
      if (waiting === null) continue
      const rest: C[] = []
      for (const call of waiting) (isExpired(call) ? removed : rest).push(call)
      this.#busy.set(key, rest.length > 0 ? rest : null)
    }
    this.#waitingCount -= removed.length
    if (sizeOf !== undefined) for (const { value } of removed) this.#totalSize -= sizeOf(value)
    return removed
  }

  /** Removes and returns those calls that can run. They are still to be released. */
  removeReady(isExpired: (call: C) => boolean): C[] {
    const removed: C[] = []
    const ready: C[] = []
    for (const call of this.#ready.slice(this.#head)) (isExpired(call) ? removed : ready).push(call)
    this.#ready = ready
    this.#head = 0
    return removed
  }
}

function byKey(a: { readonly key: string }, b: { readonly key: string }): number {
  return a.key < b.key ? -1 : 1
}
