// The whole window of a terminal, drawn again and again, and given back as it was.
import type { ReadStream, WriteStream } from 'node:tty'
import stringWidth from 'string-width'

const csi = '\u001b['
/** The window of full-screen programs, without a cursor, and where no line is continued on the next. */
const enter = `${csi}?1049h${csi}?25l${csi}?7l`
const leave = `${csi}?7h${csi}?25h${csi}?1049l`

const ctrlC = '\u0003'

export class Screen {
  readonly #out: WriteStream
  readonly #in: ReadStream | undefined
  readonly #onResize: () => void
  readonly #onQuit: () => void
  #isOpen = true
  readonly #onKey = (keys: string): void => {
    if (/[qQ]/.test(keys) || keys.includes(ctrlC)) this.#onQuit()
  }
  /** However the process ends, unless it is killed. */
  readonly #onExit = (): void => this.close()

  /** `onQuit` is called when q or Ctrl-C is pressed. */
  constructor(
    out: WriteStream,
    input: ReadStream | undefined,
    events: { readonly onResize: () => void; readonly onQuit: () => void },
  ) {
    this.#out = out
    this.#in = input?.isTTY ? input : undefined
    this.#onResize = events.onResize
    this.#onQuit = events.onQuit
    process.on('exit', this.#onExit)
    out.on('resize', this.#onResize)
    // Keys arrive at once, and aren't shown. Ctrl-C is a key then, too.
    this.#in?.setRawMode(true).setEncoding('utf8').on('data', this.#onKey).resume()
    out.write(enter)
  }

  get isOpen(): boolean {
    return this.#isOpen
  }

  /** In columns. */
  get width(): number {
    return this.#out.columns
  }

  /** In lines. */
  get height(): number {
    return this.#out.rows
  }

  /** Draws the lines, none wider than the window, with one write: what is replaced by the same text doesn't flicker. */
  draw(lines: readonly string[]): void {
    // The terminal is slower than we are: the next picture will do.
    if (!this.#isOpen || this.#out.writableNeedDrain) return
    const { width, height } = this
    const shown = lines.slice(0, height)
    // At the end of a full line, this would erase its last character.
    const text = shown.map((line) => (stringWidth(line) < width ? `${line}${csi}K` : line)).join('\r\n')
    this.#out.write(`${csi}H${text}${shown.length < height ? `${csi}J` : ''}`)
  }

  close(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    process.off('exit', this.#onExit)
    this.#out.off('resize', this.#onResize)
    this.#in?.off('data', this.#onKey).setRawMode(false).pause()
    this.#out.write(leave)
  }
}
