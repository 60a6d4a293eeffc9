// Finds out for each request whether its session came from memory or from PostgreSQL, and how long that took. The store
// publishes this on a tracing channel of Node.js.
import { tracingChannel } from 'node:diagnostics_channel'
import type Koa from 'koa'

export interface SessionRead {
  readonly isFromMemory: boolean
  readonly ms: number
}

/** Sets `ctx.state.sessionRead`. Needs the application's option `asyncLocalStorage`, to know which request a read belongs to. */
export function recordReads(app: Koa): void {
  const reads = new WeakMap<object, { ctx: Koa.DefaultContext; startedAt: number }>()
  const ignore = (): void => {}
  tracingChannel<unknown, { cached?: boolean }>('koa-pg-store:get').subscribe({
    start(call) {
      const ctx = app.currentContext
      if (ctx) reads.set(call, { ctx, startedAt: performance.now() })
    },
    asyncEnd(call) {
      const read = reads.get(call)
      if (!read) return
      const ms = performance.now() - read.startedAt
      read.ctx.state.sessionRead = { isFromMemory: call.cached === true, ms } satisfies SessionRead
    },
    error(call) {
      reads.delete(call)
    },
    end: ignore,
    asyncStart: ignore,
  })
}
