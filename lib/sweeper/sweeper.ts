// Deletes expired sessions in batches. One instance sweeps at a time.
import { setTimeout as sleep } from 'node:timers/promises'
import { AdvisoryLock } from '../postgres/advisory-lock.js'
import type { Connection } from '../postgres/connection.js'
import type { Table } from '../schema/table.js'
import type { Codec, Row } from '../types/options.js'
import type { ExpiredSession, SweepResult } from '../types/results.js'
import { codeOf, messageOf } from '../util/driver-errors.js'
import { retryConflicts } from '../util/retry-conflicts.js'
import { ExpiredHook } from './expired-hook.js'
import { type SweepLimits, SweepStatements } from './sweep-statements.js'

/** How long a batch should take: a slower one is followed by a smaller one. */
const targetBatchMs = 20

/** The same with `onExpired`. */
const targetHookBatchMs = 1_000

/**
 * How long to pause after a batch, for each ms that the batch took: if the server was idle, and if it served other clients
 * within the last `contentionWindowMs`. In the latter case a sweep uses a third of one connection's time, and writes no
 * faster than disks can take.
 */
const idlePauseFactor = 1 / 4
const busyPauseFactor = 2
const contentionWindowMs = 1_000

/** Pages in the first batch, and in the largest. */
const firstBatchPages = 32
const maxBatchPages = 4_096

/** Sessions read at a time: each may have a megabyte. */
const readBatchSize = 50

/** PostgreSQL's code for a lock that wasn't granted within lock_timeout. */
const lockTimeoutCode = '55P03'

/** PostgreSQL's code for a statement that took longer than statement_timeout. */
const queryCanceledCode = '57014'

export interface SweeperOptions {
  readonly connection: Connection
  readonly limits: SweepLimits
  /** Decodes sessions for `onExpired`. */
  readonly codec?: Codec | undefined
  /** About how many sessions one statement deletes. */
  readonly batchSize: number
  /**
   * Called at the start of a sweep. Returns the function to call with each session before it is deleted, if there is one.
   * If that function throws or rejects, the session is kept.
   */
  readonly onExpired: () => ((session: ExpiredSession) => unknown) | undefined
  /** Called after each batch, with the progress of the sweep between 0 and 1. */
  readonly onProgress?: (progress: number, result: SweepResult) => void
  readonly onSwept?: (result: SweepResult) => void
  readonly warn: (error: Error) => void
}

/** Whether the server allows no further connection, as the socket server of PGlite, which has one. */
function isRefused(error: unknown): boolean {
  return codeOf(error) === '53300' || messageOf(error).startsWith('Connection terminated')
}

/** The state of a running sweep. */
interface Sweep {
  readonly statements: SweepStatements
  readonly lock: AdvisoryLock | undefined
  readonly hook: ExpiredHook | undefined
  readonly startedAt: number
  /** When the server was last seen to serve other clients. */
  lastContentionAt: number
  deleted: number
  batches: number
}

export class Sweeper {
  readonly #options: SweeperOptions
  readonly #stop = new AbortController()
  #running: Promise<SweepResult | undefined> | undefined

  constructor(options: SweeperOptions) {
    this.#options = options
  }

  /**
   * Sweeps, or joins the sweep that is already running here. Resolves with `undefined` if another instance is sweeping, or
   * has swept within the last `unlessWithin` ms. Rejects if the database can't be used; what was deleted by then stays
   * deleted.
   */
  run(table: Table, unlessWithin = 0): Promise<SweepResult | undefined> {
    this.#running ??= this.#run(table, unlessWithin).finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  /** Ends a running sweep after its current batch. Resolves when it has ended. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.allSettled([this.#running])
  }

