// Tries again what PostgreSQL has rolled back because of a concurrent transaction.
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from './driver-errors.js'

/**
 * Serialization failure: with a default_transaction_isolation of repeatable read or serializable, any statement that meets a
 * concurrent change fails with it. And deadlock.
 */
const conflictCodes = new Set(['40001', '40P01'])

/** In all, so that a call settles in time. */
const maxMs = 5_000

const maxDelayMs = 50

/** `work` must do everything again: its transaction was rolled back. */
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
