// Repeats statements that failed because another transaction was faster.
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../util/driver-errors.js'

/**
 * PostgreSQL's codes for a serialization failure and a deadlock. With a default_transaction_isolation of repeatable read or
 * serializable, any statement that meets a concurrent change fails with the first. In a partitioned table it also means that
 * the row which a statement waited for was moved to another partition, as its id was replaced by its digest: the statement
 * can't follow it there, and finds it when it is repeated.
 */
const conflictCodes = new Set(['40001', '40P01'])

/** In all, so that a call settles in time: a batch that still conflicts is divided, and each half tried again. */
const maxMs = 2_000

const maxDelayMs = 50

/** Repeats `work`, which runs one statement or transaction, for as long as it was undone because of a conflict. */
export async function retryConflicts<T>(work: () => Promise<T>): Promise<T> {
  let startedAt: number | undefined
  for (let attempt = 1; ; attempt++)
    try {
      return await work()
    } catch (error) {
      if (!conflictCodes.has(codeOf(error) ?? '')) throw error
      startedAt ??= performance.now()
      if (performance.now() - startedAt > maxMs) throw error
      // At random, as two that have met would otherwise meet again.
      await sleep(Math.random() * Math.min(2 ** attempt, maxDelayMs))
    }
}
