// Commits changes of sessions together with their notifications, and flushes them.
import { isQueueFull, notifySql } from '../notifications/heartbeat.js'
import { clearPayload } from '../notifications/payload.js'
import { type Connection, noResponseCode, type Statement } from '../postgres/connection.js'
import { retryConflicts } from '../postgres/retry.js'
import type { Table } from '../schema/table.js'
import { separator } from '../session/session-id.js'
import type { Row } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { messageOf, redact } from '../util/driver-errors.js'
import { withTimeout } from '../util/timeout.js'
import { recordSql } from './announce-sql.js'
import { Announcer } from './announcer.js'
import { isOverdue } from './batching.js'
import type { CitusStatements } from './citus-statements.js'
import { LogFlusher } from './log-flusher.js'
import { type PreparedStatements, prepareAll } from './prepared-statements.js'
import { type Change, mustFlush, notifiedChanges, toChanges } from './row-mapper.js'
import type { SessionStatements } from './session-statements.js'

export interface CommitterOptions {
  readonly connection: Connection
  readonly table: Table
  readonly channel: string
  readonly statements: SessionStatements | CitusStatements
  /** The statements for changes that the server's queue has no room to announce. */
  readonly unannouncing: SessionStatements | CitusStatements
  /** Returns a suffix for the payload of the next notification: a heartbeat of this process's listener, or nothing. */
  readonly payloadSuffix: () => string
  /** Called when the server's queue of notifications was full. */
  readonly onQueueFull: () => void
}

/** How long changes are made without notifications after the server's queue of them was full. */
const queueFullMs = 1_000

/** The statements that change sessions. */
export type ChangeName = Exclude<
  keyof PreparedStatements,
  `read${string}` | `flush${string}` | `touch${string}` | 'lockUser' | 'surplus'
>

export class Committer {
  readonly statements: PreparedStatements
  readonly #unannouncing: PreparedStatements
  readonly #connection: Connection
  readonly #table: Table
  readonly #channel: string
  readonly #flusher: LogFlusher
  readonly #announcer: Announcer
  readonly #notifiesInline: boolean
  readonly #payloadSuffix: () => string
  readonly #onQueueFull: () => void
  /** Until when changes are made without notifications. */
  #queueFullUntil = 0
  /** The number of changes that other processes were notified of. */
  announced = 0

