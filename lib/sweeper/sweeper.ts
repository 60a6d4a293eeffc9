// Deletes what has expired, in batches, one instance of all at a time.
import { setTimeout as sleep } from 'node:timers/promises'
import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import type { Table } from '../schema/table.js'
import { parse } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { DecodeError } from '../types/errors.js'
import type { Codec, Row } from '../types/options.js'
import type { ExpiredSession, SweepResult } from '../types/results.js'
import { codeOf, messageOf, redact } from '../util/driver-errors.js'
import { SweepLock } from './sweep-lock.js'
import { type ExpiryLimits, SweepStatements } from './sweep-statements.js'

/** How long a batch is to take: a longer one is followed by a smaller one. */
const targetBatchMs = 20

/** The same for one whose sessions are shown to somebody first. */
const targetHookBatchMs = 1_000

/**
 * How long to do nothing after a batch, for each ms that it took: with the server to itself, and when others were at work
 * lately. Then a sweep takes a third of the time of one connection, and a big one writes no more at once than disks bear.
 */
const idlePauseFactor = 1 / 4
const busyPauseFactor = 2
const contentionWindowMs = 1_000

/** How many pages the first batch has, and any batch at most. */
const firstPages = 32
const maxPages = 4_096

/** How many sessions are read at a time: each may have a megabyte. */
const readBatchSize = 50

/** How long an `onExpired` that is under way is waited for when the sweep is to stop: it may be waiting for that itself. */
const hookShutdownTimeoutMs = 10_000

/** How many reasons why sessions can't be decoded are told. */
const maxReportedCauses = 3

/** PostgreSQL's code for: no lock in time. */
const lockTimeoutCode = '55P03'

export interface SweeperOptions {
  readonly connection: Connection
  readonly limits: ExpiryLimits
  /** What made a column of a session; for `onExpired` alone. */
  readonly codec?: Codec | undefined
  /** How many sessions a batch deletes, about. */
  readonly batchSize: number
  /** Who is to see each session before it goes; asked for anew at each sweep. A rejection keeps the session. */
  readonly onExpired: () => ((session: ExpiredSession) => unknown) | undefined
  /** How far it is, between 0 and 1. */
  readonly onProgress?: (done: number, soFar: SweepResult) => void
  readonly onSwept?: (result: SweepResult) => void
  readonly warn: (error: Error) => void
}

/** One sweep, as it goes. */
interface Sweep {
  readonly statements: SweepStatements
  readonly lock: SweepLock | undefined
  readonly onExpired: ((session: ExpiredSession) => unknown) | undefined
  readonly startedAt: number
  /** When others were last seen at work. */
  lastContentionAt: number
  deleted: number
  batches: number
  /** Sessions that can't be decoded, and what was said of them. */
  undecoded: number
  readonly causes: Set<string>
}

export class Sweeper {
  readonly #options: SweeperOptions
  readonly #stop = new AbortController()
  #running: Promise<SweepResult | undefined> | undefined

  constructor(options: SweeperOptions) {
    this.#options = options
  }

  /**
   * Sweeps, or waits for the sweep that is under way here. Answers `undefined` if another instance is at it, or has been
   * within `unlessWithin` ms. Rejects if the database can't be asked; what was deleted until then stays so.
   */
  run(table: Table, unlessWithin = 0): Promise<SweepResult | undefined> {
    this.#running ??= this.#run(table, unlessWithin).finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  /** Ends the sweep that is under way after its batch; waits for that. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.allSettled([this.#running])
  }

  async #run(table: Table, unlessWithin: number): Promise<SweepResult | undefined> {
    const { connection, limits: ends } = this.#options
    const statements = new SweepStatements(table, ends)
    const lock = await this.#lock(table)
    if (lock === 'taken') return undefined
    try {
      const [last] = await connection.query(statements.lastSweep)
      const ago = last?.ago as number | undefined
      if (ago !== undefined && ago >= 0 && ago < unlessWithin) return undefined
      const onExpired = this.#options.onExpired()
      const sweep: Sweep = {
        ...{ statements, lock, onExpired, startedAt: performance.now() },
        ...{ deleted: 0, batches: 0, lastContentionAt: Number.NEGATIVE_INFINITY },
        ...{ undecoded: 0, causes: new Set<string>() },
      }
      try {
        if (table.hasPages) await this.#pageByPage(sweep, table)
        else if (onExpired) await this.#deleteAfterHook(sweep, [])
        else await this.#byIds(sweep)
      } finally {
        this.#warnOfUndecoded(sweep)
      }
      const result = resultOf(sweep)
      if (!this.#stop.signal.aborted) await connection.query(statements.recordSweep, [JSON.stringify(result)])
      this.#options.onSwept?.(result)
      return result
    } finally {
      await lock?.release()
    }
  }

