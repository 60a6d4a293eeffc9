// Finds the users of sessions that other software saved, or a store with another option `userId`: in the background.
import { hash, randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { retryConflicts } from '../postgres/retry.js'
import { notRecordSql, type Table } from '../schema/table.js'
import { parse } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { findUserId } from '../session/user-id.js'
import type { Row } from '../types/options.js'
import type { Settings } from '../types/settings.js'
import { messageOf } from '../util/driver-errors.js'
import { hashedIdSql } from './session-statements.js'
import {
  isFilled,
  passesNeeded,
  readUserFillRecord,
  type StoredRecord,
  writeUserFillRecord,
} from './user-fill-record.js'

/** Each session may have a megabyte. */
const batchSize = 100

/** How often a session is read again that another transaction had locked, or saved in between. */
const maxAttempts = 5

/** Another process goes on if the one that searches hasn't written its record for this long. */
const staleMs = 60_000

const countTimeoutMs = 60_000
const defaultPauseMs = 50
const defaultRepeatMs = 3_600_000

export interface UserFillOptions {
  readonly connection: Connection
  readonly table: Table
  readonly settings: Settings
  /** Whether koa-pg-session may save more sessions, so that the search doesn't end. */
  readonly repeats?: () => boolean
  /** Aborting it ends the search. */
  readonly signal: AbortSignal
  /**
   * The pause after each batch, so that requests are served first.
   * @default 50
   */
  readonly pauseMs?: number
  /**
   * The pause between two passes.
   * @default 1 hour
   */
  readonly repeatMs?: number
}

export class UserFill {
  readonly #options: UserFillOptions
  readonly #option: string
  readonly #owner = randomUUID()
  readonly #active: string
  readonly #update: string
  #hasSearched = false
  #keepsProcessAlive = false

  constructor(options: UserFillOptions) {
    this.#options = options
    const { table, settings } = options
    this.#option = hash('sha256', String(settings.userId), 'base64url')
    this.#active = `from ${table.name} where session is not null and expiry > now() and ${notRecordSql()}`
    // The id of a row may be replaced by its digest after it was read. If both rows are there, they are two sessions.
    const isHashed = `not exists (select from ${table.name} as r where r.id = u.id)`
    const matches = table.hasRawIds
      ? `s.id in (u.id, ${hashedIdSql('u.id')}) and (s.id = u.id or ${isHashed})`
      : 's.id = u.id'
    // Never waits for a row, so it can't be part of a deadlock. The trigger of sql/006-notify.sql ignores the update: caches
    // don't hold users.
    const lock = table.isDistributed ? '' : ' order by s.id for update of s skip locked'
    const quietly = table.isDistributed
      ? ''
      : ` and (select set_config('koa_pg_store.reencrypt', 'on', true)) is not null`
    this.#update =
      `update ${table.name} as t set user_id = u.user_id from (select s.id, u.id as given_id, u.user_id` +
      ` from unnest($1::text[], $2::text[], $3::bigint[]) as u (id, user_id, version)` +
      ` join ${table.name} as s on ${matches} where s.version = u.version and s.session is not null${lock}) as u` +
      ` where t.id = u.id${quietly} returning u.given_id as id`
  }

  /**
   * Searches all active sessions, unless that was done with this option `userId`, and again after a pause. One process searches
   * at a time, and another one goes on if it stops. Errors are passed to `warn` and followed by another attempt.
   */
  async run({ warn, end }: { warn: (error: Error) => void; end: () => void }): Promise<void> {
    const { connection, table, signal } = this.#options
    let lastProblem = ''
    while (!signal.aborted) {
      let pauseMs: number | undefined = staleMs
      try {
        const record = await readUserFillRecord(connection, table)
        pauseMs = this.#untilTurn(record)
        if (pauseMs === undefined) return
        if (pauseMs === 0) await this.#search(record, this.#firstStep(record))
        lastProblem = ''
        end()
      } catch (error) {
        if (signal.aborted) return
        const problem = messageOf(error)
        if (problem !== lastProblem)
          warn(new Error(`the users of existing sessions can't be found yet, trying again: ${problem}`))
        lastProblem = problem
      }
      await this.#pause(pauseMs ?? 0)
    }
  }

  /** Searches all active sessions now. Resolves with the number of users that were written. */
  async runOnce(onProgress: (done: number) => void): Promise<number> {
    this.#keepsProcessAlive = true
    const { connection, table } = this.#options
    const record = await readUserFillRecord(connection, table)
    const [counted] = await connection.query(
      `select count(*)::float8 as n ${this.#active}`,
      [],
      countTimeoutMs,
    )
    const total = Math.max(1, Number(counted?.n))
    const written = await this.#search(record, { lastId: '', passes: passesNeeded - 1 }, (read) =>
      onProgress(Math.min(1, read / total)),
    )
    if (written === undefined)
      throw new Error('another process has begun to search for users: run this again')
    return written
  }

  /** How long to wait before this process searches; `undefined`: it needn't any more. */
  #untilTurn(record: StoredRecord | undefined): number | undefined {
    if (record === undefined) return 0
    const { repeats, repeatMs = defaultRepeatMs } = this.#options
    const { option, owner, lastId, ageMs } = record
    if (lastId !== null) return owner === this.#owner ? 0 : Math.max(0, staleMs - ageMs)
    // A process that was started later has searched with another option.
    if (option !== this.#option) return this.#hasSearched ? undefined : 0
    return isFilled(record) && repeats?.() !== true ? undefined : Math.max(0, repeatMs - ageMs)
  }

  #firstStep(record: StoredRecord | undefined): Step {
    if (record?.option !== this.#option) return { lastId: '', passes: 0 }
    return { lastId: record.lastId ?? '', passes: record.passes }
  }

  /** Resolves with the number of users that were written; `undefined` if another process has taken over, or on `signal`. */
  async #search(
    record: StoredRecord | undefined,
    { lastId, passes }: Step,
    onProgress?: (read: number) => void,
  ): Promise<number | undefined> {
    const { connection, table, signal, pauseMs = defaultPauseMs } = this.#options
    const read = `${this.#select} and id > $1 order by id limit ${batchSize}`
    let version = record?.version
    let written = 0
    for (let count = 0; !signal.aborted; ) {
      const rows = await connection.query(read, [lastId])
      written += await this.#fill(rows)
      count += rows.length
      lastId = (rows.at(-1)?.id as string | undefined) ?? lastId
      const isEnd = rows.length < batchSize
      const step = isEnd ? { lastId: null, passes: passes + 1 } : { lastId, passes }
      const next = { option: this.#option, owner: this.#owner, ...step }
      version = await writeUserFillRecord(connection, table, next, version)
      if (version === undefined) return undefined
      onProgress?.(count)
      if (isEnd) {
        this.#hasSearched = true
        return written
      }
      await this.#pause(pauseMs)
    }
    return undefined
  }

  get #select(): string {
    return `select id, session::text as session, version::text as version, user_id ${this.#active}`
  }

  /** Writes the users of these rows. Resolves with their number. */
  async #fill(rows: readonly Row[]): Promise<number> {
    const { connection, settings, signal } = this.#options
    let written = 0
    let pending = rows
    for (let attempt = 1; attempt <= maxAttempts && !signal.aborted; attempt++) {
      const users = await Promise.all(pending.map((row) => userOf(row, settings)))
      const found = pending
        .map((row, n) => ({
          id: row.id as string,
          version: row.version as string,
          old: row.user_id,
          user: users[n],
        }))
        .filter(({ old, user }) => user !== undefined && user !== old)
      if (found.length === 0) break
      const values = [
        found.map(({ id }) => id),
        found.map(({ user }) => user),
        found.map(({ version }) => version),
      ]
      const done = new Set(
        (await retryConflicts(() => connection.query(this.#update, values))).map(({ id }) => id),
      )
      written += done.size
      const missed = found.map(({ id }) => id).filter((id) => !done.has(id))
      if (missed.length === 0) break
      await this.#pause(attempt * 100)
      const ids = [...missed, ...missed.map((id) => `sha256:${handleOf(id)}`)]
      pending = await connection.query(`${this.#select} and id = any($1::text[])`, [ids])
    }
    return written
  }

  /** Aborting ends the pause without an error. */
  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#options.signal, ref: this.#keepsProcessAlive }).catch(
      () => undefined,
    )
  }
}

/** The last id that was searched, and the number of passes that have reached the end. */
interface Step {
  readonly lastId: string
  readonly passes: number
}

/** Returns `undefined` for a session that can't be decoded, or in which the option fails: it is left as it is. */
async function userOf({ id, session }: Row, { codec, userId }: Settings): Promise<string | undefined> {
  try {
    const value = parse(await fromColumn(codec, session as string, { id: handleOf(id as string) }))
    return value && findUserId(userId, value)
  } catch {
    return undefined
  }
}
