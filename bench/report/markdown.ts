// Formats the results as tables in Markdown.
import { type Operation, operations } from '../comparison/adapter.js'
import { callerCounts } from '../comparison/measure.js'
import { cached, uncached } from '../comparison/peers.js'
import type { Environment, OperationFigure, Ratio, Results } from './results.js'
import { isReached } from './targets.js'

/** All tables. */
export function markdown(results: Results): string {
  const { figures, statements, requests, rolling } = results
  return [
    `${machine(results)}. Operations per second, medians of ${results.rounds} rounds of ${results.seconds} s each; behind them the processor time of a call in µs, of Node + of the server, which varies less from run to run.`,
    ...results.skipped.map((reason) => `Not measured: ${reason}.`),
    ...operations.map((operation) => operationTable(operation, figures)),
    table(
      ['pgbench with the store’s statements, sessions per second', 'connections', ''],
      statements.map(({ statement, connections, perSecond }) => [
        statement,
        `${connections}`,
        count(perSecond),
      ]),
    ),
    table(
      ['Requests per second', 'traffic', '', 'µs of the application'],
      requests.map(({ store, traffic, perSecond, nodeUs }) => [
        store,
        traffic,
        count(perSecond),
        nodeUs.toFixed(0),
      ]),
    ),
    table(
      ['Row writes of `rolling`, read-only', 'requests', 'row writes'],
      rolling.map(({ store, requests, rowWrites }) => [store, count(requests), count(rowWrites)]),
    ),
    ratioTable(results.ratios),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
}

/** The part for the README: the chart, and how many times as much as each peer the store does. */
export function summary(results: Results): string {
  const { figures } = results
  const rate = (peer: string, operation: Operation, callers: number): number | undefined =>
    figures.find((f) => f.peer === peer && f.operation === operation && f.callers === callers)?.perSecond
  const factor = (own: string, peer: string, operation: Operation, callers: number): string => {
    const [a, b] = [rate(own, operation, callers), rate(peer, operation, callers)]
    return a === undefined || b === undefined ? '' : `${twoDigits(a / b)} ×`
  }
  const peers = new Set(
    figures.filter(({ kind }) => kind === 'postgres' || kind === 'redis').map(({ peer }) => peer),
  )
  return [
    `${machine(results)}; medians of ${results.rounds} rounds.`,
    '![Sessions read and saved per second by 256 callers](bench/results/chart.svg)',
    "Calls per second as a multiple of the peer's, with 256 callers (with one caller). Below 1, the peer is faster; Redis writes nothing to disk here.",
    table(
      ['Peer', '`get` from PostgreSQL', '`get` from memory', '`set`'],
      [...peers].map((peer) => [
        peer,
        ...(
          [
            [uncached, 'get'],
            [cached, 'get'],
            [cached, 'set'],
          ] as const
        ).map(
          ([own, operation]) => `${factor(own, peer, operation, 256)} (${factor(own, peer, operation, 1)})`,
        ),
      ]),
    ),
  ].join('\n\n')
}

function ratioTable(ratios: readonly Ratio[]): string {
  const sign = { min: '≥', max: '≤' }
  return table(
    ['Ratio', 'target', 'measured', 'reached'],
    ratios
      .filter(({ value }) => value !== undefined)
      .map((ratio) => [
        ratio.what,
        `${sign[ratio.bound]} ${ratio.target}`,
        ratio.value?.toFixed(ratio.value < 0.1 ? 4 : 2) ?? '',
        { true: 'yes', false: 'NO', undefined: '' }[`${isReached(ratio)}`],
      ]),
  )
}

export function machine(results: Environment & { readonly redis?: string }): string {
  const { cores, cpu, postgres, redis, node, date } = results
  const servers = `PostgreSQL ${postgres}${redis === undefined ? '' : `, Redis ${redis || '(none)'}`}`
  return `${cores} × ${cpu}, ${servers}, Node ${node}, ${date.slice(0, 10)}`
}

/** Formats a number with separators. */
export function count(n: number): string {
  return Math.round(n).toLocaleString('en')
}

function operationTable(operation: Operation, figures: readonly OperationFigure[]): string {
  const rates = figures.filter((figure) => figure.operation === operation)
  const names = [...new Set(rates.map(({ peer }) => peer))]
  return table(
    [
      operation,
      ...callerCounts.map((n) => (n === 1 ? '1 caller' : `${n} callers`)),
      'µs, 1 caller',
      'µs, 256 callers',
    ],
    names.map((name) => [
      name,
      ...callerCounts.map((n) => {
        const found = rates.find((figure) => figure.peer === name && figure.callers === n)
        return found ? count(found.perSecond) : ''
      }),
      ...[1, 256].map((n) => {
        const found = rates.find((figure) => figure.peer === name && figure.callers === n)
        return found ? `${micros(found.processorTime.node)} + ${micros(found.processorTime.server)}` : ''
      }),
    ]),
  )
}

function micros(us: number): string {
  return us < 10 ? us.toFixed(1) : count(us)
}

/** Returns a table with aligned columns, readable where Markdown isn't rendered. */
export function table(head: string[], rows: string[][]): string {
  if (rows.length === 0) return ''
  const widths = head.map((title, n) => Math.max(3, title.length, ...rows.map((row) => row[n]?.length ?? 0)))
  const pad = (row: string[]): string =>
    `| ${row.map((cell, n) => (n === 0 ? cell.padEnd(widths[n] ?? 0) : cell.padStart(widths[n] ?? 0))).join(' | ')} |`
  const rule = `|${widths.map((width, n) => (n === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  return [pad(head), rule, ...rows.map(pad)].join('\n')
}

/** Two digits, or more before the point. `toPrecision` would write 100 as 1.0e+2. */
function twoDigits(value: number): string {
  return value >= 99.5 ? value.toFixed(0) : value.toPrecision(2)
}
