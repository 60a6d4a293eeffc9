// What a run found: its JSON's form, and the tables in Markdown made from it.

import { callers, type Figure, type Plan } from '../comparison/measure.js'
import { type Operation, operations } from '../comparison/peers.js'
import type { Floor } from '../comparison/pgbench.js'
import type { RequestFigure, RollingFigure } from '../comparison/requests.js'
import type { Environment } from './results.js'
import { isReached, type Ratio } from './targets.js'

export interface Results extends Plan, Environment {
  readonly redis: string
  /** Who couldn't take part, and how to have them. */
  readonly leftOut: readonly string[]
  readonly figures: readonly Figure[]
  readonly floor: readonly Floor[]
  readonly requests: readonly RequestFigure[]
  readonly rolling: readonly RollingFigure[]
  readonly ratios: readonly Ratio[]
}

export function markdown(results: Results): string {
  const { figures, floor, requests, rolling } = results
  return [
    `${machine(results)}. Operations per second, medians of ${results.rounds} rounds of ${results.seconds} s each.`,
    ...results.leftOut.map((who) => `Left out: ${who}.`),
    ...operations.map((operation) => operationTable(operation, figures)),
    table(
      ['pgbench with the store’s statements, sessions per second', 'connections', ''],
      floor.map(({ statement, connections, perSecond }) => [statement, `${connections}`, count(perSecond)]),
    ),
    table(
      ['Requests per second', 'traffic', ''],
      requests.map(({ store, traffic, perSecond }) => [store, traffic, count(perSecond)]),
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

/** The part of it that the README shows. */
export function summary(results: Results): string {
  return [
    `${machine(results)}; operations per second, medians of ${results.rounds} rounds.`,
    '![Sessions read and saved per second by 256 callers](bench/results/chart.svg)',
    ...(['get', 'set'] as const).map((operation) => operationTable(operation, results.figures)),
    ratioTable(results.ratios),
  ].join('\n\n')
}

function ratioTable(ratios: readonly Ratio[]): string {
  const sign = { least: '≥', most: '≤' }
  return table(
    ['Ratio', 'target', 'measured', 'reached'],
    ratios.map((ratio) => [
      ratio.what,
      `${sign[ratio.bound]} ${ratio.target}`,
      ratio.value === undefined ? 'not measured' : ratio.value.toFixed(ratio.value < 0.1 ? 4 : 2),
      { true: 'yes', false: 'NO', undefined: '' }[`${isReached(ratio)}`],
    ]),
  )
}

export function machine(of: Environment & { readonly redis?: string }): string {
  const { cores, cpu, postgres, redis, node, date } = of
  const servers = `PostgreSQL ${postgres}${redis === undefined ? '' : `, Redis ${redis || '(none)'}`}`
  return `${cores} × ${cpu}, ${servers}, Node ${node}, ${date.slice(0, 10)}`
}

export function count(n: number): string {
  return Math.round(n).toLocaleString('en')
}

function operationTable(operation: Operation, figures: readonly Figure[]): string {
  const own = figures.filter((figure) => figure.operation === operation)
  const names = [...new Set(own.map(({ contender }) => contender))]
  return table(
    [operation, ...callers.map((n) => (n === 1 ? '1 caller' : `${n} callers`))],
    names.map((name) => [
      name,
      ...callers.map((n) => {
        const found = own.find((figure) => figure.contender === name && figure.callers === n)
        return found ? count(found.perSecond) : ''
      }),
    ]),
  )
}

/** Aligned, so that it reads well where Markdown isn't rendered. */
export function table(head: string[], rows: string[][]): string {
  if (rows.length === 0) return ''
  const widths = head.map((title, n) => Math.max(3, title.length, ...rows.map((row) => row[n]?.length ?? 0)))
  const pad = (row: string[]): string =>
    `| ${row.map((cell, n) => (n === 0 ? cell.padEnd(widths[n] ?? 0) : cell.padStart(widths[n] ?? 0))).join(' | ')} |`
  const rule = `|${widths.map((width, n) => (n === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  return [pad(head), rule, ...rows.map(pad)].join('\n')
}
