// Time limits: what a batch of calls may take, and one timer for all limits that are being watched.

/** What work on behalf of calls may take. */
export interface TimeLimit {
  /** When the work must have ended, by the monotonic clock `performance.now()`. */
  readonly deadline: number
  /** How long each statement may run, in ms. Default: as the connection says. */
  readonly statementMs?: number
}

/** Something with a time limit. */
export interface Watched {
  /** By the monotonic clock. May be moved to a later time; to an earlier one only before `watch`. */
  dueAt: number
  /** Called once, when `dueAt` has passed, unless `unwatch` was called before. */
  onDue(): void
}

/** Limits are noticed with this delay at most, so that close ones share a timer. */
const resolutionMs = 10

const watched = new Set<Watched>()
let timer: NodeJS.Timeout | undefined
let timerDueAt = Number.POSITIVE_INFINITY

/** Calls `onDue` when its time has come. Watching costs no timer of its own, and doesn't keep the process running. */
export function watch(item: Watched): void {
  watched.add(item)
  if (item.dueAt < timerDueAt) setTimer(item.dueAt)
}

export function unwatch(item: Watched): void {
  watched.delete(item)
}

function setTimer(dueAt: number): void {
  clearTimeout(timer)
  timerDueAt = dueAt
  timer = setTimeout(check, Math.min(dueAt - performance.now() + resolutionMs, 2 ** 31 - 1))
  timer.unref()
}

function check(): void {
  timerDueAt = Number.POSITIVE_INFINITY
  const now = performance.now()
  for (const item of watched) {
    if (item.dueAt > now) continue
    watched.delete(item)
    item.onDue()
  }
  let next = Number.POSITIVE_INFINITY
  for (const { dueAt } of watched) next = Math.min(next, dueAt)
  if (next < timerDueAt) setTimer(next)
}
