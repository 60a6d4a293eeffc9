// Runs bin/koa-pg-store.js in a pseudo-terminal, and reads its screen as a user sees it.
import { fileURLToPath } from 'node:url'
import { type IPty, spawn } from '@lydell/node-pty'
import headless from '@xterm/headless'
import { until } from './until.js'

const bin = fileURLToPath(new URL('../../../bin/koa-pg-store.js', import.meta.url))

export class PseudoTerminal {
  readonly process: IPty
  readonly #screen: headless.Terminal
  /** All that was written, with its escape sequences. */
  output = ''
  /** Resolves with the exit status when the process has ended. */
  readonly ended: Promise<number>

  constructor(args: string[], env: NodeJS.ProcessEnv = {}, columns = 80, rows = 24) {
    const { PATH, HOME } = process.env
    this.#screen = new headless.Terminal({ cols: columns, rows, allowProposedApi: true })
    this.process = spawn(process.execPath, [bin, ...args], {
      cols: columns,
      rows,
      name: 'xterm-256color',
      env: { PATH, HOME, ...env },
    })
    this.process.onData((data) => {
      this.output += data
      this.#screen.write(data)
    })
    this.ended = new Promise((resolve) => this.process.onExit(({ exitCode }) => resolve(exitCode)))
  }

  /** What is on the screen now, without the spaces at the end of lines. */
  get lines(): string[] {
    const { active } = this.#screen.buffer
    return Array.from(
      { length: this.#screen.rows },
      (_, n) => active.getLine(active.baseY + n)?.translateToString(true) ?? '',
    )
  }

  /** Whether the screen is the one of full-screen programs. */
  get isAlternate(): boolean {
    return this.#screen.buffer.active.type === 'alternate'
  }

  /** Waits until a line of the screen matches, and returns the match. */
  async shows(pattern: RegExp): Promise<RegExpExecArray> {
    let found: RegExpExecArray | null = null
    try {
      await until(() => {
        found = this.lines.map((line) => pattern.exec(line)).find((match) => match !== null) ?? null
        return found !== null
      })
    } catch {
      throw new Error(`no line matches ${pattern}:\n${this.lines.join('\n')}`)
    }
    return found as unknown as RegExpExecArray
  }

  resize(columns: number, rows: number): void {
    this.#screen.resize(columns, rows)
    this.process.resize(columns, rows)
  }

  /** Ends the process if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill('SIGKILL')
    } catch {
      // It has ended.
    }
    await this.ended
  }
}
