// Joins calls into batches of one shard each where Citus has distributed the table: such a batch is one worker's.
import { shardOf } from '../schema/shards.js'
import { Batcher, type BatcherOptions } from '../util/batcher.js'

/**
 * A batch at a time for each shard: calls that come meanwhile are joined. There are many shards, so that hardly one waits for
 * another session's lock; and a shard whose worker doesn't respond keeps few connections of the pool waiting.
 */
const maxConcurrentBatches = 1

/**
 * Returns a batcher for a table or, with the least hashes of its shards, one for each of them. Calls with one id go to the same
 * batcher.
 */
export function createBatcher<V, R>(
  options: BatcherOptions<V, R>,
  shardStarts: readonly number[] | undefined,
): Pick<Batcher<V, R>, 'add' | 'oldestWaitMs'> {
  if (shardStarts === undefined) return new Batcher(options)
  const count = Math.max(1, shardStarts.length)
  const { maxTotalSize = Number.POSITIVE_INFINITY } = options
  const shardOptions = { ...options, maxConcurrentBatches, maxTotalSize: maxTotalSize / count }
  const batchers = Array.from({ length: count }, () => new Batcher(shardOptions))
  return {
    add: (id, value, deadline) =>
      (batchers[shardOf(shardStarts, id)] as Batcher<V, R>).add(id, value, deadline),
    get oldestWaitMs() {
      return Math.max(...batchers.map((batcher) => batcher.oldestWaitMs))
    },
  }
}
