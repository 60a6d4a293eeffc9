// Joins concurrent calls into batches, and keeps what one of them waits for from the others. Knows nothing of SQL.
import { bisect } from './bisect.js'
import { CallQueue, type CallQueueOptions } from './call-queue.js'
import { type TimeLimit, type Watched, watch } from './deadlines.js'
import { tickNow } from './tick-clock.js'

export interface BatcherOptions<V, R> extends CallQueueOptions<V> {
  /**
   * Runs a batch: sorted by key, each key once, unless the calls are unordered. Returns the results in the same order; an
   * `Error` rejects its call alone, and a promise of either settles it later. Must settle within the limit.
   */
  readonly run: (calls: readonly BatchCall<V>[], limit: TimeLimit) => Promise<readonly Result<R>[]>
  readonly maxConcurrentBatches: number
  /** How long a call may wait until it runs, and how long it may take after that, in ms. Default: no limit. */
  readonly maxWaitMs?: number
  readonly maxRunMs?: number
  /** Whether one of several calls may have caused this error, so that the batch is divided and run again. Default: never. */
  readonly canBisect?: (error: unknown) => boolean
  /**
   * Whether this error says that a call has been given up because it took too long, and that it had no effect. A batch then
   * has little time, and calls that need more run by themselves, beside the others. Default: never; a batch has all the time.
   */
  readonly isOverdue?: (error: unknown) => boolean
  /** Returns the error that a call rejects with. Default: what `run` failed with. */
  readonly toError?: (error: unknown, call: BatchCall<V>) => Error
  /** Receives calls that have been settled, and their results. */
  readonly onSettled?: (calls: readonly BatchCall<V>[], results: readonly (R | Error)[]) => void
}

type Result<R> = R | Error | Promise<R | Error>

export interface BatchCall<V> {
  readonly key: string
  readonly value: V
}

interface PendingCall<V, R> extends BatchCall<V> {
  /** When it must have begun to run, and when it must have settled. */
  readonly startBy: number
  readonly deadline: number
  /** How many times it was overdue. */
  overdue: number
  resolve: (result: R) => void
  reject: (error: unknown) => void
}

/** The code of the errors of calls that the queue had no room for, or that waited in it for too long. */
export const busyCode = 'ERR_BUSY'

/**
 * A batch that isn't full waits for those in flight this multiple of what batches take lately, within limits. Fewer and larger
 * batches cost less here and in the database. One that takes unusually long, because of a lock, say, doesn't hold up others.
 */
const overlapFactor = 2
const minOverlapMs = 2
const maxOverlapMs = 50

/** A batch that may be divided has this time, or this multiple of what batches take lately. */
const minPatienceMs = 250
const patienceFactor = 8

/** How many calls that need more time run at once, besides the batches. */
const maxSlowCalls = 2

/** With less time left, a call isn't tried again: cancelling takes time as well. */
const minSlowMs = 1_250

/** How often calls that have waited too long are looked for. */
const expiryIntervalMs = 250

/**
 * A call on an idle batcher is dispatched at the end of the tick, together with all calls of that tick. Calls that are made
 * while the maximum number of batches is in flight wait, and then go together. Calls with one key run one after another, in
 * their order. Taking a batch costs what the batch holds, however many calls wait.
 */
export class Batcher<V, R> implements Watched {
  readonly #options: BatcherOptions<V, R>
  readonly #queue: CallQueue<V, PendingCall<V, R>>
  /** Calls that were overdue. */
  #slow: PendingCall<V, R>[] = []
  #slowInFlight = 0
  #inFlight = 0
  #isScheduled = false
  /** When the last batch was dispatched, and whether a timer is to dispatch another before it is done. */
  #dispatchedAt = 0
  #isDelayed = false
  /** What a batch takes, lately. */
  #typicalMs = 0
  dueAt = 0
  #isWatched = false

  constructor(options: BatcherOptions<V, R>) {
    this.#options = options
    this.#queue = new CallQueue(options)
  }

