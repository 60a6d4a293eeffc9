// koa-pg-store sweep: deletes expired sessions, once or as a worker.
import { ensureTable } from '../../schema/migrate.js'
import { readOptions } from '../../stores/options.js'
import { Sweeper } from '../../sweeper/sweeper.js'
import type { SweepResult } from '../../types/results.js'
import type { Settings } from '../../types/settings.js'
import { messageOf } from '../../util/driver-errors.js'
import { schedule } from '../../util/schedule.js'
import { type Command, type Context, readInteger, UsageError } from '../command.js'
import { duration, number, type Terminal } from '../terminal.js'

export const sweep: Command = {
  summary: 'Delete expired sessions: once, or on a schedule with --watch',
  help: `
Usage: koa-pg-store sweep [--watch] [--cron '…'] [--batch-size n]

Deletes expired sessions, and the tombstones of destroyed ones, in small batches
with pauses between them. Only one sweep runs at a time: if an instance of the
application is sweeping, this does nothing. Active sessions are never deleted.

  koa-pg-store sweep
      once; for cron, or a CronJob of Kubernetes
  koa-pg-store sweep --watch
      as a worker, every 15 minutes until SIGTERM or Ctrl-C
  koa-pg-store sweep --watch --cron '0 3 * * *'
      every night at three

Options:
  --watch                Keep running, and sweep on a schedule. A signal stops
                         it after the current batch, a second one at once.
  --cron <expression>    The schedule for --watch. Default: */15 * * * *
  --timezone <name>      The time zone of the schedule, such as Europe/Berlin.
                         Default: the machine's
  --batch-size <n>       The approximate number of sessions in a batch.
                         Default: 5000
  --grace <ms>           Keep sessions for this long after they have expired.
                         Default: 0
  --idle-timeout <ms>    The application's option idleTimeout, if it has one.
  --max-lifetime <ms>    The application's option maxLifetime, if it has one.

With --config, sessions are passed to the application's onExpired before they
are deleted.`,
  options: {
    watch: { type: 'boolean' },
    cron: { type: 'string' },
    timezone: { type: 'string' },
    'batch-size': { type: 'string' },
    grace: { type: 'string' },
    'idle-timeout': { type: 'string' },
    'max-lifetime': { type: 'string' },
  },
  async run(context) {
    const settings = readSettings(context)
    return new Worker(context, settings).run(context.values.watch === true)
  },
}

function readSettings({ values, options }: Context): Settings {
  if (!values.watch && (values.cron !== undefined || values.timezone !== undefined))
    throw new UsageError('--cron and --timezone need --watch')
  // Not when the application sweeps: it doesn't where this command is its worker.
  const cleanup = typeof options.cleanup === 'object' ? options.cleanup : {}
  try {
    return readOptions({
      ...options,
      create: false,
      idleTimeout: readInteger(values, 'idle-timeout', 1) ?? options.idleTimeout,
      maxLifetime: readInteger(values, 'max-lifetime', 1) ?? options.maxLifetime,
      cleanupTime: undefined,
      cleanup: {
        ...cleanup,
        cron: values.cron as string | undefined,
        timezone: (values.timezone as string | undefined) ?? cleanup.timezone,
        batchSize: readInteger(values, 'batch-size', 1) ?? cleanup.batchSize,
        grace: readInteger(values, 'grace', 0) ?? cleanup.grace,
      },
    })
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(messageOf(error).replace(/^option "cleanup\.(\w+)"/, '--$1'))
  }
}

/** A scheduled sweep is skipped if an instance swept within half the time to the next one, but at most this long ago. */
const maxRecentSweepMs = 300_000

/** A second signal within this time is the first one again, passed on by npx. */
const repeatedSignalMs = 1_000

/** Below this share of the work, the remaining time can't be estimated. */
const minEstimateShare = 0.02

/** Sweeps once, or on a schedule until a signal stops it. */
class Worker {
  readonly #context: Context
  readonly #settings: Settings
  readonly #terminal: Terminal
  readonly #sweeper: Sweeper
  #interruptedAt: number | undefined
  #sweeps = 0
  #deleted = 0
  #stopWatching: () => void = () => undefined

