// What stats() returns, and what a process tells `koa-pg-store stats --watch` when it is asked.
import { hostname } from 'node:os'
import type { LocalCache } from '../cache/local-cache.js'
import type { TrustMonitor } from '../notifications/trust-monitor.js'
import type { TouchBuffer } from '../repository/touch-buffer.js'
import type { Stats } from '../types/results.js'
import type { Calls, Components } from './components.js'
import type { OperationTracker } from './operations.js'

/** What the figures are read from. */
export interface StatsSource {
  readonly cache: LocalCache | undefined
  readonly trust: TrustMonitor
  readonly components: Components | undefined
  readonly calls: Calls
  readonly sweeps: Stats['sweeps']
  readonly conflicts: number
  readonly operations: OperationTracker
  readonly touches: TouchBuffer
}

/** What a process answers. It names no session, as every role of the database may listen. */
export interface ProcessStats {
  /** Identifies the store: a restarted process, or another store in the same one, has another. */
  readonly id: string
  /** Host and process id. */
  readonly process: string
  /** When the figures were read, in ms since the start of the process. */
  readonly at: number
  /** `notifications.queueUsage` is missing. In JSON, the infinite `le` of the last bucket is `null`. */
  readonly stats: Stats
}

export function readStats(source: StatsSource, queueUsage: number | undefined): Stats {
  const { cache, trust, components, calls, sweeps, conflicts, operations, touches } = source
  return {
    cache: cache !== undefined && {
      hits: cache.hits,
      misses: cache.misses,
      size: cache.size,
      bytes: cache.bytes,
      trusted: trust.isTrusted,
      lastHeartbeatAge: trust.lastHeartbeatAge,
    },
    notifications: { sent: components?.queries.announced ?? 0, received: trust.received, queueUsage },
    calls: {
      get: calls.get.stats(),
      set: calls.set.stats(),
      touch: calls.touch.stats(),
      destroy: calls.destroy.stats(),
    },
    errors: { ...operations.errors },
    queue: { calls: operations.count, oldestWait: components?.repository.oldestWaitMs ?? 0 },
    touches: { pending: touches.pendingCount, lost: touches.lost },
    sweeps: { ...sweeps },
    conflicts,
    reconnects: trust.reconnects,
    triggers: components?.table.hasTriggers,
  }
}

/** Returns the answer of the store with this id, as JSON. It is shorter than a payload may be: it has a fixed set of numbers. */
export function statsAnswer(id: string, source: StatsSource): string {
  const answer: ProcessStats = {
    id,
    process: `${hostName()}:${process.pid}`,
    at: performance.now(),
    stats: readStats(source, undefined),
  }
  return JSON.stringify(answer)
}

/** A longer one would not fit in a line, either. */
const maxNameLength = 64

function hostName(): string {
  try {
    return hostname().slice(0, maxNameLength)
  } catch {
    // Deno has a permission for it.
    return 'unknown'
  }
}
