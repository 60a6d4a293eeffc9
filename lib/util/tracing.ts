// Publishes what a store does on tracing channels of node:diagnostics_channel, for OpenTelemetry and the like.
import { tracingChannel } from 'node:diagnostics_channel'

/** What a subscriber receives: never a session, a session id or a handle. */
export interface TraceContext {
  /** Schema and table, such as `public.session`. */
  readonly table: string
  /** `get`: whether the session came from the cache. Set when the call has ended. */
  cached?: boolean
  /** `batch`: the kind of the calls that were joined. */
  readonly operation?: 'get' | 'set' | 'touch' | 'destroy'
  /** `batch` and `flush`: the number of sessions. */
  readonly batchSize?: number
  /** `sweep`: the number of deleted rows. Set when the sweep has ended. */
  deleted?: number
}

/** Each has the events `start`, `end`, `asyncStart`, `asyncEnd` and `error`. */
const channels = {
  /** Calls of the store's methods. */
  get: tracingChannel('koa-pg-store:get'),
  set: tracingChannel('koa-pg-store:set'),
  touch: tracingChannel('koa-pg-store:touch'),
  destroy: tracingChannel('koa-pg-store:destroy'),
  /** What such calls are joined into: up to a few statements. */
  batch: tracingChannel('koa-pg-store:batch'),
  /** Creating, upgrading or inspecting the table. */
  setup: tracingChannel('koa-pg-store:setup'),
  sweep: tracingChannel('koa-pg-store:sweep'),
  /** Writing deferred touches. */
  flush: tracingChannel('koa-pg-store:flush'),
}

export type TracedOperation = keyof typeof channels

/** Whether a subscriber listens. Check it before creating a context. */
export function isTraced(operation: TracedOperation): boolean {
  return channels[operation].hasSubscribers
}

/** Runs `work` and publishes when it starts and ends, and the error that it rejects with. `work` may add to the context. */
export async function trace<T>(
  operation: TracedOperation,
  context: TraceContext,
  work: (context: TraceContext) => Promise<T>,
): Promise<T> {
  let result: T | undefined
  // tracePromise() publishes the result too: it must not see it, as that could be a session.
  const run = async (): Promise<void> => {
    result = await work(context)
  }
  await channels[operation].tracePromise(run, context)
  return result as T
}
