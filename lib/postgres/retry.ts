// Repeats statements that failed because another transaction was faster.
import { codeOf } from '../util/driver-errors.js'

/**
 * PostgreSQL's codes for a serialization failure and a deadlock. In a partitioned table the first also means that the row
 * which a statement waited for was moved to another partition, as its id was replaced by its digest: the statement can't
 * follow it there, and finds it when it is repeated.
 */
const conflictCodes = new Set(['40001', '40P01'])

const maxAttempts = 5

/** Repeats `work`, which runs one statement or transaction, for as long as it was undone because of a conflict. */
export async function retryConflicts<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++)
    try {
      return await work()
    } catch (error) {
      if (attempt === maxAttempts || !conflictCodes.has(codeOf(error) ?? '')) throw error
    }
}
