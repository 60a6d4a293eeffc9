// Draws the page of `stats --watch`: lines of text that fit a window. Pure.
import stringWidth from 'string-width'
import { bar, bytes, duration, number, padEnd, type Style, sparkline, truncate } from '../terminal.js'
import type { Figures, Latency, ProcessFigures, Rate } from './figures.js'
import { sum } from './figures.js'
import { percent, perSecond, plural, timeOf, unknown } from './format.js'

/** A part of a line, with or without a style. */
type Part = string | readonly [Style, string]
type Line = readonly Part[]

export interface Page {
  readonly figures: Figures
  /** The rates so far, the last one last. */
  readonly history: Readonly<Record<Rate, readonly (number | undefined)[]>>
  readonly intervalMs: number
  readonly width: number
  readonly height: number
}

const labelWidth = 13
const valueWidth = 10
const latencyWidth = 10
/** Narrower windows have no room for what is right of the sparklines. */
const minWidthForDetails = 70

/** Returns at most `height` lines, none wider than `width`. `style` colours a text. */
export function drawPage(page: Page, style: (style: Style, text: string) => string): string[] {
  const { width, height } = page
  const body = [...ratesOf(page), [], ...stateOf(page.figures), ...processesOf(page)]
  const lines = [title(page), ...body].slice(0, Math.max(0, height - 1))
  while (lines.length < height - 1) lines.push([])
  return [...lines, footer(page)].map((line) =>
    cutOff(line, width)
      .map((part) => (typeof part === 'string' ? part : style(...part)))
      .join(''),
  )
}

function title({ figures, intervalMs, width }: Page): Line {
  const name = `${figures.table}${figures.server ? ` in ${figures.server.database}` : ''}`
  const right = `every ${duration(intervalMs)}   ${timeOf(figures.at)}`
  const gap = width - stringWidth(name) - stringWidth(right)
  return gap < 2 ? [['bold', name]] : [['bold', name], `${' '.repeat(gap)}${right}`]
}

function ratesOf(page: Page): Line[] {
  const { figures, width, intervalMs } = page
  const { rates, latency, errorCodes, hitRatio, hotRatio } = figures
  const hasDetails = width >= minWidthForDetails
  const chartWidth = Math.max(0, width - labelWidth - valueWidth - 2 - (hasDetails ? 2 * latencyWidth : 0))
  const row = (label: string, value: string, chart: string, details = '', style?: Style): Line => {
    const start = `${label.padEnd(labelWidth)}${value.padStart(valueWidth)}`
    const end = `  ${padEnd(chart, chartWidth)}${hasDetails ? details : ''}`
    return [style === undefined ? start : [style, start], end]
  }
  const rate = (name: Rate, label: string, details?: string, style?: Style): Line =>
    row(label, perSecond(rates[name]), sparkline(page.history[name], chartWidth), details, style)
  const method = (name: keyof Figures['latency']): Line => rate(name, name, latencyText(latency[name]))
  const ratio = hitRatio === undefined ? '' : bar(hitRatio, chartWidth)
  const header = `last ${duration(chartWidth * intervalMs)}`
  return [
    [
      [
        'dim',
        joined(
          row('', 'per second', header, `${'median'.padStart(latencyWidth)}${'95 %'.padStart(latencyWidth)}`),
        ),
      ],
    ],
    rate('memory', 'from memory'),
    method('get'),
    method('set'),
    method('touch'),
    method('destroy'),
    rate(
      'errors',
      'errors',
      ` ${truncate(errorCodes.map(shortCode).join(' '), 2 * latencyWidth - 1)}`,
      alarming(rates.errors, 'red'),
    ),
    rate('conflicts', 'conflicts'),
    row('hit ratio', percent(hitRatio), ratio),
    rate(
      'rows',
      'rows changed',
      hotRatio === undefined ? '' : `HOT ${percent(hotRatio)}`.padStart(2 * latencyWidth),
    ),
  ]
}

function latencyText(latency: Latency | undefined): string {
  if (latency === undefined) return ''
  const text = (ms: number | null): string =>
    ms === null ? 'over 10 s' : `≤ ${ms < 1_000 ? `${ms} ms` : duration(ms)}`
  return text(latency.median).padStart(latencyWidth) + text(latency.p95).padStart(latencyWidth)
}

function shortCode(code: string): string {
  return code.replace(/^ERR_SESSION_/, '')
}

