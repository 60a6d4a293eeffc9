// Computes what is shown from what was read: rates, ratios and sums over all processes. Pure.
import { type Answer, type Method, methods } from './answer.js'
import type { ServerState, SessionCounts, TableSizes } from './database.js'
import type { KnownProcess } from './processes.js'

/** What is known at one time. `undefined`: not known now. */
export interface Figures {
  /** By this machine's clock, as ISO 8601. */
  readonly at: string
  readonly table: string
  /** Why the database couldn't be asked. The figures about it are older then. */
  readonly error: Problem | undefined
  /** Why the processes couldn't be asked. */
  readonly processError: string | undefined
  /** Per second, of all processes. */
  readonly rates: Readonly<Record<Rate, number | undefined>>
  /** Since the last time, of all processes: half and 95 % of the calls took no longer than this. */
  readonly latency: Readonly<Record<Method, Latency | undefined>>
  /** Codes of the calls that rejected since the last time. */
  readonly errorCodes: readonly string[]
  /** The share of reads that the caches answered, from 0 to 1. */
  readonly hitRatio: number | undefined
  /** The share of updates that wrote no index, from 0 to 1. */
  readonly hotRatio: number | undefined
  readonly processes: readonly ProcessFigures[]
  readonly server: Omit<ServerState, 'rows' | 'at'> | undefined
  readonly deadRows: number | undefined
  readonly sizes: TableSizes | undefined
  readonly sessions: (SessionCounts & { readonly agoMs: number }) | undefined
}

export interface Problem {
  readonly message: string
  /** Since when, as ISO 8601. */
  readonly since: string
}

/** What has a rate. `memory`: reads that a cache answered; `rows`: inserted, updated and deleted ones. */
export const rateNames = ['memory', ...methods, 'errors', 'conflicts', 'rows'] as const
export type Rate = (typeof rateNames)[number]

export interface Latency {
  /** In ms; `null` for longer than the histogram's last bound. */
  readonly median: number | null
  readonly p95: number | null
}

export interface ProcessFigures {
  readonly name: string
  /** How long it has not answered, in ms; `undefined`: it answers. */
  readonly silentMs: number | undefined
  /** Reads that its cache answered, and all other calls, per second. */
  readonly callsPerSecond: number | undefined
  readonly hitRatio: number | undefined
  /** Whether its cache is used; `undefined`: it has none. */
  readonly isTrusted: boolean | undefined
  readonly cachedSessions: number
  readonly cachedBytes: number
  readonly waiting: number
  readonly oldestWaitMs: number
  readonly pendingTouches: number
}

/** What was read from the database, and when, as `performance.now()`. */
export interface Reading<T> {
  readonly value: T
  readonly at: number
}

export interface Readings {
  readonly table: string
  readonly error: Problem | undefined
  readonly processError: string | undefined
  readonly processes: readonly KnownProcess[]
  /** The last two. */
  readonly server: ServerState | undefined
  readonly previousServer: ServerState | undefined
  readonly sizes: TableSizes | undefined
  readonly sessions: Reading<SessionCounts> | undefined
  /** A process that hasn't answered for longer is silent. */
  readonly silentAfterMs: number
}

export function figuresOf(readings: Readings, now: number, date: Date): Figures {
  const { table, error, processError, server, sizes, sessions, silentAfterMs } = readings
  const isSilent = ({ answeredAt }: KnownProcess): boolean => now - answeredAt > silentAfterMs
  const pairs = readings.processes.filter((known) => !isSilent(known)).flatMap(pairOf)
  const rate = (read: (answer: Answer) => number): number | undefined =>
    pairs.length === 0 ? undefined : sum(pairs.map((pair) => perSecond(pair, read)))
  const counts = new Map(methods.map((method) => [method, rate(({ calls }) => calls[method].count)]))
  const rows = error === undefined ? rowChanges(readings) : undefined
  const byMethod = <T>(read: (method: Method) => T): Record<Method, T> =>
    Object.fromEntries(methods.map((method) => [method, read(method)])) as Record<Method, T>
  return {
    at: date.toISOString(),
    table,
    error,
    processError,
    rates: {
      memory: rate(({ cache }) => cache?.hits ?? 0),
      ...byMethod((method) => counts.get(method)),
      errors: rate(({ errors }) => sum(Object.values(errors))),
      conflicts: rate(({ conflicts }) => conflicts),
      rows: rows?.perSecond,
    },
    latency: byMethod((method) => latencyOf(pairs, method)),
    errorCodes: [...new Set(pairs.flatMap(newErrorCodes))].sort(),
    hitRatio: hitRatioOf(pairs),
    hotRatio: rows?.hotRatio,
    processes: readings.processes.map((known) => processFigures(known, isSilent(known), now)).sort(byUrgency),
    server,
    deadRows: server?.rows?.dead,
    sizes,
    sessions: sessions && { ...sessions.value, agoMs: Math.round(now - sessions.at) },
  }
}

