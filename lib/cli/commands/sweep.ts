// koa-pg-store sweep: once, or as a worker.

import { ensureTable } from '../../schema/migrate.js'
import { readOptions } from '../../stores/options.js'
import { Sweeper } from '../../sweeper/sweeper.js'
import type { SweepResult } from '../../types/results.js'
import type { Settings } from '../../types/settings.js'
import { messageOf } from '../../util/driver-errors.js'
import { schedule } from '../../util/schedule.js'
import { type Command, type Context, UsageError, wholeNumber } from '../command.js'
import { duration, number, type Terminal } from '../terminal.js'

export const sweep: Command = {
  summary: 'Delete what has expired: once, or again and again with --watch',
  help: `
Usage: koa-pg-store sweep [--watch] [--cron '…'] [--batch-size n]

Deletes expired sessions, and what destroyed ones have left, in small batches
with pauses between them. One sweep runs at a time, whoever starts it: if an
application is at it, this does nothing. What is alive is never touched.

  koa-pg-store sweep
      once; for cron, or a CronJob of Kubernetes
  koa-pg-store sweep --watch
      as a worker, every 15 minutes until SIGTERM or Ctrl-C
  koa-pg-store sweep --watch --cron '0 3 * * *'
      at three every night

Options:
  --watch                Stay, and sweep by the clock. A signal ends it after
                         the batch under way; a second one at once.
  --cron <expression>    When, with --watch. Default: */15 * * * *
  --timezone <name>      Of the expression, such as Europe/Berlin.
                         Default: the machine's
  --batch-size <n>       How many sessions a batch has, about. Default: 5000
  --grace <ms>           Keep sessions for so long after they have expired.
                         Default: 0
  --idle-timeout <ms>    The application's option idleTimeout, if it has one.
  --max-lifetime <ms>    The application's option maxLifetime, if it has one.`,
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
    const settings = read(context)
    return new Worker(context, settings).run(context.values.watch === true)
  },
}

function read({ values, options }: Context): Settings {
  if (!values.watch && (values.cron !== undefined || values.timezone !== undefined))
    throw new UsageError('--cron and --timezone need --watch')
  try {
    return readOptions({
      ...options,
      create: false,
      idleTimeout: wholeNumber(values, 'idle-timeout', 1),
      maxLifetime: wholeNumber(values, 'max-lifetime', 1),
      cleanup: {
        cron: values.cron as string | undefined,
        timezone: values.timezone as string | undefined,
        batchSize: wholeNumber(values, 'batch-size', 1),
        grace: wholeNumber(values, 'grace', 0),
      },
    })
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(messageOf(error).replace(/^option "cleanup\.(\w+)"/, '--$1'))
  }
}

class Worker {
  readonly #context: Context
  readonly #settings: Settings
  readonly #terminal: Terminal
  readonly #sweeper: Sweeper
  #interrupted: number | undefined
  #sweeps = 0
  #deleted = 0
  #stop: () => void = () => undefined

  constructor(context: Context, settings: Settings) {
    this.#context = context
    this.#settings = settings
    this.#terminal = context.terminal
    this.#sweeper = new Sweeper({
      connection: context.connection,
      limits: { ...settings, grace: settings.cleanup.grace },
      batchSize: settings.cleanup.batchSize,
      onExpired: () => undefined,
      onProgress: (done, soFar) => this.#progress(done, soFar),
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
    return this.#interrupted === undefined ? 0 : 1
  }

  async #watch(): Promise<number> {
    const { json } = this.#context.values
    if (!json) this.#terminal.line(`Sweeping by ${this.#settings.cleanup.cron}; Ctrl-C or SIGTERM ends it.`)
    // The schedule itself is nobody's reason to live.
    const reason = setInterval(() => undefined, 60_000)
    const stopped = new Promise<void>((resolve) => {
      this.#stop = resolve
    })
    let running: Promise<void> | undefined
    const end = schedule(this.#settings.cleanup, (next) => {
      running = this.#sweep(Math.min(next / 2, 300_000)).catch((error) =>
        this.#terminal.note(`koa-pg-store: ${messageOf(error)}. Trying again at the next time.`),
      )
      return running
    })
    await stopped
    end()
    await running
    clearInterval(reason)
    const all = { sweeps: this.#sweeps, deleted: this.#deleted }
    if (json) this.#terminal.json({ ended: true, ...all })
    else this.#terminal.line(`Ended after ${number(all.sweeps)} sweeps: ${number(all.deleted)} deleted.`)
    return 0
  }

  async #sweep(unlessWithin: number): Promise<void> {
    const { connection, values } = this.#context
    const warn = (error: Error): void => this.#terminal.note(error.message)
    const table = await ensureTable(connection, this.#settings, warn)
    const result = await this.#sweeper.run(table, unlessWithin)
    if (result) this.#sweeps++
    this.#deleted += result?.deleted ?? 0
    if (values.json) this.#terminal.json(result ?? { deleted: 0, batches: 0, ms: 0, skipped: true })
    else this.#terminal.line(this.#said(result))
  }

  #said(result: SweepResult | undefined): string {
    if (result === undefined) return 'Nothing to do: another instance is sweeping, or has just done so.'
    const { deleted, batches, ms } = result
    const rate = ms > 0 && deleted > 0 ? `, ${number(Math.round(deleted / (ms / 1_000)))} a second` : ''
    const what = `${number(deleted)} deleted in ${duration(ms)} (${number(batches)} batches${rate})`
    return this.#interrupted !== undefined
      ? `Interrupted: ${what}. The rest goes with the next sweep.`
      : `Swept: ${what}.`
  }

  #progress(done: number, { deleted, ms }: SweepResult): void {
    if (this.#context.values.json) return
    const rate = `${number(Math.round(deleted / (ms / 1_000)))}/s`
    const left = done > 0.02 ? `, ${duration((ms * (1 - done)) / done)} left` : ''
    this.#terminal.progress(done, `${number(deleted)} deleted, ${rate}${left}`)
  }

  #interrupt(): void {
    if (this.#interrupted !== undefined) {
      // A second one means now, unless it is npx passing on what the terminal has sent here already.
      if (performance.now() - this.#interrupted > 1_000) process.exit(1)
      return
    }
    this.#interrupted = performance.now()
    this.#terminal.note('Ending after this batch…')
    void this.#sweeper.stop()
    this.#stop()
  }
}