  async #run(table: Table, unlessWithin: number): Promise<SweepResult | undefined> {
    const { connection, limits } = this.#options
    const statements = new SweepStatements(table, limits)
    const lock = await this.#takeLock(table)
    if (lock === 'taken') return undefined
    try {
      const [last] = await connection.query(statements.lastSweep)
      const lastSweepAgo = last && Number(last.ago)
      if (lastSweepAgo !== undefined && lastSweepAgo >= 0 && lastSweepAgo < unlessWithin) return undefined
      const sweep: Sweep = {
        statements,
        lock,
        hook: this.#createHook(),
        startedAt: performance.now(),
        lastContentionAt: Number.NEGATIVE_INFINITY,
        deleted: 0,
        batches: 0,
      }
      try {
        if (table.hasPages) await this.#deleteByPages(sweep, table)
        else if (sweep.hook) await this.#deleteAfterHook(sweep, sweep.hook, [])
        else await this.#deleteByIds(sweep)
      } finally {
        sweep.hook?.warnOfUndecoded()
      }
      const result = resultOf(sweep)
      if (!this.#stop.signal.aborted)
        await retryConflicts(() => connection.query(statements.recordSweep, [JSON.stringify(result)]))
      this.#options.onSwept?.(result)
      return result
    } finally {
      await lock?.release()
    }
  }

