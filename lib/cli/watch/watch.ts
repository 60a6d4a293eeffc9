// Reads the figures at intervals and shows them, until the user quits: as a page, as lines, or as JSON.
import { setTimeout as sleep } from 'node:timers/promises'
import { channelOf } from '../../notifications/payload.js'
import { listenConfig } from '../../postgres/connect.js'
import { type Connection, isStatementError } from '../../postgres/connection.js'
import type { Table } from '../../schema/table.js'
import type { Settings } from '../../types/settings.js'
import { messageOf } from '../../util/driver-errors.js'
import type { Screen } from '../screen.js'
import type { Terminal } from '../terminal.js'
import { printable } from './answer.js'
import {
  countSessions,
  readServer,
  readSizes,
  type ServerState,
  type SessionCounts,
  type TableSizes,
} from './database.js'
import { type Figures, figuresOf, type Problem, type Rate, type Reading, rateNames } from './figures.js'
import { drawLine } from './line.js'
import { drawPage } from './page.js'
import { Processes } from './processes.js'

/** How long the processes have to answer before the figures are shown; later answers count the next time. */
const answerTimeMs = 300

/** A process that missed this many requests is silent. */
const missedRequests = 3

/** Sessions are counted this seldom, and so seldom that counting takes 5 % of the time at most. */
const minCountPauseMs = 10_000
const countPauseFactor = 20

/** How long a statement in progress may take when the user quits. */
const endTimeoutMs = 200

/** Wider than any window. */
const maxHistory = 1_000

export interface WatchOptions {
  readonly connection: Connection
  readonly table: Table
  readonly settings: Settings
  readonly listen: Settings['listen']
  readonly intervalMs: number
  readonly terminal: Terminal
  readonly isJson: boolean
}

export class Watch {
  readonly #options: WatchOptions
  readonly #processes: Processes
  readonly #stop = new AbortController()
  readonly #history = Object.fromEntries(rateNames.map((name) => [name, []])) as unknown as Record<
    Rate,
    (number | undefined)[]
  >
  #screen: Screen | undefined
  #server: ServerState | undefined
  #previousServer: ServerState | undefined
  #sizes: TableSizes | undefined
  #sessions: Reading<SessionCounts> | undefined
  #countAt = 0
  #error: Problem | undefined
  #figures: Figures | undefined

  constructor(options: WatchOptions) {
    const { connection, settings, listen, intervalMs } = options
    this.#options = options
    const config = listenConfig(listen, connection) ?? connection.clientConfig ?? {}
    this.#processes = new Processes(connection, config, channelOf(settings), intervalMs)
  }

  /** Resolves when the user quits, or a signal arrives. */
  async run(): Promise<void> {
    const { connection, terminal, isJson, intervalMs } = this.#options
    const { signal } = this.#stop
    const quit = (): void => this.#stop.abort()
    for (const name of signals) process.on(name, quit)
    if (!isJson) this.#screen = terminal.openScreen({ onQuit: quit, onResize: () => this.#draw() })
    try {
      for (let dueAt = performance.now(); !signal.aborted; ) {
        await Promise.race([this.#read(), aborted(signal)])
        if (!signal.aborted) this.#show()
        dueAt = Math.max(dueAt + intervalMs, performance.now())
        await sleep(dueAt - performance.now(), undefined, { signal }).catch(() => undefined)
      }
    } finally {
      this.#screen?.close()
      this.#processes.close()
      // A statement may be waiting for a server that doesn't answer; the user shouldn't.
      await connection.end(endTimeoutMs)
      for (const name of signals) process.off(name, quit)
    }
  }

  async #read(): Promise<void> {
    const { connection, table } = this.#options
    const asked = this.#processes.ask()
    const answered = Promise.all([asked, sleep(answerTimeMs)])
    try {
      const server = await readServer(connection, table)
      ;[this.#previousServer, this.#server] = [this.#server, server]
      this.#error = undefined
    } catch (error) {
      // The next rate is of the time since it was back.
      this.#server = this.#server && { ...this.#server, rows: null }
      const what = isStatementError(error) ? 'PostgreSQL says' : 'database unreachable'
      const message = `${what}: ${printable(messageOf(error))}`
      this.#error = { message, since: this.#error?.since ?? new Date().toISOString() }
    }
    if (this.#error === undefined) {
      // A lock on the table delays this. The sizes of the last time are shown then.
      this.#sizes = await readSizes(connection, table).catch(() => this.#sizes)
      this.#startCounting()
    }
    await answered
  }

  /** Doesn't wait: it may take a while. */
  #startCounting(): void {
    const startedAt = performance.now()
    if (startedAt < this.#countAt) return
    this.#countAt = Number.POSITIVE_INFINITY
    const { connection, table, settings } = this.#options
    countSessions(connection, table, settings)
      .then((value) => {
        this.#sessions = { value, at: performance.now() }
      })
      .catch(() => undefined)
      .finally(() => {
        const now = performance.now()
        this.#countAt = now + Math.max(minCountPauseMs, (now - startedAt) * countPauseFactor)
      })
  }

  #show(): void {
    const { settings, terminal, isJson, intervalMs } = this.#options
    const readings = {
      table: printable(`${settings.schema}.${settings.table}`),
      error: this.#error,
      processError: this.#processes.error && printable(this.#processes.error),
      processes: this.#processes.list(),
      server: this.#server,
      previousServer: this.#previousServer,
      sizes: this.#sizes,
      sessions: this.#sessions,
      silentAfterMs: missedRequests * intervalMs,
    }
    const figures = figuresOf(readings, performance.now(), new Date())
    this.#figures = figures
    for (const name of rateNames) {
      this.#history[name].push(figures.rates[name])
      if (this.#history[name].length > maxHistory) this.#history[name].shift()
    }
    if (isJson) terminal.line(JSON.stringify(figures))
    else if (this.#screen === undefined) terminal.line(drawLine(figures))
    else this.#draw()
  }

  #draw(): void {
    const screen = this.#screen
    if (screen === undefined || this.#figures === undefined) return
    const { terminal, intervalMs } = this.#options
    const { width, height } = screen
    const page = { figures: this.#figures, history: this.#history, intervalMs }
    screen.draw(drawPage({ ...page, width, height }, (style, text) => terminal.style(style, text)))
  }
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
