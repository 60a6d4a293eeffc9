// Hands out the pool's clients: one queue for all that wait, which ends in time, and few attempts while no connection is to be had.
import type { Pool, PoolClient } from 'pg'
import { unwatch, type Watched, watch } from '../util/deadlines.js'
import { codeOf } from '../util/driver-errors.js'
import { CircuitBreaker } from './circuit-breaker.js'
import { noConnectionCode } from './connection.js'
import { Lease, type LeaseOptions } from './lease.js'

/** After the server has refused a further connection, none is opened beside those that work for this long. */
const refusedPauseMs = 1_000

/** For how long statements are not cancelled early after cancel requests were ignored. */
const cancelIgnoredMs = 60_000

interface Waiter extends Watched {
  readonly resolve: (lease: Lease) => void
  readonly reject: (error: unknown) => void
}

export interface LeaseQueueOptions {
  readonly pool: Pool
  readonly connectTimeoutMs: number
  readonly queryTimeoutMs: number
}

export class LeaseQueue {
  readonly breaker = new CircuitBreaker()
  readonly #pool: Pool
  readonly #connectTimeoutMs: number
  readonly #leaseOptions: LeaseOptions
  readonly #leases = new Set<Lease>()
  readonly #attempts = new Set<Watched>()
  /** In the order of their calls. */
  #waiters = new Set<Waiter>()
  /** Fewer than the pool's maximum until this time, since the server refused another connection. */
  #reducedUntil = 0
  #reducedMax = 0
  #cancelIgnoredUntil = 0

  constructor({ pool, connectTimeoutMs, queryTimeoutMs }: LeaseQueueOptions) {
    this.#pool = pool
    this.#connectTimeoutMs = connectTimeoutMs
    this.#leaseOptions = {
      pool,
      breaker: this.breaker,
      queryTimeoutMs,
      cancelTimeoutMs: Math.min(1_000, connectTimeoutMs / 2),
      onReleased: (lease) => {
        this.#leases.delete(lease)
        if (this.breaker.isOpen) this.#retireIdle()
        this.#fill()
      },
      onCancelIgnored: () => {
        this.#cancelIgnoredUntil = performance.now() + cancelIgnoredMs
      },
      ignoresCancel: () => performance.now() < this.#cancelIgnoredUntil,
    }
  }

  /** Resolves with a client, or rejects in time: at once while the server is known to be unreachable. */
  acquire(deadline = Number.POSITIVE_INFINITY): Promise<Lease> {
    return new Promise((resolve, reject) => {
      this.breaker.enter()
      const waiter: Waiter = {
        dueAt: Math.min(performance.now() + this.#connectTimeoutMs, deadline),
        resolve,
        reject,
        onDue: () => {
          this.#waiters.delete(waiter)
          reject(this.#noConnection())
        },
      }
      this.#waiters.add(waiter)
      watch(waiter)
      this.#fill()
    })
  }

  /** Whether a statement would have to wait for a connection. */
  get isFull(): boolean {
    const { idleCount, totalCount, options } = this.#pool
    return (idleCount === 0 && totalCount >= options.max) || this.#leases.size >= this.#max
  }

  /** Closes the connections that are in use: their statements reject. */
  drop(): void {
    this.#rejectAll(new Error('the session store is closed'))
    for (const lease of this.#leases) lease.drop()
  }

  get #max(): number {
    return performance.now() < this.#reducedUntil ? this.#reducedMax : this.#pool.options.max
  }

  /** Asks the pool for as many clients as are waited for, up to the maximum. */
  #fill(): void {
    while (this.#attempts.size < this.#waiters.size && this.#attempts.size + this.#leases.size < this.#max)
      this.#attempt()
  }

  #attempt(): void {
    const { idleCount, totalCount, options } = this.#pool
    const opensConnection = idleCount <= this.#attempts.size && totalCount < options.max
    const startedAt = performance.now()
    const attempt: Watched = {
      dueAt: startedAt + this.#connectTimeoutMs,
      onDue: () => {
        end()
        if (opensConnection) this.#fail(startedAt, this.#noConnection())
        else this.#fill()
      },
    }
    const end = (): boolean => {
      unwatch(attempt)
      return this.#attempts.delete(attempt)
    }
    this.#attempts.add(attempt)
    watch(attempt)
    this.#pool.connect((error, client) => {
      const isInTime = end()
      if (client !== undefined) this.#give(client)
      else if (isInTime) {
        // The pool's own limit, or pg's.
        const isTimeout = error !== undefined && codeOf(error) === undefined && /time/.test(error.message)
        const reason = error === undefined || isTimeout ? this.#noConnection() : error
        if (opensConnection) this.#fail(startedAt, reason)
        else {
          this.#rejectFirst(reason)
          this.#fill()
        }
      }
    })
  }

  /** In the pool's callback; see `Lease`. A client that comes too late goes back unused. */
  #give(client: PoolClient): void {
    const [waiter] = this.#waiters
    if (waiter === undefined) {
      client.release()
      return
    }
    this.#waiters.delete(waiter)
    unwatch(waiter)
    const lease = new Lease(client, this.#leaseOptions)
    this.#leases.add(lease)
    waiter.resolve(lease)
  }

  /** No connection was to be had. Those that wait are served by the connections that work, if there are any. */
  #fail(startedAt: number, error: Error): void {
    const isRefused = codeOf(error) === '53300'
    const working = this.#leases.size + this.#pool.idleCount
    if (working > 0 && (isRefused || !this.breaker.fail(startedAt, error))) {
      this.#reducedMax = working
      this.#reducedUntil = performance.now() + refusedPauseMs
    } else if (this.breaker.fail(startedAt, error)) {
      this.#retireIdle()
      this.#rejectAll(error)
    } else this.#rejectFirst(error)
    this.#fill()
  }

  /** Idle connections to a server that doesn't respond are as dead as the others: they would make later statements wait. */
  #retireIdle(): void {
    for (let n = this.#pool.idleCount; n > 0; n--) this.#pool.connect((_, client) => client?.release(true))
  }

  #rejectFirst(error: Error): void {
    const [waiter] = this.#waiters
    if (waiter === undefined) return
    this.#waiters.delete(waiter)
    unwatch(waiter)
    waiter.reject(error)
  }

  #rejectAll(error: Error): void {
    const waiters = this.#waiters
    this.#waiters = new Set()
    for (const waiter of waiters) {
      unwatch(waiter)
      waiter.reject(error)
    }
  }

  #noConnection(): Error {
    return Object.assign(new Error(`no connection to PostgreSQL within ${this.#connectTimeoutMs} ms`), {
      code: noConnectionCode,
    })
  }
}
