// Limits of the batches that concurrent calls are joined into.
import { isQueueFull } from '../notifications/heartbeat.js'
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
  maxConcurrentBatches,
  canBisect: (error: unknown): boolean =>
    error instanceof EncodeError || (rowErrorCodes.test(codeOf(error) ?? '') && !isQueueFull(error)),
}
