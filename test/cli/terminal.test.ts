// What the command line prints on terminals of several widths, and elsewhere.
import { EventEmitter } from 'node:events'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { stripVTControlCharacters } from 'node:util'
import { expect } from 'chai'
import stringWidth from 'string-width'
import { sessionPrinter } from '../../lib/cli/session-printer.js'
import { bytes, duration, Terminal } from '../../lib/cli/terminal.js'

/** An output stream that keeps its text. */
class Screen extends EventEmitter {
  text = ''
  constructor(
    readonly isTTY: boolean,
    readonly columns = 80,
  ) {
    super()
  }
  write(text: string): void {
    this.text += text
  }
}

function open(isTTY: boolean, columns = 80, env: NodeJS.ProcessEnv = {}) {
  const [out, errors] = [new Screen(isTTY, columns), new Screen(isTTY, columns)]
  const streams = [out, errors].map((screen) => screen as unknown as NodeJS.WriteStream)
  const input = Object.assign(new PassThrough(), { isTTY })
  return {
    out,
    errors,
    input,
    terminal: new Terminal(
      streams[0] as NodeJS.WriteStream,
      streams[1] as NodeJS.WriteStream,
      env,
      input as unknown as NodeJS.ReadStream,
    ),
  }
}

const esc = '\u001b'

describe('the terminal', () => {
  it('uses colours on a terminal only, and not with NO_COLOR, unless FORCE_COLOR says so', () => {
    const styled = (isTTY: boolean, env = {}): string => open(isTTY, 80, env).terminal.style('red', 'no')
    expect(styled(true)).to.equal(`${esc}[31mno${esc}[39m`)
    expect(styled(true, { NO_COLOR: '1' })).to.equal('no')
    expect(styled(true, { NO_COLOR: '' })).to.equal(`${esc}[31mno${esc}[39m`)
    expect(styled(true, { TERM: 'dumb' })).to.equal('no')
    expect(styled(false)).to.equal('no')
    expect(styled(false, { FORCE_COLOR: '1' })).to.equal(`${esc}[31mno${esc}[39m`)
    expect(styled(false, { FORCE_COLOR: '', NO_COLOR: '1' })).to.equal(`${esc}[31mno${esc}[39m`)
    expect(styled(true, { FORCE_COLOR: '0' })).to.equal('no')
  })

  for (const columns of [5, 20, 24, 40, 200])
    it(`draws no progress wider than a window of ${columns} columns`, async () => {
      const { errors, terminal } = open(true, columns)
      await sleep(110)
      terminal.progress(0.42, '420,000 deleted, 210,000/s, 3 s left')
      const [, drawn = ''] = errors.text.split(`\r${esc}[K`)
      expect(drawn).to.include('42 %')
      expect(drawn.length).to.be.below(Math.max(20, columns))
      if (columns === 200) expect(drawn).to.match(/█{50}/)
      terminal.line('done')
      expect(errors.text.endsWith(`\r${esc}[K`)).to.equal(true)
    })

  it('draws a histogram within the window', () => {
    for (const columns of [20, 30, 80]) {
      const { out, terminal } = open(true, columns)
      terminal.histogram([
        { name: '64 B', count: 10 },
        { name: '1.0 KiB', count: 1 },
        { name: '2.0 KiB', count: 0 },
      ])
      for (const line of out.text.split('\n')) expect(line.length).to.be.at.most(columns)
      // Even a small count has a visible bar.
      expect(out.text).to.match(/1 {2}[▏▎▍▌▋▊▉█]/)
    }
  })

  for (const columns of [20, 43, 60, 80, 103, 104, 200])
    it(`lists sessions within a window of ${columns} columns, each handle whole`, () => {
      const { out, terminal } = open(true, columns)
      const print = sessionPrinter(terminal, false)
      const handle = 'h'.repeat(43)
      const times = { createdAt: '2020-01-01T00:00:00Z', lastAccessedAt: '2020-01-01T00:00:00Z' }
      print({ handle, userId: 'u'.repeat(100), ...times, expiresInMs: 86_399_999_000, bytes: 1_000_000 })
      print({ handle, userId: null, createdAt: null, lastAccessedAt: null, expiresInMs: 1, bytes: 1 })
      const plain = out.text.replaceAll(`${esc}[1m`, '').replaceAll(`${esc}[22m`, '')
      expect(plain.split(handle)).to.have.length(3)
      for (const line of plain.split('\n'))
        if (line !== handle) expect(line.length, line).to.be.at.most(columns)
      expect(plain).to.match(columns >= 60 ? /u… .*977 KiB/ : /uuu/)
    })

  for (const columns of [60, 104, 200])
    it(`lists users with Chinese names and emoji within a window of ${columns} columns`, () => {
      const { out, terminal } = open(true, columns)
      const print = sessionPrinter(terminal, false)
      const handle = 'h'.repeat(43)
      const times = { createdAt: '2020-01-01T00:00:00Z', lastAccessedAt: '2020-01-01T00:00:00Z' }
      for (const userId of ['用户'.repeat(40), '🙂'.repeat(40), 'ann'])
        print({ handle, userId, ...times, expiresInMs: 60_000, bytes: 1_000 })
      const lines = stripVTControlCharacters(out.text).trimEnd().split('\n')
      for (const line of lines) expect(stringWidth(line), line).to.be.at.most(columns)
      // In the table, all columns after the user's are aligned.
      if (columns === 200) expect(new Set(lines.map((line) => stringWidth(line))).size).to.equal(1)
      expect(out.text).to.match(/用…/).and.to.match(/🙂…/)
    })

  it('prints no progress line in the first seconds where there is no terminal', () => {
    const { errors, terminal } = open(false)
    for (let n = 0; n < 1_000; n++) terminal.progress(n / 1_000, 'working')
    expect(errors.text).to.equal('')
  })

  for (const [answer, expected] of [
    ['y\n', true],
    [' YES \n', true],
    ['n\n', false],
    ['\n', false],
    ['yesterday\n', false],
    ['', false],
  ] as const)
    it(`reads ${JSON.stringify(answer)} as ${expected ? 'yes' : 'no'}`, async () => {
      const { errors, terminal, input } = open(true)
      expect(terminal.canAsk).to.equal(true)
      const confirmed = terminal.confirm('Destroy 3 sessions?')
      input.end(answer)
      expect(await confirmed).to.equal(expected)
      expect(errors.text).to.include('Destroy 3 sessions? [y/N] ')
    })

  it('can’t ask where there is no terminal', () => {
    expect(open(false).terminal.canAsk).to.equal(false)
  })

  it('formats sizes and durations with their units', () => {
    expect([0, 1023, 1024, 1_600_000, 5e12].map(bytes)).to.deep.equal([
      '0 B',
      '1023 B',
      '1.0 KiB',
      '1.5 MiB',
      '4.5 TiB',
    ])
    expect([0, 999, 1_000, 61_000, 90_061_000, 3_600_000].map(duration)).to.deep.equal([
      '0 ms',
      '999 ms',
      '1 s',
      '1 min 1 s',
      '1 d 1 h',
      '1 h',
    ])
  })
})
