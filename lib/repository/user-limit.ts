// Writes sessions of users who may have a limited number of them, and destroys those that are too many.
import type { Connection, Query, Statement } from '../postgres/connection.js'
import { retryConflicts } from '../postgres/retry.js'
import type { Row } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { type ChangeName, type Committer, redactValues, throwNotDurable } from './committer.js'
import { type Change, mustFlush, type Replacement, toChanges, type Write } from './row-mapper.js'

/** What was written, unless the session no longer exists, and what was destroyed. */
export interface LimitedWrite {
  readonly written: Change | undefined
  readonly evicted: readonly Change[]
}

export interface UserLimitOptions {
  readonly connection: Connection
  readonly committer: Committer
  readonly channel: string
  readonly destroyAll: (ids: readonly string[], limit: TimeLimit | undefined) => Promise<readonly Change[]>
}

export class UserLimit {
  readonly #connection: Connection
  readonly #committer: Committer
  readonly #channel: string
  readonly #destroyAll: UserLimitOptions['destroyAll']

  constructor({ connection, committer, channel, destroyAll }: UserLimitOptions) {
    this.#connection = connection
    this.#committer = committer
    this.#channel = channel
    this.#destroyAll = destroyAll
  }

  /** Writes a session by a statement with these values. Its user may have `max`. */
  write(
    session: Write | Replacement,
    max: number,
    write: ChangeName | Statement,
    values: readonly unknown[],
    limit: TimeLimit | undefined,
  ): Promise<LimitedWrite> {
    const { surplus } = this.#committer.statements
    if (surplus) {
      const statement = this.#committer.statement(write, true)
      return this.#writeInShards(session, max, surplus, statement, values, limit)
    }
    return retryConflicts(() =>
      this.#committer.unlessQueueIsFull((announces) =>
        this.#write(session, max, write, values, announces, limit),
      ),
    )
  }

  async #write(
    session: Write | Replacement,
    max: number,
    write: ChangeName | Statement,
    values: readonly unknown[],
    announces: boolean,
    limit: TimeLimit | undefined,
  ): Promise<LimitedWrite> {
    const { lockUser, flush } = this.#committer.statements
    let needsFlush = false
    let announced = 0
    const result = await this.#connection.transaction(
      async (query) => {
        // The connection may repeat this.
        needsFlush = false
        announced = 0
        const change = async (
          name: ChangeName | Statement,
          values: readonly unknown[],
        ): Promise<readonly Change[]> => {
          const statement = this.#committer.statement(name, announces)
          // Not tried again: after an error, the transaction can only be rolled back.
          const rows = await query(statement, this.#committer.withSuffix(values, announces)).catch(
            (error) => {
              throw redactValues(error, values)
            },
          )
          needsFlush ||= mustFlush(rows)
          const result = toChanges(rows)
          announced += result.announced
          return result.changes
        }
        await query(lockUser, [this.#channel, session.userId])
        const evicted = await change('evict', [session.id, session.userId, max])
        const [written] = await change(write, values)
        // If the session wasn't written, the transaction is rolled back, and with it the eviction.
        return { written, evicted: written === undefined && this.#connection.isTransactional ? [] : evicted }
      },
      ({ written }) => written !== undefined,
      // Without a name, so that no pooler can reject it: the transaction would be repeated.
      async (query) => needsFlush && query({ ...flush, name: '' }, []).catch(throwNotDurable),
      limit,
    )
    if (result.written !== undefined || result.evicted.length > 0) this.#committer.announced += announced
    return result
  }

  /**
   * The same where Citus has distributed the table: the session is written in the transaction that holds the lock, and so
   * committed by one shard. The others are destroyed afterwards, each by a commit of its own shard.
   */
  async #writeInShards(
    session: Write | Replacement,
    max: number,
    surplus: Statement,
    statement: Statement,
    values: readonly unknown[],
    limit: TimeLimit | undefined,
  ): Promise<LimitedWrite> {
    const write = async (query: Query): Promise<{ rows: Row[]; ids: Row[] }> => {
      await query(this.#committer.statements.lockUser, [this.#channel, session.userId])
      const ids = await query(surplus, [session.id, session.userId, max])
      return { ids, rows: await query(statement, values) }
    }
    const { rows, ids } = await this.#committer.redacting(values, () =>
      this.#connection.transaction(write, undefined, undefined, limit),
    )
    await this.#committer.announceCommitted(rows, limit)
    const { changes, announced } = toChanges(rows)
    this.#committer.announced += announced
    const [written] = changes
    const evict = (): Promise<readonly Change[]> =>
      this.#destroyAll(
        ids.map(({ id }) => id as string),
        limit,
      )
    const evicted = written === undefined ? [] : await evict()
    return { written, evicted }
  }
}
