// Draws the figures of `stats --watch` in one line, for a log. Pure.
import { bytes, number } from '../terminal.js'
import { type Figures, sum } from './figures.js'
import { percent, perSecond, unknown } from './format.js'

export function drawLine({
  at,
  error,
  rates,
  hitRatio,
  processes,
  server,
  sizes,
  sessions,
}: Figures): string {
  if (error !== undefined) return `${at} ${error.message}`
  const silent = processes.filter(({ silentMs }) => silentMs !== undefined).length
  const caching = processes.filter(
    (process) => process.silentMs === undefined && process.isTrusted !== undefined,
  )
  const figures = [
    `memory ${perSecond(rates.memory)}/s`,
    `get ${perSecond(rates.get)}/s`,
    `set ${perSecond(rates.set)}/s`,
    `touch ${perSecond(rates.touch)}/s`,
    `destroy ${perSecond(rates.destroy)}/s`,
    `errors ${perSecond(rates.errors)}/s`,
    `conflicts ${perSecond(rates.conflicts)}/s`,
    `hit ratio ${percent(hitRatio)}`,
    `processes ${number(processes.length - silent)}${silent > 0 ? ` (${number(silent)} silent)` : ''}`,
    `trusted ${number(caching.filter(({ isTrusted }) => isTrusted).length)}/${number(caching.length)}`,
    `waiting ${number(sum(processes.map(({ waiting }) => waiting)))}`,
    `rows ${perSecond(rates.rows)}/s`,
    `active ${sessions === undefined ? unknown : number(sessions.active)}`,
    `size ${sizes === undefined ? unknown : bytes(sizes.bytes.total)}`,
    `queue ${percent(server?.queueUsage)}`,
    `lock waits ${server === undefined ? unknown : number(server.lockWaits)}`,
  ]
  return `${at} ${figures.join(', ')}`
}