  constructor(context: Context, settings: Settings) {
    this.#context = context
    this.#settings = settings
    this.#terminal = context.terminal
    this.#sweeper = new Sweeper({
      connection: context.connection,
      limits: { ...settings, grace: settings.cleanup.grace },
      batchSize: settings.cleanup.batchSize,
      codec: settings.codec,
      onExpired: () => settings.cleanup.onExpired,
      onProgress: (done, soFar) => this.#printProgress(done, soFar),
      warn: (error) => this.#terminal.note(error.message),
    })
  }

  async run(isWatching: boolean): Promise<number> {
    const onSignal = (): void => this.#interrupt()
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal)
    try {
      return isWatching ? await this.#watch() : await this.#once()
    } finally {
      process.off('SIGTERM', onSignal).off('SIGINT', onSignal)
    }
  }

  async #once(): Promise<number> {
    await this.#sweep(0)
    return this.#interruptedAt === undefined ? 0 : 1
  }

  async #watch(): Promise<number> {
    const { json } = this.#context.values
    if (!json)
      this.#terminal.line(`Sweeping on the schedule ${this.#settings.cleanup.cron}, until Ctrl-C or SIGTERM.`)
    // The schedule's own timer doesn't keep the process running.
    const keepAlive = setInterval(() => undefined, 60_000)
    const stopped = new Promise<void>((resolve) => {
      this.#stopWatching = resolve
    })
    let running: Promise<void> | undefined
    const cancelSchedule = schedule(this.#settings.cleanup, (untilNextMs) => {
      running = this.#sweep(Math.min(untilNextMs / 2, maxRecentSweepMs)).catch((error) =>
        this.#terminal.note(`koa-pg-store: ${messageOf(error)}. Trying again at the next scheduled time.`),
      )
      return running
    })
    await stopped
    cancelSchedule()
    await running
    clearInterval(keepAlive)
    const [sweeps, deleted] = [this.#sweeps, this.#deleted]
    if (json) this.#terminal.json({ stopped: true, sweeps, deleted })
    else this.#terminal.line(`Stopped after ${number(sweeps)} sweeps: ${number(deleted)} deleted.`)
    return 0
  }

  /** Does nothing if another instance has swept in the last `recentMs`. */
  async #sweep(recentMs: number): Promise<void> {
    const { connection, values } = this.#context
    const warn = (error: Error): void => this.#terminal.note(error.message)
    const table = await ensureTable(connection, this.#settings, warn)
    const result = await this.#sweeper.run(table, recentMs)
    if (result) this.#sweeps++
    this.#deleted += result?.deleted ?? 0
    if (values.json) this.#terminal.json(result ?? { deleted: 0, batches: 0, ms: 0, skipped: true })
    else this.#terminal.line(this.#describe(result))
  }

  #describe(result: SweepResult | undefined): string {
    if (result === undefined) return 'Nothing to do: another instance is sweeping, or has just swept.'
    const { deleted, batches, ms } = result
    const rate = ms > 0 && deleted > 0 ? `, ${number(Math.round(deleted / (ms / 1_000)))} a second` : ''
    const counts = `${number(deleted)} deleted in ${duration(ms)} (${number(batches)} batches${rate})`
    return this.#interruptedAt !== undefined
      ? `Interrupted: ${counts}. The next sweep deletes the rest.`
      : `Swept: ${counts}.`
  }

  #printProgress(done: number, { deleted, ms }: SweepResult): void {
    if (this.#context.values.json) return
    const rate = `${number(Math.round(deleted / (ms / 1_000)))}/s`
    const remaining = done > minEstimateShare ? `, ${duration((ms * (1 - done)) / done)} left` : ''
    this.#terminal.progress(done, `${number(deleted)} deleted, ${rate}${remaining}`)
  }

  #interrupt(): void {
    if (this.#interruptedAt !== undefined) {
      if (performance.now() - this.#interruptedAt > repeatedSignalMs) process.exit(1)
      return
    }
    this.#interruptedAt = performance.now()
    this.#terminal.note('Stopping after this batch…')
    void this.#sweeper.stop()
    this.#stopWatching()
  }
}
