// What the command line prints and asks: colours, bars and progress on a terminal, plain lines elsewhere.
import { createInterface } from 'node:readline'

type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow'

const codes: Record<Style, [number, number]> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
}

/** How often progress is told, in ms: on a terminal, and in lines. */
const redrawMs = 100
const lineMs = 10_000

export class Terminal {
  readonly #out: NodeJS.WriteStream
  readonly #errors: NodeJS.WriteStream
  readonly #in: NodeJS.ReadStream | undefined
  readonly #isColoured: boolean
  #told = performance.now()
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
    this.#isColoured = out.isTTY === true && !env.NO_COLOR && env.TERM !== 'dumb'
    // Whoever reads has seen enough: `| head`.
    for (const stream of [out, errors])
      stream.on('error', (error: NodeJS.ErrnoException) => {
        process.exit(error.code === 'EPIPE' ? 0 : 1)
      })
  }

  /** Columns to draw in. */
  get width(): number {
    return Math.max(20, this.#out.isTTY ? this.#out.columns || 80 : 80)
  }

  /** Whether somebody looks at what is printed, and no program reads it. */
  get isWatched(): boolean {
    return this.#out.isTTY === true
  }

  /** Whether somebody is there who can be asked. */
  get canAsk(): boolean {
    return this.#in?.isTTY === true && this.#errors.isTTY === true
  }

  /** Asks; what isn't yes is no, and so is the end of the input. */
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

  line(text = ''): void {
    this.#clear()
    this.#out.write(`${text}\n`)
  }

  /** For people, beside what is printed for programs. */
  note(text: string): void {
    this.#clear()
    this.#errors.write(`${text}\n`)
  }

  json(value: unknown): void {
    this.line(JSON.stringify(value, null, this.#out.isTTY ? 2 : 0))
  }

  style(style: Style, text: string): string {
    const [on, off] = codes[style]
    return this.#isColoured ? `\u001b[${on}m${text}\u001b[${off}m` : text
  }

  /** How far something is, between 0 and 1: a bar that is redrawn, or a line now and then. */
  progress(done: number, text: string): void {
    const { isTTY } = this.#errors
    const now = performance.now()
    if (now - this.#told < (isTTY ? redrawMs : lineMs)) return
    this.#told = now
    const percent = `${Math.floor(done * 100)} %`.padStart(5)
    if (!isTTY) {
      this.#errors.write(`${percent.trim()}: ${text}\n`)
      return
    }
    const width = Math.max(20, this.#errors.columns || 80) - 1
    const room = width - percent.length - text.length - 2
    const drawn = room >= 8 ? `${bar(done, room)} ` : ''
    this.#errors.write(`\r\u001b[K${`${drawn}${percent} ${text}`.slice(0, width)}`)
    this.#hasBar = true
  }

  /** Rows of a name, a number of things and what share of the largest that is. */
  histogram(rows: readonly { name: string; count: number }[]): void {
    const most = Math.max(1, ...rows.map(({ count }) => count))
    const names = Math.max(...rows.map(({ name }) => name.length))
    const counts = Math.max(...rows.map(({ count }) => number(count).length))
    const room = Math.max(1, this.width - names - counts - 7)
    for (const { name, count } of rows)
      this.line(
        `  ${name.padStart(names)}  ${number(count).padStart(counts)}  ${bar(count / most, room).trimEnd()}`.trimEnd(),
      )
  }

  #clear(): void {
    if (this.#hasBar) this.#errors.write('\r\u001b[K')
    this.#hasBar = false
  }
}

const eighths = ' ▏▎▍▌▋▊▉█'

function bar(share: number, width: number): string {
  const full = Math.min(1, Math.max(0, share)) * width * 8
  // What is there is seen.
  const drawn = share > 0 ? Math.max(1, Math.round(full)) : 0
  const rest = drawn % 8 === 0 ? '' : eighths[drawn % 8]
  return ('█'.repeat(Math.floor(drawn / 8)) + rest).padEnd(width)
}

/** With separators. */
export function number(value: number): string {
  return value.toLocaleString('en-US')
}

export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let n = 0
  let rest = value
  while (rest >= 1024 && n < units.length - 1) {
    rest /= 1024
    n++
  }
  return `${rest >= 100 || n === 0 ? Math.round(rest) : rest.toFixed(1)} ${units[n]}`
}

/** The two largest units of a time in ms. */
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
