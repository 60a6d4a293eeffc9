// Prints and asks for the command line: with colours and progress bars on a terminal, in plain lines elsewhere.
import { createInterface } from 'node:readline'
import { styleText } from 'node:util'
import stringWidth from 'string-width'
import { Screen } from './screen.js'

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow'

/** How often progress is printed: as a bar on a terminal, and as lines. */
const barIntervalMs = 100
const lineIntervalMs = 10_000

const minWidth = 20
const defaultWidth = 80
const minBarWidth = 8

export class Terminal {
  readonly #out: NodeJS.WriteStream
  readonly #errors: NodeJS.WriteStream
  readonly #in: NodeJS.ReadStream | undefined
  readonly #isColoured: boolean
  readonly #isDumb: boolean
  #screen: Screen | undefined
  #lastProgressAt = performance.now()
  #hasBar = false

  constructor(
    out: NodeJS.WriteStream,
    errors: NodeJS.WriteStream,
    env: NodeJS.ProcessEnv,
    input?: NodeJS.ReadStream,
  ) {
    this.#in = input
    this.#out = out
    this.#errors = errors
    const { FORCE_COLOR } = env
    this.#isDumb = env.TERM === 'dumb'
    this.#isColoured =
      FORCE_COLOR === undefined
        ? out.isTTY === true && !env.NO_COLOR && !this.#isDumb
        : !['0', 'false'].includes(FORCE_COLOR)
    // The reader may close the pipe early, as `| head` does.
    for (const stream of [out, errors])
      stream.on('error', (error: NodeJS.ErrnoException) => {
        process.exit(error.code === 'EPIPE' ? 0 : 1)
      })
  }

