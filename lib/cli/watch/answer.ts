// Parses what a process answers. Any role of the database may send such a notification: nothing in it is trusted. Pure.
import { stripVTControlCharacters } from 'node:util'

export const methods = ['get', 'set', 'touch', 'destroy'] as const
export type Method = (typeof methods)[number]

/** The calls of one method so far. */
interface CallCounts {
  readonly count: number
  /** The number of calls that took up to `le` ms, cumulative. */
  readonly buckets: readonly { readonly le: number; readonly count: number }[]
}

/** What a process has counted since its start, and its state. */
export interface Answer {
  readonly id: string
  /** Host and process id. */
  readonly name: string
  /** When the figures were read, by the process's own clock, in ms. */
  readonly at: number
  readonly calls: Readonly<Record<Method, CallCounts>>
  /** `undefined`: it has no cache. */
  readonly cache:
    | {
        readonly hits: number
        readonly misses: number
        readonly size: number
        readonly bytes: number
        readonly isTrusted: boolean
      }
    | undefined
  /** Calls that rejected, by code. */
  readonly errors: Readonly<Record<string, number>>
  readonly conflicts: number
  readonly waiting: number
  readonly oldestWaitMs: number
  readonly pendingTouches: number
}

const maxNameLength = 80
const maxIdLength = 40
const maxBuckets = 50

/** Returns `undefined` for what isn't an answer. What is missing in one, as in that of another version, is 0. */
export function readAnswer(payload: string): Answer | undefined {
  let value: unknown
  try {
    value = JSON.parse(payload)
  } catch {
    return undefined
  }
  const id = field(value, 'id')
  const name = field(value, 'process')
  const stats = field(value, 'stats')
  if (typeof id !== 'string' || typeof name !== 'string' || typeof stats !== 'object') return undefined
  const calls = field(stats, 'calls')
  const cache = field(stats, 'cache')
  const errors = Object.entries(Object(field(stats, 'errors'))).filter(([code]) =>
    /^ERR_\w{1,40}$/.test(code),
  )
  return {
    id: id.slice(0, maxIdLength),
    name: printable(name).slice(0, maxNameLength),
    at: count(field(value, 'at')),
    calls: {
      get: readCalls(field(calls, 'get')),
      set: readCalls(field(calls, 'set')),
      touch: readCalls(field(calls, 'touch')),
      destroy: readCalls(field(calls, 'destroy')),
    },
    cache:
      typeof cache !== 'object' || cache === null
        ? undefined
        : {
            hits: count(field(cache, 'hits')),
            misses: count(field(cache, 'misses')),
            size: count(field(cache, 'size')),
            bytes: count(field(cache, 'bytes')),
            isTrusted: field(cache, 'trusted') === true,
          },
    errors: Object.fromEntries(errors.map(([code, n]) => [code, count(n)])),
    conflicts: count(field(stats, 'conflicts')),
    waiting: count(field(field(stats, 'queue'), 'calls')),
    oldestWaitMs: count(field(field(stats, 'queue'), 'oldestWait')),
    pendingTouches: count(field(field(stats, 'touches'), 'pending')),
  }
}

function readCalls(value: unknown): CallCounts {
  const buckets = field(field(value, 'latency'), 'buckets')
  return {
    count: count(field(value, 'count')),
    buckets: (Array.isArray(buckets) ? buckets : []).slice(0, maxBuckets).map((bucket) => ({
      // JSON has no Infinity.
      le: typeof field(bucket, 'le') === 'number' ? count(field(bucket, 'le')) : Number.POSITIVE_INFINITY,
      count: count(field(bucket, 'count')),
    })),
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : 0
}

/** Removes what would move the cursor or change colours. */
export function printable(text: string): string {
  return stripVTControlCharacters(text).replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, '')
}
