// Runs every statement of a request's path, each for one session or for many.
import type { Connection, Statement } from '../postgres/connection.js'
import { joinValues } from '../postgres/sql-params.js'
import { inShards } from '../schema/shards.js'
import type { Table } from '../schema/table.js'
import { handleOf } from '../session/session-id.js'
import type { Codec } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { type BatchObserver, unobserved } from './batching.js'
import type { CitusStatements } from './citus-statements.js'
import { type ChangeName, Committer } from './committer.js'
import type { PreparedStatements } from './prepared-statements.js'
import {
  type Change,
  type Replacement,
  replacementValues,
  toStoredSessions,
  type Write,
  writeValues,
} from './row-mapper.js'
import { isRefusedAsLate, ServerClock } from './server-clock.js'
import { assertPlain, decodeAll, encodeAll, isPlain, type Read } from './session-codec.js'
import type { SessionStatements } from './session-statements.js'
import { TouchWriter } from './touch-writer.js'
import { type LimitedWrite, UserLimit } from './user-limit.js'

export interface SessionQueriesOptions {
  readonly codec?: Codec | undefined
  /** Returns a suffix for the payload of the next notification: a heartbeat of this process's listener, or nothing. */
  readonly payloadSuffix?: () => string
  /** The statements for changes that the server's queue has no room to announce. */
  readonly unannouncing?: SessionStatements | CitusStatements
  /** Called when the queue was full. */
  readonly onQueueFull?: () => void
  readonly onBatch?: BatchObserver
}

export class SessionQueries {
  readonly #connection: Connection
  readonly #table: Table
  readonly #codec: Codec | undefined
  readonly #statements: PreparedStatements
  readonly #committer: Committer
  readonly #userLimit: UserLimit
  /** Writes touches, at once or many together. */
  readonly touches: TouchWriter
  readonly #clock: ServerClock

