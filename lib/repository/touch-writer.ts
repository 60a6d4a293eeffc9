// Writes touches to the table: one that a call waits for, or those that were deferred.
import { type Connection, cancelledCode } from '../postgres/connection.js'
import { joinValues } from '../postgres/sql-params.js'
import { inShards } from '../schema/shards.js'
import { separator } from '../session/session-id.js'
import type { Batcher } from '../util/batcher.js'
import type { TimeLimit } from '../util/deadlines.js'
import { type BatchObserver, batching, isOverdue, timeLimits } from './batching.js'
import type { Committer } from './committer.js'
import { toColumns } from './row-mapper.js'
import { createBatcher } from './sharded-batcher.js'
import type { Touch } from './touch-buffer.js'

export interface TouchWriterOptions {
  readonly connection: Connection
  readonly committer: Committer
  /** Where Citus has distributed the table: the least hashes of its shards, in order. */
  readonly shardStarts: readonly number[] | undefined
  readonly onBatch: BatchObserver
}

export class TouchWriter {
  readonly #committer: Committer
  readonly #shardStarts: readonly number[] | undefined
  readonly #batcher: Pick<Batcher<Touch, undefined>, 'add'>

  constructor({ connection, committer, shardStarts, onBatch }: TouchWriterOptions) {
    this.#committer = committer
    this.#shardStarts = shardStarts
    this.#batcher = createBatcher(
      {
        ...batching,
        ...timeLimits(connection),
        ...(connection.cancels && { isOverdue }),
        run: (calls, limit) =>
          onBatch('touch', calls.length, async () => {
            const touches = calls.map(({ value }) => value)
            // By itself or with all the time, a touch waits for a row that is locked.
            if (calls.length === 1 || limit.statementMs === undefined) {
              await committer.run(committer.statements.touch, touchValues(touches), limit)
              return touches.map(() => undefined)
            }
            const locked = await this.#writeUnlocked(touches, limit)
            return touches.map(({ id }) => (locked.has(id) ? rowIsLocked() : undefined))
          }),
      },
      shardStarts,
    )
  }

  /** Writes the last access of an active session and moves its expiry, never back. Waits if its row is locked. */
  write(touch: Touch): Promise<undefined> {
    return this.#batcher.add(touch.id, touch)
  }

  /** The same for many, each at most once in the list. Resolves with the ids of those that are locked, and weren't written. */
  async writeAll(touches: readonly Touch[], limit?: TimeLimit): Promise<ReadonlySet<string>> {
    const locked = await inShards(
      this.#shardStarts,
      touches,
      ({ id }) => id,
      (some) => this.#writeUnlocked(some, limit),
    )
    return new Set(locked.flatMap((ids) => [...ids]))
  }

  async #writeUnlocked(
    touches: readonly Touch[],
    limit: TimeLimit | undefined,
  ): Promise<ReadonlySet<string>> {
    const [row] = await this.#committer.run(
      this.#committer.statements.touchUnlocked,
      touchValues(touches),
      limit,
    )
    return new Set(typeof row?.locked === 'string' ? row.locked.split(separator) : [])
  }
}

function touchValues(touches: readonly Touch[]): string[] {
  return toColumns(touches, 'id', 'ttlMs', 'ageMs').map(joinValues)
}

function rowIsLocked(): Error {
  return Object.assign(new Error("the session's row is locked by another transaction"), {
    code: cancelledCode,
  })
}