interface Pair {
  readonly last: Answer
  readonly previous: Answer
}

function pairOf({ last, previous }: KnownProcess): Pair[] {
  return previous === undefined || last.at <= previous.at ? [] : [{ last, previous }]
}

function grown({ last, previous }: Pair, read: (answer: Answer) => number): number {
  return Math.max(0, read(last) - read(previous))
}

function perSecond(pair: Pair, read: (answer: Answer) => number): number {
  return grown(pair, read) / ((pair.last.at - pair.previous.at) / 1_000)
}

function hitRatioOf(pairs: readonly Pair[]): number | undefined {
  const hits = sum(pairs.map((pair) => grown(pair, ({ cache }) => cache?.hits ?? 0)))
  const misses = sum(pairs.map((pair) => grown(pair, ({ cache }) => cache?.misses ?? 0)))
  return hits + misses === 0 ? undefined : hits / (hits + misses)
}

function latencyOf(pairs: readonly Pair[], method: Method): Latency | undefined {
  const bounds = new Map<number, number>()
  for (const pair of pairs)
    for (const [n, { le }] of pair.last.calls[method].buckets.entries()) {
      const count = grown(pair, ({ calls }) => calls[method].buckets[n]?.count ?? 0)
      bounds.set(le, (bounds.get(le) ?? 0) + count)
    }
  const sorted = [...bounds].sort(([a], [b]) => a - b)
  const total = sorted.at(-1)?.[1] ?? 0
  if (total === 0) return undefined
  const quantile = (share: number): number | null => {
    const [le = Number.POSITIVE_INFINITY] = sorted.find(([, count]) => count >= share * total) ?? []
    return Number.isFinite(le) ? le : null
  }
  return { median: quantile(0.5), p95: quantile(0.95) }
}

function newErrorCodes({ last, previous }: Pair): string[] {
  return Object.keys(last.errors).filter((code) => (last.errors[code] ?? 0) > (previous.errors[code] ?? 0))
}

function processFigures(known: KnownProcess, isSilent: boolean, now: number): ProcessFigures {
  const { last, answeredAt } = known
  const [pair] = pairOf(known)
  const total = ({ cache, calls }: Answer): number =>
    (cache?.hits ?? 0) + sum(methods.map((method) => calls[method].count))
  return {
    name: last.name,
    silentMs: isSilent ? Math.round(now - answeredAt) : undefined,
    callsPerSecond: isSilent || pair === undefined ? undefined : perSecond(pair, total),
    hitRatio: isSilent || pair === undefined ? undefined : hitRatioOf([pair]),
    isTrusted: last.cache?.isTrusted,
    cachedSessions: last.cache?.size ?? 0,
    cachedBytes: last.cache?.bytes ?? 0,
    waiting: last.waiting,
    oldestWaitMs: last.oldestWaitMs,
    pendingTouches: last.pendingTouches,
  }
}

/** First what needs a look: processes that don't answer, and those whose cache isn't used. */
function byUrgency(a: ProcessFigures, b: ProcessFigures): number {
  const urgency = ({ silentMs, isTrusted }: ProcessFigures): number =>
    silentMs !== undefined ? 0 : isTrusted === false ? 1 : 2
  return urgency(a) - urgency(b) || a.name.localeCompare(b.name, 'en', { numeric: true })
}

/** `undefined` after PostgreSQL's statistics were reset. */
function rowChanges({
  server,
  previousServer,
}: Readings): { perSecond: number; hotRatio: number | undefined } | undefined {
  const [last, previous] = [server?.rows, previousServer?.rows]
  const ms = (server?.at ?? 0) - (previousServer?.at ?? 0)
  if (!last || !previous || ms <= 0) return undefined
  const changes = [
    last.inserted - previous.inserted,
    last.updated - previous.updated,
    last.deleted - previous.deleted,
  ]
  if (changes.some((n) => n < 0)) return undefined
  const [, updated = 0] = changes
  return {
    perSecond: sum(changes) / (ms / 1_000),
    hotRatio: updated === 0 ? undefined : (last.hotUpdated - previous.hotUpdated) / updated,
  }
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