function stateOf({ processes, server, sizes, sessions, deadRows }: Figures): Line[] {
  const answering = processes.filter(({ silentMs }) => silentMs === undefined)
  const caching = answering.filter(({ isTrusted }) => isTrusted !== undefined)
  const trusting = caching.filter(({ isTrusted }) => isTrusted)
  const total = (read: (process: ProcessFigures) => number): number => sum(answering.map(read))
  const waiting = total((process) => process.waiting)
  const oldestMs = Math.max(0, ...answering.map(({ oldestWaitMs }) => oldestWaitMs))
  const line = (label: string, text: string, style?: Style): Line => [
    label.padEnd(labelWidth),
    style === undefined ? text : [style, text],
  ]
  const cached = `${plural(
    total((process) => process.cachedSessions),
    'session',
  )} in memory, ${bytes(total((process) => process.cachedBytes))}`
  return [
    line(
      'caches',
      caching.length === 0
        ? unknown
        : `trusted in ${number(trusting.length)} of ${plural(caching.length, 'process', 'es')}; ${cached}`,
      trusting.length < caching.length ? 'red' : undefined,
    ),
    line(
      'waiting',
      answering.length === 0
        ? unknown
        : `${plural(waiting, 'call')}${oldestMs > 0 ? `, the oldest for ${duration(oldestMs)}` : ''}; ${plural(
            total((process) => process.pendingTouches),
            'touch',
            'es',
          )} to write`,
      oldestMs > 1_000 ? 'yellow' : undefined,
    ),
    line(
      'sessions',
      sessions === undefined
        ? unknown
        : `${number(sessions.active)} active, ${number(sessions.expired)} expired, ${number(sessions.destroyed)} destroyed (${duration(sessions.agoMs)} ago)`,
    ),
    line(
      'size',
      sizes === undefined
        ? unknown
        : `${bytes(sizes.bytes.total)}: table ${bytes(sizes.bytes.table)}, indexes ${bytes(sizes.bytes.indexes)}${deadRows === undefined ? '' : `; ${plural(deadRows, 'dead row')}`}`,
    ),
    line(
      'last sweep',
      sizes === undefined
        ? unknown
        : sizes.lastSweep === null
          ? 'never'
          : `${duration(sizes.lastSweep.agoMs)} ago: ${number(sizes.lastSweep.deleted)} deleted in ${duration(sizes.lastSweep.ms)}`,
    ),
    line(
      'server',
      server === undefined
        ? unknown
        : `${number(server.connections)} of ${number(server.maxConnections)} connections; oldest transaction ${server.oldestTransactionMs === null ? 'none' : duration(server.oldestTransactionMs)}`,
    ),
    line('queue', ...queueOf(server)),
    line('locks', ...locksOf(server)),
  ]
}

function queueOf(server: Figures['server']): [string, Style?] {
  if (server === undefined) return [unknown]
  const usage = `${percent(server.queueUsage)} of NOTIFY's queue used, ${plural(server.listeners, 'store')} listening`
  // PostgreSQL warns from here on, too.
  return server.queueUsage >= 0.5 ? [`${usage}: run doctor`, 'red'] : [usage]
}

function locksOf(server: Figures['server']): [string, Style?] {
  if (server === undefined) return [unknown]
  const { lockWaits, lockHolders } = server
  if (lockWaits === 0) return ['no statement waits for one']
  const waits = lockWaits === 1 ? '1 statement waits' : `${number(lockWaits)} statements wait`
  return [`${waits} for process ${lockHolders.join(', ') || unknown} of the server`, 'yellow']
}

function processesOf({ figures, width, height }: Page): Line[] {
  const { processes } = figures
  if (processes.length === 0) return []
  // The title, the rates and the state before, and the footer.
  const room = height - 1 - 10 - 1 - 8 - 1
  const columns = [10, 11, 9]
  const nameWidth = Math.min(
    Math.max(20, width - sum(columns) - 26),
    Math.max(labelWidth, ...processes.map(({ name }) => stringWidth(name))),
  )
  const cells = (values: readonly string[]): string =>
    values.map((value, n) => value.padStart(columns[n] ?? 0)).join('')
  const row = (process: ProcessFigures): Line => {
    const { name, callsPerSecond, hitRatio, waiting, silentMs, isTrusted } = process
    const start = `${padEnd(truncate(name, nameWidth), nameWidth)}${cells([percent(hitRatio), perSecond(callsPerSecond), number(waiting)])}  `
    if (silentMs !== undefined) return [start, ['red', `no answer for ${duration(silentMs)}`]]
    if (isTrusted === false) return [start, ['red', 'not trusted']]
    return [start, isTrusted === undefined ? 'none' : 'trusted']
  }
  const header: Line = [
    ['dim', `${padEnd('process', nameWidth)}${cells(['hit ratio', 'calls/s', 'waiting'])}  cache`],
  ]
  if (processes.length <= room - 1) return [header, ...processes.map(row)]
  const shown = Math.max(0, room - 2)
  return [header, ...processes.slice(0, shown).map(row), [`… and ${number(processes.length - shown)} more`]]
}

function footer({ figures }: Page): Line {
  const { error, processError, processes } = figures
  if (error !== undefined) return [['red', `since ${timeOf(error.since)}: ${error.message}`]]
  if (processError !== undefined) return [['red', `can't ask the processes: ${processError}`]]
  if (processes.length === 0)
    return [['yellow', 'no process answers: none listens for changes here, or see --help about poolers']]
  return [['dim', 'q: quit']]
}

function alarming(rate: number | undefined, style: Style): Style | undefined {
  return rate !== undefined && rate > 0 ? style : undefined
}

function joined(line: Line): string {
  return line.map((part) => (typeof part === 'string' ? part : part[1])).join('')
}

/** Cuts a line off at a width. */
function cutOff(line: Line, width: number): Line {
  let rest = width
  const parts: Part[] = []
  for (const part of line) {
    const text = typeof part === 'string' ? part : part[1]
    const isLast = part === line.at(-1)
    const shown = truncate(isLast ? text.trimEnd() : text, rest, '…')
    parts.push(typeof part === 'string' ? shown : [part[0], shown])
    rest -= stringWidth(shown)
    if (shown !== text && !isLast) break
    if (rest <= 0) break
  }
  return parts
}