  /** How long the oldest call that waits to run has waited, in ms. */
  get oldestWaitMs(): number {
    const { maxWaitMs = Infinity } = this.#options
    const [slow] = this.#slow
    const started = Math.min(this.#queue.first?.startBy ?? Infinity, slow?.startBy ?? Infinity) - maxWaitMs
    return Number.isFinite(started) ? Math.max(0, performance.now() - started) : 0
  }

  /** `deadline`: if the call is a part of another, when that must have settled. */
  add(key: string, value: V, deadline?: number): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      const { maxWaitMs = Infinity, maxRunMs = Infinity } = this.#options
      const startBy = deadline ?? tickNow() + maxWaitMs
      const end = deadline ?? startBy + maxRunMs
      this.#enqueue({ key, value, startBy, deadline: end, overdue: 0, resolve, reject })
    })
  }

  #enqueue(call: PendingCall<V, R>): void {
    const queue = this.#queue
    if (!queue.hasRoomFor(call.value)) {
      const error = busyError(`${queue.totalSize} characters of sessions wait to be written`)
      this.#reject(call, error)
      this.#options.onSettled?.([call], [error])
    } else if (queue.add(call)) this.#schedule()
  }

  /** Dispatches on nextTick: that collects all calls of this tick without delaying I/O. */
  #schedule(): void {
    if (this.#isScheduled) return
    if (!this.#mayDispatch()) {
      this.#delay()
      return
    }
    this.#isScheduled = true
    process.nextTick(() => {
      this.#isScheduled = false
      this.#dispatchReady()
    })
  }

  #dispatchReady(): void {
    while (this.#queue.readyCount > 0 && this.#mayDispatch()) void this.#dispatch(this.#queue.take())
    if (this.#queue.readyCount > 0) this.#delay()
  }

  #mayDispatch(): boolean {
    const { maxBatchSize, maxConcurrentBatches } = this.#options
    if (this.#inFlight === 0) return true
    if (this.#inFlight >= maxConcurrentBatches) return false
    return this.#queue.readyCount >= maxBatchSize || performance.now() >= this.#overlapsAt
  }

  /** When a batch that isn't full may run besides the last one. */
  get #overlapsAt(): number {
    const ms = Math.min(Math.max(this.#typicalMs * overlapFactor, minOverlapMs), maxOverlapMs)
    return this.#dispatchedAt + ms
  }

  #delay(): void {
    this.#watchQueue()
    if (this.#isDelayed || this.#inFlight >= this.#options.maxConcurrentBatches) return
    this.#isDelayed = true
    const dispatch = (): void => {
      this.#isDelayed = false
      this.#dispatchReady()
    }
    setTimeout(dispatch, this.#overlapsAt - performance.now()).unref()
  }

  async #dispatch(calls: PendingCall<V, R>[]): Promise<void> {
    this.#inFlight++
    const startedAt = performance.now()
    this.#dispatchedAt = startedAt
    const overdue = await this.#run(calls)
    if (overdue.length === 0) this.#typicalMs += (performance.now() - startedAt - this.#typicalMs) / 4
    else await this.#divide(overdue)
    this.#inFlight--
    if (this.#queue.readyCount > 0) this.#schedule()
  }

  /** Runs a batch once and settles its calls, except those that were overdue, which it returns. */
  async #run(calls: PendingCall<V, R>[], isPatient = false): Promise<PendingCall<V, R>[]> {
    const { run, canBisect, isOverdue } = this.#options
    const deadline = earliestDeadline(calls)
    const statementMs = isOverdue === undefined || isPatient ? undefined : this.#patienceMs
    const limit = statementMs === undefined ? { deadline } : { deadline, statementMs }
    const results = await bisect(calls, (some) => run(some, limit), canBisect)
    if (isOverdue === undefined || statementMs === undefined || !results.some(isOverdue)) {
      this.#settleAll(calls, results)
      return []
    }
    const isLate = results.map(isOverdue)
    this.#settleAll(
      calls.filter((_, n) => !isLate[n]),
      results.filter((_, n) => !isLate[n]),
    )
    return calls.filter((_, n) => isLate[n])
  }

  /** `undefined`: the whole time. */
  get #patienceMs(): number | undefined {
    const ms = Math.max(minPatienceMs, this.#typicalMs * patienceFactor)
    return ms < (this.#options.maxRunMs ?? 0) ? ms : undefined
  }

  /**
   * Finds those that a batch had to wait for: in groups, then one by one. If every group has to wait, no single call is to
   * blame, and all have the whole time.
   */
  async #divide(calls: PendingCall<V, R>[]): Promise<void> {
    if (calls.length === 1) return this.#setAside(calls[0] as PendingCall<V, R>)
    const size = Math.floor(Math.sqrt(calls.length))
    const groups: PendingCall<V, R>[][] = []
    for (let n = 0; n < calls.length; n += size) groups.push(calls.slice(n, n + size))
    const overdue = await Promise.all(groups.map((group) => this.#run(group)))
    if (groups.length > 3 && overdue.every((some) => some.length > 0)) {
      this.#typicalMs = this.#options.maxRunMs ?? 0
      await this.#run(overdue.flat(), true)
    } else await Promise.all(overdue.map((some) => (some.length > 0 ? this.#divide(some) : undefined)))
  }

  /** Lets a call wait for what it has to wait for beside the batches, in turns that double. */
  #setAside(call: PendingCall<V, R>): void {
    call.overdue++
    this.#slow.push(call)
    this.#dispatchSlow()
  }

  #dispatchSlow(): void {
    while (this.#slowInFlight < maxSlowCalls) {
      const call = this.#slow.shift()
      if (call === undefined) return
      void this.#runSlow(call)
    }
    if (this.#slow.length > 0) this.#watchQueue()
  }

  async #runSlow(call: PendingCall<V, R>): Promise<void> {
    const { run, canBisect, isOverdue } = this.#options
    this.#slowInFlight++
    const limit = { deadline: call.deadline, statementMs: minPatienceMs * 2 ** call.overdue }
    const results = await bisect([call], (calls) => run(calls, limit), canBisect)
    this.#slowInFlight--
    if (isOverdue?.(results[0]) && performance.now() + minSlowMs < call.deadline) this.#setAside(call)
    else {
      this.#settleAll([call], results)
      this.#dispatchSlow()
      if (this.#queue.readyCount > 0) this.#schedule()
    }
  }

  #settleAll(calls: readonly PendingCall<V, R>[], results: readonly Result<R>[]): void {
    const { onSettled } = this.#options
    let late = 0
    for (let n = 0; n < calls.length; n++) {
      const call = calls[n] as PendingCall<V, R>
      const result = results[n]
      if (result instanceof Error) this.#reject(call, result)
      else if (result instanceof Promise) late++
      else call.resolve(result as R)
      this.#release(call)
    }
    if (late > 0) this.#settleLater(calls, results)
    else if (calls.length > 0) onSettled?.(calls, results as readonly (R | Error)[])
  }

  /** For a batch some of whose results are promises: these calls are settled when their promises are. */
  #settleLater(calls: readonly PendingCall<V, R>[], results: readonly Result<R>[]): void {
    const { onSettled } = this.#options
    const settled: PendingCall<V, R>[] = []
    const values: (R | Error)[] = []
    for (const [n, call] of calls.entries()) {
      const result = results[n] as Result<R>
      if (result instanceof Promise)
        void result.catch(asError).then((value) => {
          if (value instanceof Error) this.#reject(call, value)
          else call.resolve(value)
          onSettled?.([call], [value])
        })
      else {
        settled.push(call)
        values.push(result)
      }
    }
    if (settled.length > 0) onSettled?.(settled, values)
  }

  #reject(call: PendingCall<V, R>, error: Error): void {
    const { toError } = this.#options
    call.reject(toError === undefined ? error : toError(error, call))
  }

  /** The next call for its key becomes ready; after a slow one it waits aside as well. */
  #release(call: PendingCall<V, R>): void {
    const next = this.#queue.release(call)
    if (next === undefined) return
    if (call.overdue > 0) this.#setAside(next)
    else this.#queue.makeReady(next)
  }

  #watchQueue(): void {
    if (this.#isWatched || this.#options.maxWaitMs === undefined) return
    this.#isWatched = true
    this.dueAt = performance.now() + expiryIntervalMs
    watch(this)
  }

  /** Rejects calls that have waited too long. */
  onDue(): void {
    this.#isWatched = false
    const now = performance.now()
    const isExpired = ({ overdue, deadline, startBy }: PendingCall<V, R>): boolean =>
      now >= (overdue > 0 ? deadline : startBy)
    const error = busyError(waitedTooLong)
    const waiting = this.#queue.removeWaiting(isExpired)
    for (const call of waiting) this.#reject(call, error)
    if (waiting.length > 0)
      this.#options.onSettled?.(
        waiting,
        waiting.map(() => error),
      )
    const expired = [...this.#queue.removeReady(isExpired), ...this.#slow.filter(isExpired)]
    this.#slow = this.#slow.filter((call) => !isExpired(call))
    this.#settleAll(
      expired,
      expired.map(() => error),
    )
    if (this.#queue.readyCount > 0) this.#schedule()
    if (this.#queue.readyCount > 0 || this.#slow.length > 0) this.#watchQueue()
  }
}

const waitedTooLong = 'the call waited too long for those before it'

/** Calls of one batch share it. */
function earliestDeadline(calls: readonly { readonly deadline: number }[]): number {
  let earliest = Number.POSITIVE_INFINITY
  for (const { deadline } of calls) if (deadline < earliest) earliest = deadline
  return earliest
}

function busyError(reason: string): Error {
  return Object.assign(new Error(`the session store is busy: ${reason}`), { code: busyCode })
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
