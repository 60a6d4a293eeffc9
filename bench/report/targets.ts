// The targets that we set ourselves, as ratios of figures of one run.
import type { Operation } from '../comparison/adapter.js'
import { cached, cached4, memoryStore, simple, uncached } from '../comparison/peers.js'
import type { Ratio, Results, Traffic } from './results.js'

export function ratios({ figures, requests, rolling }: Omit<Results, 'ratios'>): Ratio[] {
  const rate = (peer: string, operation: Operation, callers = 256): number | undefined =>
    figures.find((f) => f.peer === peer && f.operation === operation && f.callers === callers)?.perSecond
  const bestRate = (kind: string, operation: Operation, callers = 256): number | undefined => {
    const rates = figures
      .filter((f) => f.kind === kind && f.operation === operation && f.callers === callers)
      .map((f) => f.perSecond)
    return rates.length > 0 ? Math.max(...rates) : undefined
  }
  const requestRate = (store: string, traffic: Traffic): number | undefined =>
    requests.find((r) => r.store === store && r.traffic === traffic)?.perSecond
  const writesPerRequest = (store: string): number | undefined => {
    const found = rolling.find((r) => r.store === store)
    return found && found.rowWrites / found.requests
  }
  const comparedToMemory = (traffic: Traffic) =>
    divide(requestRate(cached, traffic), requestRate(memoryStore, traffic))
  const atLeast = (what: string, target: number, value: number | undefined): Ratio =>
    ratio(what, target, 'min', value)
  const atMost = (what: string, target: number, value: number | undefined): Ratio =>
    ratio(what, target, 'max', value)
  return [
    atLeast('uncached get : connect-pg-simple', 9, divide(rate(uncached, 'get'), rate(simple, 'get'))),
    atLeast('uncached get : best Redis', 1.2, divide(rate(uncached, 'get'), bestRate('redis', 'get'))),
    atLeast('set, 4 others listen : connect-pg-simple', 6, divide(rate(cached4, 'set'), rate(simple, 'set'))),
    atLeast('set, 4 others listen : best Redis', 0.5, divide(rate(cached4, 'set'), bestRate('redis', 'set'))),
    // The latency of one caller is the inverse of its rate.
    atMost(
      'latency of a lone get, uncached : best PostgreSQL peer',
      1,
      divide(bestRate('postgres', 'get', 1), rate(uncached, 'get', 1)),
    ),
    atMost(
      'latency of a lone set, uncached : best PostgreSQL peer',
      1,
      divide(bestRate('postgres', 'set', 1), rate(uncached, 'set', 1)),
    ),
    atMost(
      'latency of a lone set, 4 others listen : best PostgreSQL peer',
      1,
      divide(bestRate('postgres', 'set', 1), rate(cached4, 'set', 1)),
    ),
    atLeast('cached get : best Redis', 8.5, divide(rate(cached, 'get'), bestRate('redis', 'get'))),
    atMost(
      'row writes of a rolling read : connect-pg-simple',
      0.01,
      divide(writesPerRequest(cached), writesPerRequest(simple)),
    ),
    atLeast('Koa requests, read-only : MemoryStore', 0.95, comparedToMemory('read-only')),
    atLeast(
      'Koa requests, nine reads to one change : MemoryStore',
      0.85,
      comparedToMemory('nine reads to one change'),
    ),
  ]
}

function ratio(what: string, target: number, bound: Ratio['bound'], value: number | undefined): Ratio {
  return { what, target, bound, ...(value !== undefined && { value }) }
}

function divide(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a / b
}

export function isReached({ value, target, bound }: Ratio): boolean | undefined {
  return value === undefined ? undefined : bound === 'min' ? value >= target : value <= target
}
