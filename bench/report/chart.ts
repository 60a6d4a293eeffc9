// Draws the README's chart of get and set with 256 callers, as SVG for light and dark pages.
import type { Operation } from '../comparison/adapter.js'
import { count, machine } from './markdown.js'
import type { Results } from './results.js'

const width = 800
/** The space for names on the left, and for numbers on the right. */
const leftMargin = 250
const rightMargin = 90
const rowHeight = 26
const minRate = 1_000
const maxRate = 10_000_000

/** The position of a rate on a logarithmic scale. The chart has points, as bars would have to begin at 0. */
const x = (rate: number): number =>
  leftMargin + ((width - leftMargin - rightMargin) * Math.log(rate / minRate)) / Math.log(maxRate / minRate)

export function chart(results: Results): string {
  const figures = results.figures.filter(({ callers }) => callers === 256)
  const rateOf = (name: string, operation: Operation): number | undefined =>
    figures.find((figure) => figure.peer === name && figure.operation === operation)?.perSecond
  const names = [...new Set(figures.map(({ peer }) => peer))]
  const panels: string[] = []
  let y = 56
  for (const operation of ['get', 'set'] as const) {
    const rows = names
      .map((name) => ({ name, rate: rateOf(name, operation) ?? 0 }))
      .filter(({ rate }) => rate > 0)
      .toSorted((a, b) => b.rate - a.rate)
    panels.push(panel(operation, rows, y))
    y += rows.length * rowHeight + 72
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}" role="img" aria-labelledby="title">
<title id="title">Sessions read and saved per second by 256 callers, logarithmic scale</title>
<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .own { font-weight: 600 }
  .small { font-size: 11px; fill: #59636e }
  .head { font-size: 15px; font-weight: 600 }
  line { stroke: #d1d9e0 }
  circle { fill: #818b98 }
  circle.own { fill: #0969da }
  rect { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .small { fill: #9198a1 }
    line { stroke: #3d444d }
    circle { fill: #9198a1 }
    circle.own { fill: #4493f8 }
    rect { fill: #0d1117 }
  }
</style>
<rect width="${width}" height="${y}"/>
<text class="small" x="16" y="24">${escapeXml(machine(results))}</text>
${panels.join('\n')}
</svg>
`
}

function panel(operation: string, rows: { name: string; rate: number }[], top: number): string {
  const bottom = top + 12 + rows.length * rowHeight
  const parts = [`<text class="head" x="16" y="${top}">${operation} per second, 256 callers</text>`]
  for (let rate = minRate; rate <= maxRate; rate *= 10) {
    const at = x(rate).toFixed(1)
    parts.push(`<line x1="${at}" x2="${at}" y1="${top + 12}" y2="${bottom}"/>`)
    parts.push(`<text class="small" x="${at}" y="${bottom + 16}" text-anchor="middle">${count(rate)}</text>`)
  }
  for (const [n, { name, rate }] of rows.entries()) {
    const y = top + 12 + (n + 0.5) * rowHeight
    const own = name.startsWith('koa-pg-store') ? ' class="own"' : ''
    const at = x(Math.min(maxRate, Math.max(minRate, rate)))
    parts.push(`<text${own} x="${leftMargin - 12}" y="${y + 4}" text-anchor="end">${escapeXml(name)}</text>`)
    parts.push(`<line x1="${leftMargin}" x2="${at.toFixed(1)}" y1="${y}" y2="${y}"/>`)
    parts.push(`<circle${own} cx="${at.toFixed(1)}" cy="${y}" r="6"/>`)
    parts.push(`<text${own} x="${(at + 12).toFixed(1)}" y="${y + 4}">${count(rate)}</text>`)
  }
  return parts.join('\n')
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
