// Limits of the batches that concurrent calls are joined into.
import { isQueueFull } from '../notifications/heartbeat.js'
import { type Connection, cancelledCode } from '../postgres/connection.js'
import { EncodeError } from '../types/errors.js'
import { codeOf } from '../util/driver-errors.js'

/**
 * The maximum number of sessions that a statement reads or changes. Their digests and versions, of 43 and up to 16
 * characters, fit into the 8000 bytes of one notification.
 */
export const maxBatchSize = 128

/** The maximum number of characters of JSON that a statement of more than one session carries. */
const maxBatchChars = 4 * 1024 * 1024

/** More don't make it faster; with one, a statement that waits for the lock of a row would block all others. */
const maxConcurrentBatches = 4

/** SQLSTATE classes that one row of many can cause: bad data, constraints, deadlocks, limits. */
const rowErrorCodes = /^(21|22|23|40|54)/

/** The maximum number of characters of JSON that wait to be written; beyond that, saves are refused. */
const maxWaitingChars = 64 * 1024 * 1024

/** PostgreSQL's code for a lock that wasn't granted within `lock_timeout`. */
const lockTimeoutCode = '55P03'

/** Runs a batch of calls, counts it and publishes it to tracers. */
export type BatchObserver = <T>(
  operation: 'get' | 'set' | 'touch' | 'destroy',
  batchSize: number,
  run: () => Promise<T>,
) => Promise<T>

/** For the command line, which observes nothing. */
export const unobserved: BatchObserver = (_operation, _batchSize, run) => run()

/** Options of every `Batcher` of sessions. */
export const batching = {
  maxBatchSize,
  maxSize: maxBatchChars,
  maxTotalSize: maxWaitingChars,
  maxConcurrentBatches,
  canBisect: (error: unknown): boolean =>
    error instanceof EncodeError || (rowErrorCodes.test(codeOf(error) ?? '') && !isQueueFull(error)),
}

/** Their time limits: a call waits as long as a connection may take, and then has the time of a statement. */
export function timeLimits({ connectTimeoutMs, queryTimeoutMs }: Connection) {
  return { maxWaitMs: connectTimeoutMs, maxRunMs: queryTimeoutMs }
}

/** Whether a statement was given up, by us or by a limit of the server, because it had to wait: nothing was written. */
export function isOverdue(error: unknown): boolean {
  const code = codeOf(error)
  return code === cancelledCode || code === lockTimeoutCode
}