  /**
   * A query function can't hold the lock for the whole sweep, and a server may have no connection left for it: then this only
   * checks that no other instance has it.
   */
  async #takeLock({ name }: Table): Promise<AdvisoryLock | 'taken' | undefined> {
    const { connection } = this.#options
    const { clientConfig, connectTimeoutMs } = connection
    if (clientConfig)
      try {
        return (
          (await AdvisoryLock.take({
            config: clientConfig,
            key: `sweep ${name}`,
            connectTimeoutMs,
            name: 'sweeper',
            keepsProcessAlive: true,
          })) ?? 'taken'
        )
      } catch (error) {
        if (!isRefused(error)) throw error
      }
    const text = `select pg_try_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1)) as held`
    const [row] = await connection.query(text, [`sweep ${name}`])
    return row?.held === true ? undefined : 'taken'
  }

  #createHook(): ExpiredHook | undefined {
    const { codec, warn } = this.#options
    const onExpired = this.#options.onExpired()
    return onExpired && new ExpiredHook({ onExpired, codec, warn, signal: this.#stop.signal })
  }

  /**
   * Goes through the table from its first page to its last. No index leads to expired rows: a b-tree on `expiry` would make
   * every touch ten times as expensive (see bench/experiments/sweep.ts), and PostgreSQL reads 2 million sessions a second.
   */
  async #deleteByPages(sweep: Sweep, { name }: Table): Promise<void> {
    const { connection, batchSize } = this.#options
    const [size] = await connection.query(sweep.statements.countPages, [name])
    const pages = Number(size?.pages)
    const targetMs = sweep.hook ? targetHookBatchMs : targetBatchMs
    let batchPages = firstBatchPages
    for (let page = 0; page < pages && !this.#stop.signal.aborted; ) {
      const end = Math.min(page + batchPages, pages)
      const range = [`(${page},0)`, `(${end},0)`]
      const progress = end / pages
      const deletedBefore = sweep.deleted
      const startedAt = performance.now()
      let elapsedMs: number
      try {
        if (sweep.hook) {
          await this.#deleteAfterHook(sweep, sweep.hook, range, progress)
          elapsedMs = performance.now() - startedAt
        } else {
          const deleted = await this.#deleteRange(sweep, range)
          elapsedMs = performance.now() - startedAt
          await this.#finishBatch(sweep, deleted, elapsedMs, progress)
        }
      } catch (error) {
        // The server limits how long a statement may take: fewer pages take less.
        if (codeOf(error) !== queryCanceledCode || end - page <= 1) throw error
        batchPages = Math.max(1, (end - page) >> 3)
        continue
      }
      const factor = Math.min(targetMs / elapsedMs, batchSize / (sweep.deleted - deletedBefore), 2)
      batchPages = Math.max(1, Math.min(maxBatchPages, Math.floor((end - page) * factor)))
      page = end
    }
  }

  async #deleteRange(sweep: Sweep, range: string[]): Promise<number> {
    const { connection } = this.#options
    const { statements } = sweep
    const execute = async (text: string): Promise<number> => {
      const [row] = await retryConflicts(() => connection.query(text, range))
      if (row?.contended === true) sweep.lastContentionAt = performance.now()
      return Number(row?.deleted)
    }
    try {
      return await execute(statements.deleteRange)
    } catch (error) {
      if (codeOf(error) !== lockTimeoutCode) throw error
      return execute(statements.deleteUnlockedInRange)
    }
  }

  /** For tables without pages: finds and deletes up to `batchSize` rows at a time. */
  async #deleteByIds(sweep: Sweep): Promise<void> {
    const { connection, batchSize } = this.#options
    const { findIds, deleteIds } = sweep.statements
    for (let found = batchSize, deleted = 1; found === batchSize && deleted > 0; ) {
      if (this.#stop.signal.aborted) return
      const startedAt = performance.now()
      const ids = (await retryConflicts(() => connection.query(findIds, [batchSize]))).map(({ id }) => id)
      found = ids.length
      deleted = found === 0 ? 0 : (await retryConflicts(() => connection.query(deleteIds, [ids]))).length
      await this.#finishBatch(sweep, deleted, performance.now() - startedAt, 0)
    }
  }

  /** Runs the hook for each session of a range of pages, or of the table; deletes in batches those it has handled. */
  async #deleteAfterHook(sweep: Sweep, hook: ExpiredHook, range: string[], progress = 0): Promise<void> {
    const { batchSize } = this.#options
    let handled: Row[] = []
    let elapsedMs = 0
    let startedAt = performance.now()
    for await (const rows of this.#read(sweep, range)) {
      elapsedMs += performance.now() - startedAt
      for (const row of await hook.run(rows)) handled.push(row)
      if (this.#stop.signal.aborted) break
      startedAt = performance.now()
      if (handled.length < batchSize) continue
      await this.#deleteHandled(sweep, handled, elapsedMs, progress)
      handled = []
      elapsedMs = 0
      startedAt = performance.now()
    }
    await this.#deleteHandled(sweep, handled, elapsedMs, progress)
  }

  /** `elapsedMs` is the time that reading the rows took. */
  async #deleteHandled(sweep: Sweep, handled: Row[], elapsedMs: number, progress: number): Promise<void> {
    const startedAt = performance.now()
    let deleted = 0
    if (handled.length > 0) {
      const values = ['at', 'id', 'version'].map((name) => handled.map((row) => row[name]))
      const { connection } = this.#options
      const rows = await retryConflicts(() => connection.query(sweep.statements.deleteUnchanged, values))
      deleted = rows.length
    }
    await this.#finishBatch(sweep, deleted, elapsedMs + performance.now() - startedAt, progress)
  }

  /** Each batch by a statement of its own: the server may limit how long one may take, and `onExpired` may take long. */
  async *#read({ statements }: Sweep, range: string[]): AsyncGenerator<Row[]> {
    const { connection } = this.#options
    const [first, end] = range
    for (let after: unknown = first ?? ''; ; ) {
      const values = end === undefined ? [after, readBatchSize] : [after, end, readBatchSize]
      const rows = await connection.query(statements.read, values)
      const last = rows.at(-1)
      if (last === undefined) return
      yield rows
      after = end === undefined ? last.id : last.at
    }
  }

  /** Counts a batch, pauses to leave the server to other clients, and checks that the lock is still held. */
  async #finishBatch(sweep: Sweep, deleted: number, elapsedMs: number, progress: number): Promise<void> {
    sweep.batches++
    sweep.deleted += deleted
    this.#options.onProgress?.(progress, resultOf(sweep))
    const isBusy = performance.now() - sweep.lastContentionAt < contentionWindowMs
    const pauseMs = elapsedMs * (isBusy ? busyPauseFactor : idlePauseFactor)
    const { signal } = this.#stop
    // Aborting rejects the pause, which ends the sweep without an error.
    await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
    await sweep.lock?.check()
  }
}

function resultOf({ deleted, batches, startedAt }: Sweep): SweepResult {
  return { deleted, batches, ms: Math.round(performance.now() - startedAt) }
}