  /** A query function can hold none, but sees that another does. */
  async #lock({ name }: Table): Promise<SweepLock | 'taken' | undefined> {
    const { clientConfig, connectTimeoutMs: connectMs, query } = this.#options.connection
    if (clientConfig) return (await SweepLock.take(clientConfig, name, connectMs)) ?? 'taken'
    const text = `select pg_try_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1)) as held`
    const [row] = await query.call(this.#options.connection, text, [`sweep ${name}`])
    return row?.held === true ? undefined : 'taken'
  }

  /**
   * Through the table from its first page to its last. No index leads to what has expired: one that is kept in order of
   * `expiry` makes every touch ten times as dear (see bench/experiments/sweep.ts), and PostgreSQL reads 2 million sessions a second.
   */
  async #pageByPage(sweep: Sweep, { name }: Table): Promise<void> {
    const { connection, batchSize } = this.#options
    const [size] = await connection.query(sweep.statements.pages, [name])
    const pages = size?.pages as number
    let count = firstPages
    for (let page = 0; page < pages && !this.#stop.signal.aborted; ) {
      const end = Math.min(page + count, pages)
      const range = [`(${page},0)`, `(${end},0)`]
      const start = performance.now()
      const before = sweep.deleted
      let took = 0
      if (sweep.onExpired) {
        await this.#deleteAfterHook(sweep, range, end / pages)
        took = ((performance.now() - start) * targetBatchMs) / targetHookBatchMs
      } else {
        const deleted = await this.#deleteRange(sweep, range)
        took = performance.now() - start
        await this.#finishBatch(sweep, deleted, took, end / pages)
      }
      const factor = Math.min(targetBatchMs / took, batchSize / (sweep.deleted - before), 2)
      count = Math.max(1, Math.min(maxPages, Math.floor((end - page) * factor)))
      page = end
    }
  }

  async #deleteRange(sweep: Sweep, range: string[]): Promise<number> {
    const { connection } = this.#options
    const { statements } = sweep
    const deleted = async (text: string): Promise<number> => {
      const [row] = await connection.query(text, range)
      if (row?.others === true) sweep.lastContentionAt = performance.now()
      return row?.deleted as number
    }
    try {
      return await deleted(statements.deleteRange)
    } catch (error) {
      if (codeOf(error) !== lockTimeoutCode) throw error
      return deleted(statements.deleteUnlockedInRange)
    }
  }

  /** Where rows can't be found by their place: as many as make a batch, wherever they are. */
  async #byIds(sweep: Sweep): Promise<void> {
    const { connection, batchSize } = this.#options
    const { find, deleteFound } = sweep.statements
    for (let found = batchSize, deleted = 1; found === batchSize && deleted > 0; ) {
      if (this.#stop.signal.aborted) return
      const start = performance.now()
      const ids = (await connection.query(find, [batchSize])).map(({ id }) => id)
      found = ids.length
      deleted = found === 0 ? 0 : (await connection.query(deleteFound, [ids])).length
      await this.#finishBatch(sweep, deleted, performance.now() - start, 0)
    }
  }

  /** Shows each session before it goes; deletes those that were seen, many at a time. */
  async #deleteAfterHook(sweep: Sweep, range: string[], done = 0): Promise<void> {
    const { batchSize } = this.#options
    let seen: Row[] = []
    let took = 0
    let start = performance.now()
    for await (const rows of this.#read(sweep, range)) {
      took += performance.now() - start
      for (const row of await this.#runHook(sweep, rows)) seen.push(row)
      if (this.#stop.signal.aborted) break
      start = performance.now()
      if (seen.length < batchSize) continue
      await this.#deleteSeen(sweep, seen, took, done)
      seen = []
      took = 0
      start = performance.now()
    }
    await this.#deleteSeen(sweep, seen, took, done)
  }

  async #deleteSeen(sweep: Sweep, seen: Row[], took: number, done: number): Promise<void> {
    const start = performance.now()
    let deleted = 0
    if (seen.length > 0) {
      const values = ['at', 'id', 'version'].map((name) => seen.map((row) => row[name]))
      deleted = (await this.#options.connection.query(sweep.statements.deleteRead, values)).length
    }
    await this.#finishBatch(sweep, deleted, took + performance.now() - start, done)
  }

  async *#read({ statements, lock }: Sweep, range: string[]): AsyncGenerator<Row[]> {
    if (lock) return yield* lock.read(statements.read, range, readBatchSize)
    const { connection } = this.#options
    for (let rows: Row[] = [{ id: '' }]; rows.length > 0; ) {
      const after = rows.at(-1)?.id
      rows = await connection.query(statements.readSome, [...range, after, readBatchSize])
      if (rows.length > 0) yield rows
    }
  }

  /** Those that nobody objects to. */
  async #runHook(sweep: Sweep, rows: Row[]): Promise<Row[]> {
    const { onExpired } = sweep
    const seen: Row[] = []
    const errors: unknown[] = []
    for (const row of rows) {
      if (this.#stop.signal.aborted) break
      try {
        const session = row.session === null ? undefined : parse(await this.#text(row))
        if (session && onExpired) await this.#withShutdownTimeout(onExpired(expired(row, session)))
        seen.push({ at: row.at, id: row.id, version: row.version })
      } catch (error) {
        // Its key may come back: a session that nobody could be shown isn't deleted.
        if (error instanceof DecodeError) undecoded(sweep, error)
        else errors.push(redact(error, [row.id as string]))
      }
    }
    if (errors.length > 0)
      this.#options.warn(
        new Error(
          `onExpired failed for ${errors.length} expired session${errors.length === 1 ? '' : 's'}, kept for the next sweep: ${messageOf(errors[0])}`,
        ),
      )
    return seen
  }

  #text({ id, session }: Row): string | Promise<string> {
    const { codec } = this.#options
    return codec ? fromColumn(codec, session as string, { id: handleOf(id as string) }) : (session as string)
  }

  #warnOfUndecoded({ undecoded, causes }: Sweep): void {
    if (undecoded === 0) return
    const some = undecoded === 1 ? 'an expired session that' : `${undecoded} expired sessions that`
    this.#options.warn(
      new DecodeError(
        `${some} can’t be shown to onExpired ${undecoded === 1 ? 'is' : 'are'} kept for the next sweep: ${[...causes].join('; ')}`,
      ),
    )
  }

  async #withShutdownTimeout(work: unknown): Promise<void> {
    const { signal } = this.#stop
    let timer: NodeJS.Timeout | undefined
    let onAbort = (): void => undefined
    const late = new Promise<never>((_, reject) => {
      onAbort = () => {
        timer = setTimeout(
          () => reject(new Error('it did not answer while the store was closed')),
          hookShutdownTimeoutMs,
        )
      }
    })
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      await Promise.race([work, late])
    } finally {
      signal.removeEventListener('abort', onAbort)
      clearTimeout(timer)
    }
  }

  /** Counts a batch, and leaves the server to others for a while. */
  async #finishBatch(sweep: Sweep, deleted: number, took: number, done: number): Promise<void> {
    sweep.batches++
    sweep.deleted += deleted
    this.#options.onProgress?.(done, resultOf(sweep))
    // An aborted pause is the end, not an error.
    const { signal } = this.#stop
    const rest =
      performance.now() - sweep.lastContentionAt < contentionWindowMs ? busyPauseFactor : idlePauseFactor
    await sleep(took * rest, undefined, { signal, ref: false }).catch(() => undefined)
    await sweep.lock?.check()
  }
}

/** There may be a million of them, but few reasons. */
function undecoded(sweep: Sweep, { message }: DecodeError): void {
  sweep.undecoded++
  if (sweep.causes.size < maxReportedCauses) sweep.causes.add(message)
}

function resultOf({ deleted, batches, startedAt: began }: Sweep): SweepResult {
  return { deleted, batches, ms: Math.round(performance.now() - began) }
}

function expired(row: Row, session: ExpiredSession['session']): ExpiredSession {
  const date = (ms: unknown): Date | undefined => (typeof ms === 'number' ? new Date(ms) : undefined)
  return {
    session,
    userId: (row.user_id as string | null) ?? undefined,
    createdAt: date(row.created_at),
    lastAccessedAt: date(row.last_access),
    expiresAt: new Date(row.expiry as number),
  }
}