  /** The width of the window, in columns. */
  get width(): number {
    return Math.max(minWidth, (this.#out.isTTY && this.#out.columns) || defaultWidth)
  }

  /** Whether the output goes to a terminal, not to a file or a program. */
  get isTerminal(): boolean {
    return this.#out.isTTY === true
  }

  /** Whether there is a terminal to ask the user. */
  get canAsk(): boolean {
    return this.#in?.isTTY === true && this.#errors.isTTY === true
  }

  /** Opens the whole window to draw in; `undefined` where the output goes to no terminal, or to one without a cursor. */
  openScreen(events: ConstructorParameters<typeof Screen>[2]): Screen | undefined {
    if (!this.isTerminal || this.#isDumb) return undefined
    this.#screen = new Screen(this.#out, this.#in, events)
    return this.#screen
  }

  /** Asks the user. Resolves with false for any answer but yes, and at the end of the input. */
  confirm(question: string): Promise<boolean> {
    this.#clear()
    return new Promise((resolve) => {
      const lines = createInterface({ input: this.#in as NodeJS.ReadStream, output: this.#errors })
      lines.once('close', () => resolve(false))
      lines.once('SIGINT', () => lines.close())
      lines.question(`${question} [y/N] `, (answer) => {
        resolve(/^\s*y(es)?\s*$/i.test(answer))
        lines.close()
      })
    })
  }

  /** Prints to the standard output. */
  line(text = ''): void {
    this.#clear()
    this.#out.write(`${text}\n`)
  }

  /** Prints a message for people to the standard error. */
  note(text: string): void {
    // It would destroy the picture, which tells of the same problems.
    if (this.#screen?.isOpen) return
    this.#clear()
    this.#errors.write(`${text}\n`)
  }

  json(value: unknown): void {
    this.line(JSON.stringify(value, null, this.#out.isTTY ? 2 : 0))
  }

  style(style: Style, text: string): string {
    // The stream isn't validated here: it may be another one than this terminal's.
    return this.#isColoured ? styleText(style, text, { validateStream: false }) : text
  }

  /** Shows progress, `done` between 0 and 1: a bar on a terminal, else a line every ten seconds. */
  progress(done: number, text: string): void {
    const { isTTY } = this.#errors
    const now = performance.now()
    if (now - this.#lastProgressAt < (isTTY ? barIntervalMs : lineIntervalMs)) return
    this.#lastProgressAt = now
    const percent = `${Math.floor(done * 100)} %`.padStart(5)
    if (!isTTY) {
      this.#errors.write(`${percent.trim()}: ${text}\n`)
      return
    }
    const width = Math.max(minWidth, this.#errors.columns || defaultWidth) - 1
    const barWidth = width - percent.length - stringWidth(text) - 2
    const prefix = barWidth >= minBarWidth ? `${bar(done, barWidth)} ` : ''
    this.#errors.write(`\r\u001b[K${truncate(`${prefix}${percent} ${text}`, width, '')}`)
    this.#hasBar = true
  }

  /** Prints a row for each name: its count, and a bar relative to the largest count. */
  histogram(rows: readonly { name: string; count: number }[]): void {
    const maxCount = Math.max(1, ...rows.map(({ count }) => count))
    const nameWidth = Math.max(...rows.map(({ name }) => stringWidth(name)))
    const countWidth = Math.max(...rows.map(({ count }) => number(count).length))
    const barWidth = Math.max(1, this.width - nameWidth - countWidth - 7)
    for (const { name, count } of rows)
      this.line(
        `  ${' '.repeat(nameWidth - stringWidth(name))}${name}  ${number(count).padStart(countWidth)}  ${bar(count / maxCount, barWidth).trimEnd()}`.trimEnd(),
      )
  }

  #clear(): void {
    if (this.#hasBar) this.#errors.write('\r\u001b[K')
    this.#hasBar = false
  }
}

const eighths = ' ▏▎▍▌▋▊▉█'
const heights = '▁▂▃▄▅▆▇█'

/** Draws the last values that fit into a width, relative to the largest of them. An unknown one is a space. */
export function sparkline(values: readonly (number | undefined)[], width: number): string {
  const shown = width > 0 ? values.slice(-width) : []
  const max = Math.max(...shown.map((value) => value ?? 0))
  const draw = (value: number | undefined): string =>
    value === undefined
      ? ' '
      : (heights[value > 0 ? Math.ceil((value / max) * (heights.length - 1)) : 0] as string)
  return shown.map(draw).join('').padStart(width)
}

/** Draws a bar, of which `share` is filled, from 0 to 1. */
export function bar(share: number, width: number): string {
  const exact = Math.min(1, Math.max(0, share)) * width * 8
  // Even the smallest share is visible.
  const length = share > 0 ? Math.max(1, Math.round(exact)) : 0
  const end = length % 8 === 0 ? '' : eighths[length % 8]
  return ('█'.repeat(Math.floor(length / 8)) + end).padEnd(width)
}

/** Appends spaces up to a width in columns, of which Chinese characters and emoji take two each. */
export function padEnd(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - stringWidth(text)))
}

/** Cuts a text off at a width in columns, between characters as a reader sees them, and marks the cut. */
export function truncate(text: string, width: number, mark = '…'): string {
  if (stringWidth(text) <= width) return text
  let cut = ''
  let rest = width - stringWidth(mark)
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    rest -= stringWidth(segment)
    if (rest < 0) break
    cut += segment
  }
  return cut + mark
}

/** Formats a number with separators. */
export function number(value: number): string {
  return value.toLocaleString('en-US')
}

/** Formats a size, such as 1.5 MiB. */
export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  let size = value
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024
    unit++
  }
  return `${size >= 100 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`
}

/** Formats a duration by its two largest units, such as 1 h 5 min. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  const units: [string, number][] = [
    ['d', 86_400],
    ['h', 3_600],
    ['min', 60],
    ['s', 1],
  ]
  let seconds = Math.round(ms / 1_000)
  const parts: string[] = []
  for (const [unit, size] of units) {
    const count = Math.floor(seconds / size)
    if (count > 0) parts.push(`${count} ${unit}`)
    seconds -= count * size
  }
  return parts.slice(0, 2).join(' ')
}