  constructor(options: CommitterOptions) {
    const { connection, table, channel, statements, unannouncing, payloadSuffix, onQueueFull } = options
    this.#connection = connection
    this.#table = table
    this.#channel = channel
    this.statements = prepareAll(statements)
    this.#unannouncing = prepareAll(unannouncing)
    this.#notifiesInline = statements.notifiesInline
    this.#payloadSuffix = payloadSuffix
    this.#onQueueFull = onQueueFull
    this.#flusher = new LogFlusher(() => connection.query(this.statements.flush))
    // Nothing has to reach the disk, and a commit that waits for it would hold PostgreSQL's lock on notifications.
    const notify = `select pg_notify($1, payload), set_config('synchronous_commit', 'off', true) from unnest($2::text[]) as payload`
    this.#announcer = new Announcer((payloads) =>
      this.unlessQueueIsFull((announces) =>
        announces ? connection.query(notify, [channel, payloads]) : connection.query(recordSql(table.name)),
      ),
    )
  }

  /** Makes a change. Resolves when it is committed, flushed and announced. */
  async change(
    change: ChangeName | Statement,
    values: readonly unknown[],
    limit?: TimeLimit,
  ): Promise<readonly Change[]> {
    const commit = (announces: boolean): Promise<Row[]> =>
      this.#commit(this.statement(change, announces), this.withSuffix(values, announces), limit)
    const rows = await this.redacting(values, () => this.unlessQueueIsFull(commit))
    if (this.#table.isDistributed) await this.announceCommitted(rows, limit)
    const { changes, announced } = toChanges(rows)
    this.announced += announced
    return changes
  }

  /**
   * Makes a change with its notification, or without one if the server's queue of notifications is full: that has rolled the
   * change back. Tries again with notifications a second later.
   */
  async unlessQueueIsFull<T>(change: (announces: boolean) => Promise<T>): Promise<T> {
    if (this.#queueFullUntil === 0 || performance.now() > this.#queueFullUntil)
      try {
        return await change(true)
      } catch (error) {
        if (!isQueueFull(error)) throw error
        this.#queueFullUntil = performance.now() + queueFullMs
        this.#onQueueFull()
      }
    return change(false)
  }

  /** Returns the statement of this name, with or without a notification. */
  statement(change: ChangeName | Statement, announces: boolean): Statement {
    return typeof change === 'string'
      ? ((announces ? this.statements : this.#unannouncing)[change] as Statement)
      : change
  }

  /**
   * Announces a change of a table that Citus has distributed, which is the commit of one shard by then. A transaction that also
   * notified would take three more round trips and, if several shards had changed, a two-phase commit, whose second phase a
   * failing worker may see a minute later.
   */
  announceCommitted(rows: readonly Row[], limit: TimeLimit | undefined): Promise<void> {
    const announced = this.#announcer.announce(notifiedChanges(rows))
    return finished(announced, limit, 'the change was not announced')
  }

  /**
   * The flush goes along on the connection that made the change. If the server crashes or fails over between the two, that
   * connection is lost, and no flush on a new one can acknowledge a change that is lost.
   */
  async #commit(
    statement: Statement,
    values: readonly unknown[],
    limit: TimeLimit | undefined,
  ): Promise<Row[]> {
    const { pipeline } = this.#connection
    if (pipeline === undefined || !this.#table.canFlush) {
      const rows = await this.#connection.query(statement, values, limit)
      if (mustFlush(rows)) await this.#flush(limit)
      return rows
    }
    const { flushIfAsked, flush } = this.statements
    const [rows, flushed] = await pipeline.call(
      this.#connection,
      statement,
      values,
      flushIfAsked,
      mustFlush,
      flush,
      limit,
    )
    if (flushed instanceof Error && (mustFlush(rows) || isOverdue(flushed))) return throwNotDurable(flushed)
    if (!mustFlush(rows) || flushed instanceof Error) return rows
    // A pooler may have run the two on different connections.
    if (flushed[0]?.flushed !== true) await this.#flush(limit)
    return rows
  }

  #flush(limit: TimeLimit | undefined): Promise<void> {
    return finished(this.#flusher.flush(), limit, 'the log was not flushed')
  }

  /** Returns the parameters of a statement that changes sessions. */
  withSuffix(values: readonly unknown[], announces: boolean): readonly unknown[] {
    return this.#notifiesInline && announces ? [...values, this.#payloadSuffix()] : values
  }

  /** Makes every instance clear its cache. */
  async announceClear(): Promise<void> {
    await this.unlessQueueIsFull((announces) =>
      announces
        ? this.#connection.query(notifySql, [this.#channel, clearPayload])
        : this.#connection.query(recordSql(this.#table.name)),
    )
  }

  /** Runs a statement that changes no session. */
  run(statement: Statement, values: readonly unknown[], limit?: TimeLimit): Promise<Row[]> {
    return this.redacting(values, () => this.#connection.query(statement, values, limit))
  }

  /** Calls that share a statement share its error, which must not show them each other's ids and sessions. */
  async redacting<T>(values: readonly unknown[], work: () => Promise<T>): Promise<T> {
    try {
      return await retryConflicts(work)
    } catch (error) {
      throw redactValues(error, values)
    }
  }
}

/** Returns the error of a statement without the values that it was given. */
export function redactValues(error: unknown, values: readonly unknown[]): Error {
  return redact(
    error,
    values.flatMap((value) => String(value).split(separator)),
  )
}

/** Waits for what follows a change, no longer than its call may take. */
async function finished(
  work: Promise<void>,
  limit: TimeLimit | undefined,
  description: string,
): Promise<void> {
  const ms = limit === undefined ? undefined : Math.max(0, limit.deadline - performance.now())
  await (ms === undefined ? work : withTimeout(work, ms, description)).catch(throwNotDurable)
}

/** The change was made. Its batch must not be repeated, as it would be if it had been cancelled. */
export function throwNotDurable(error: unknown): never {
  throw isOverdue(error) ? Object.assign(new Error(messageOf(error)), { code: noResponseCode }) : error
}