  constructor(
    connection: Connection,
    table: Table,
    channel: string,
    statements: SessionStatements | CitusStatements,
    {
      codec,
      payloadSuffix = () => '',
      unannouncing = statements,
      onQueueFull = () => undefined,
      onBatch = unobserved,
    }: SessionQueriesOptions = {},
  ) {
    this.#connection = connection
    this.#table = table
    this.#codec = codec
    const committer = new Committer({
      connection,
      table,
      channel,
      statements,
      unannouncing,
      payloadSuffix,
      onQueueFull,
    })
    this.#committer = committer
    this.#statements = committer.statements
    this.#userLimit = new UserLimit({
      connection,
      committer,
      channel,
      destroyAll: (ids, limit) => this.destroyAll(ids, limit),
    })
    this.touches = new TouchWriter({ connection, committer, shardStarts: table.shardStarts, onBatch })
    this.#clock = new ServerClock((text) => connection.query(text))
  }

  /** The number of changes that other processes were notified of. */
  get announced(): number {
    return this.#committer.announced
  }

  set announced(count: number) {
    this.#committer.announced = count
  }

  /** Makes every instance clear its cache. */
  announceClear(): Promise<void> {
    return this.#committer.announceClear()
  }

  /** Finds out how the server's clock differs, so that the first save needn't. Never rejects. */
  async measureClock(): Promise<void> {
    if (!this.#table.isDistributed) await this.#clock.measure()
  }

  /** Whether the table has versions. */
  get hasVersions(): boolean {
    return this.#table.columns.has('version')
  }

  /**
   * Resolves with the active sessions among these ids, in their order; `undefined` where there is none, an error where one
   * can't be decoded, and a promise where decoding takes long.
   */
  async readAll(ids: readonly string[], limit?: TimeLimit): Promise<readonly (Read | Promise<Read>)[]> {
    const { readOne, readMany } = this.#statements
    // A comparison with one id has the best plan in every version of PostgreSQL.
    const rows = await (ids.length === 1
      ? this.#committer.run(readOne, ids, limit)
      : this.#committer.run(readMany, [joinValues(ids)], limit))
    const sessions = toStoredSessions(ids, rows)
    const codec = this.#codec
    return codec === undefined && sessions.every(isPlain) ? sessions : decodeAll(codec, sessions)
  }

  /** Inserts sessions or replaces existing ones, except tombstones, and announces the changes. */
  async write(writes: readonly Write[], limit?: TimeLimit): Promise<readonly Change[]> {
    const encoded = await this.#encode(writes, limit)
    const changes = await this.#inTime(limit, (until) =>
      this.#committer.change(...this.#writeStatement(encoded, until), limit),
    )
    return this.#underGivenIds(changes, writes)
  }

  /** An insert returns the id of the row: where there are raw ids, that may be the digest of the one it was given. */
  #underGivenIds(changes: readonly Change[], writes: readonly { readonly id: string }[]): readonly Change[] {
    if (!this.#table.hasRawIds) return changes
    const given = new Map(writes.map(({ id }) => [`sha256:${handleOf(id)}`, id]))
    return changes.map((change) => ({ ...change, id: given.get(change.id) ?? change.id }))
  }

  /** Replaces existing sessions in the given versions; others are missing from the result. */
  async replace(replacements: readonly Replacement[], limit?: TimeLimit): Promise<readonly Change[]> {
    const encoded = await this.#encode(replacements, limit)
    return this.#inTime(limit, (until) =>
      this.#committer.change(...this.#replaceStatement(encoded, until), limit),
    )
  }

  /** Without a codec there is nothing to wait for. */
  #encode<T extends Write | Replacement>(
    writes: readonly T[],
    limit: TimeLimit | undefined,
  ): readonly T[] | Promise<readonly T[]> {
    return this.#codec === undefined ? assertPlain(writes) : encodeAll(this.#codec, writes, limit)
  }

  /**
   * Writes a session that comes to belong to its user, who may have `max`, and destroys the least recently used beyond that.
   * Calls for one user run one after another. A query function can't lock: there, more than necessary may be destroyed.
   */
  async writeWithLimit(write: Write | Replacement, max: number, limit?: TimeLimit): Promise<LimitedWrite> {
    const [encoded] = (await this.#encode([write], limit)) as [Write | Replacement]
    const { written, evicted } = await this.#inTime(limit, (until) => {
      const [change, values] =
        'baseVersion' in encoded
          ? this.#replaceStatement([encoded], until)
          : this.#writeStatement([encoded], until)
      return this.#userLimit.write(encoded, max, change, values, limit)
    })
    return { written: written && this.#underGivenIds([written], [write])[0], evicted }
  }

  /** `until`: see `#inTime`. Citus runs no volatile function here, and takes no such parameter. */
  #writeStatement(
    writes: readonly Write[],
    until: number | null | undefined,
  ): [ChangeName | Statement, unknown[]] {
    const { writeMany } = this.#statements
    const values = writeValues(writes)
    const last = until === undefined ? [] : [until]
    if (writes.length === 1) return ['writeOne', [...values.flat(), ...last]]
    if (typeof writeMany !== 'function') return ['writeMany', [...values.map(joinValues), ...last]]
    return [writeMany(writes.length), writes.flatMap((_, n) => values.map((column) => column[n]))]
  }

  #replaceStatement(
    replacements: readonly Replacement[],
    until: number | null | undefined,
  ): [ChangeName, unknown[]] {
    const values = replacementValues(replacements)
    const last = until === undefined ? [] : [until]
    return replacements.length === 1
      ? ['replaceOne', [...values.flat(), ...last]]
      : ['replaceMany', [...values.map(joinValues), ...last]]
  }

  /**
   * Saves sessions unless the server gets to it only after the call was given up. A save without a merge base would overwrite
   * what has been saved since. `until` is that time by the server's clock: `null` if it isn't known, `undefined` if the
   * statements don't take it.
   */
  async #inTime<T>(
    limit: TimeLimit | undefined,
    save: (until: number | null | undefined) => Promise<T>,
  ): Promise<T> {
    try {
      return await save(await this.#until(limit))
    } catch (error) {
      if (!isRefusedAsLate(error)) throw error
      // The server's clock was put forward.
      await this.#clock.measure()
      return save(await this.#until(limit))
    }
  }

  /** A statement without a response is given up after its time, or at the deadline. */
  #until(limit: TimeLimit | undefined): undefined | Promise<number | null> {
    if (this.#table.isDistributed) return undefined
    const end = performance.now() + this.#connection.queryTimeoutMs
    return this.#clock.at(Math.min(end, limit?.deadline ?? end))
  }

  /** Turns sessions' rows into tombstones, and announces that. Each session at most once in the list. */
  destroyAll(ids: readonly string[], limit?: TimeLimit): Promise<readonly Change[]> {
    return this.#destroyInShards(ids, (some) =>
      some.length === 1
        ? this.#committer.change('destroyOne', some, limit)
        : this.#committer.change('destroyMany', [joinValues(some)], limit),
    )
  }

  /** The same for those that belong to this user. */
  destroyAllOf(userId: string, ids: readonly string[]): Promise<readonly Change[]> {
    return this.#destroyInShards(ids, (some) =>
      this.#committer.change('destroyOf', [joinValues(some), userId]),
    )
  }

  async #destroyInShards(
    ids: readonly string[],
    destroy: (ids: readonly string[]) => Promise<readonly Change[]>,
  ): Promise<readonly Change[]> {
    return (await inShards(this.#table.shardStarts, ids, (id) => id, destroy)).flat()
  }
}
