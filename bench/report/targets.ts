// The figures to reach, as ratios in one run.

import type { Figure } from '../comparison/measure.js'
import { cached, cached4, simple, uncached } from '../comparison/peers.js'
import type { Traffic } from '../comparison/requests.js'
import type { Results } from './markdown.js'

export interface Ratio {
  readonly what: string
  readonly target: number
  /** At least the target, or at most. */
  readonly bound: 'least' | 'most'
  /** Absent where one side wasn't measured. */
  readonly value?: number
}

export function ratios({ figures, requests, rolling }: Omit<Results, 'ratios'>): Ratio[] {
  const of = (contender: string, operation: Figure['operation'], callers = 256): number | undefined =>
    figures.find((f) => f.contender === contender && f.operation === operation && f.callers === callers)
      ?.perSecond
  const best = (kind: string, operation: Figure['operation'], callers = 256): number | undefined => {
    const rates = figures
      .filter((f) => f.kind === kind && f.operation === operation && f.callers === callers)
      .map((f) => f.perSecond)
    return rates.length > 0 ? Math.max(...rates) : undefined
  }
  const request = (store: 'koa-pg-store' | 'MemoryStore', traffic: Traffic): number | undefined =>
    requests.find((r) => r.store === store && r.traffic === traffic)?.perSecond
  const writes = (store: string): number | undefined => {
    const found = rolling.find((r) => r.store === store)
    return found && found.rowWrites / found.requests
  }
  const memory = (traffic: Traffic) => divide(request(cached, traffic), request('MemoryStore', traffic))
  const least = (what: string, target: number, value: number | undefined): Ratio =>
    line(what, target, 'least', value)
  const most = (what: string, target: number, value: number | undefined): Ratio =>
    line(what, target, 'most', value)
  return [
    least('uncached get : connect-pg-simple', 9, divide(of(uncached, 'get'), of(simple, 'get'))),
    least('uncached get : best Redis', 1.2, divide(of(uncached, 'get'), best('redis', 'get'))),
    least('set, 4 others listen : connect-pg-simple', 6, divide(of(cached4, 'set'), of(simple, 'set'))),
    least('set, 4 others listen : best Redis', 0.5, divide(of(cached4, 'set'), best('redis', 'set'))),
    // Latencies of one caller: the inverse of rates.
    most(
      'latency of a lone get, uncached : best PostgreSQL peer',
      1,
      divide(best('postgres', 'get', 1), of(uncached, 'get', 1)),
    ),
    most(
      'latency of a lone set, uncached : best PostgreSQL peer',
      1,
      divide(best('postgres', 'set', 1), of(uncached, 'set', 1)),
    ),
    most(
      'latency of a lone set, 4 others listen : best PostgreSQL peer',
      1,
      divide(best('postgres', 'set', 1), of(cached4, 'set', 1)),
    ),
    least('cached get : best Redis', 8.5, divide(of(cached, 'get'), best('redis', 'get'))),
    most('row writes of a rolling read : connect-pg-simple', 0.01, divide(writes(cached), writes(simple))),
    least('Koa requests, read-only : MemoryStore', 0.95, memory('read-only')),
    least('Koa requests, nine reads to one change : MemoryStore', 0.85, memory('nine reads to one change')),
  ]
}

function line(what: string, target: number, bound: Ratio['bound'], value: number | undefined): Ratio {
  return { what, target, bound, ...(value !== undefined && { value }) }
}

function divide(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a / b
}

export function isReached({ value, target, bound }: Ratio): boolean | undefined {
  return value === undefined ? undefined : bound === 'least' ? value >= target : value <= target
}
