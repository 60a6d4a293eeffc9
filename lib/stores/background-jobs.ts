// What a store does to its table beside requests: replaces raw ids, finds users, creates the index, decodes a sample.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection } from '../postgres/connection.js'
import { sampleSessions, undecodedSessions } from '../repository/codec-sample.js'
import { UserFill } from '../repository/user-fill.js'
import { canFillUserIds } from '../repository/user-fill-record.js'
import { hashStoredIds } from '../schema/hash-ids.js'
import { inspectIds } from '../schema/migrate.js'
import { psqlCommand, type Table } from '../schema/table.js'
import { createUserIndex } from '../schema/user-index.js'
import { SetupError } from '../types/errors.js'
import type { Settings } from '../types/settings.js'
import { messageOf } from '../util/driver-errors.js'
import type { Warnings } from './warnings.js'

/** How often to look whether raw ids may be replaced by digests. */
const watchIdsMs = 60_000

/** How long after setup the search for the users of existing sessions begins. */
const fillUsersDelayMs = 10_000

/** How long after setup a sample of the sessions is decoded: the first requests may need the pool's only connection. */
const sampleDelayMs = 1_000

export interface BackgroundJobsOptions {
  readonly connection: Connection
  readonly settings: Settings
  readonly warnings: Warnings
  /** Aborting it ends all jobs. */
  readonly signal: AbortSignal
  /** Called when the table holds ids in another form than at its setup. */
  readonly onIdsChanged: () => void
}

export class BackgroundJobs {
  readonly #options: BackgroundJobsOptions
  #table: Table | undefined
  #idWatch: NodeJS.Timeout | undefined
  #hashing: Promise<void> | undefined
  #fillingUsers: Promise<void> | undefined
  #sampling: Promise<void> | undefined
  #indexing: Promise<void> | undefined

  constructor(options: BackgroundJobsOptions) {
    this.#options = options
    options.signal.addEventListener('abort', () => clearInterval(this.#idWatch), { once: true })
  }

  /** Starts what the table needs and isn't running yet. To be called after each setup. */
  start(table: Table): void {
    if (this.#options.signal.aborted) return
    this.#table = table
    if (table.convertsRawIds) this.#hashIds(table)
    if (table.insertsRawIds && table.hasRawIds) this.#watchIds(table)
    if (canFillUserIds(table)) this.#fillUserIds(table)
    this.#sampleSessions()
    if (table.lacksUserIndex) this.#createUserIndex()
  }

  /** Resolves when the jobs that use the connection have ended. The index is created on one of its own. */
  async ended(): Promise<void> {
    await Promise.allSettled([this.#hashing, this.#fillingUsers, this.#sampling])
  }

  #hashIds({ hasHashedIds }: Table): void {
    const { connection, settings, warnings, signal } = this.#options
    const warn = warnings.of('ids')
    this.#hashing ??= hashStoredIds({ connection, settings, isRecorded: hasHashedIds, signal, warn })
  }

  /** Reports when the table is recorded to hold digests, so that this process no longer inserts raw ids. */
  #watchIds({ insertsRawIds, keepsRawIds }: Table): void {
    const { connection, settings, signal, onIdsChanged } = this.#options
    clearInterval(this.#idWatch)
    const timer = setInterval(async () => {
      const now = await inspectIds(connection, settings).catch(() => undefined)
      if (now === undefined || signal.aborted) return
      if (now.insertsRawIds === insertsRawIds && now.keepsRawIds === keepsRawIds) return
      clearInterval(timer)
      onIdsChanged()
    }, watchIdsMs)
    this.#idWatch = timer
    timer.unref()
  }

  /** The sessions of koa-pg-session have no user, so they are searched at once; others not while the process starts. */
  #fillUserIds(table: Table): void {
    if (this.#fillingUsers !== undefined) return
    const { connection, settings, warnings, signal } = this.#options
    const repeats = (): boolean => this.#table?.insertsRawIds === true
    const fill = new UserFill({ connection, table, settings, repeats, signal })
    const delayMs = table.suitsOldSoftware ? 0 : fillUsersDelayMs
    this.#fillingUsers = sleep(delayMs, undefined, { signal, ref: false })
      .then(() => fill.run({ warn: warnings.of('users'), end: () => warnings.end('users') }))
      // Aborting rejects the pause.
      .catch(() => undefined)
  }

  /** Says early if a codec is missing, or was removed too early, and not only to the users of such sessions. */
  #sampleSessions(): void {
    const { connection, settings, warnings, signal } = this.#options
    this.#sampling ??= sleep(sampleDelayMs, undefined, { signal, ref: false })
      .then(() => sampleSessions(connection, settings))
      .then((sample) => {
        if (sample.undecoded > 0) warnings.warn('codec', new SetupError(undecodedSessions(sample)))
      })
      // Aborting rejects the pause. A view has no sample, and requests say what else is wrong.
      .catch(() => undefined)
  }

  /** Until it is there, a user's sessions are found by a scan. */
  #createUserIndex(): void {
    const { connection, settings, warnings, signal } = this.#options
    this.#indexing ??= createUserIndex(connection, settings, signal)
      .catch((error) => {
        const command = psqlCommand('007-users', settings)
        warnings.warn(
          'index',
          new Error(`the index on user_id could not be created: ${messageOf(error)}. Run ${command}`),
        )
      })
      .finally(() => {
        this.#indexing = undefined
      })
  }
}
