// When the sweeper runs: by a cron expression or every so many ms; never twice at once, and never the reason to live.

import type { Schedule } from '../types/settings.js'
import cron from './cron.cjs'

/** Instances whose clocks agree must not all come at once: each waits for up to this share of the time between two sweeps. */
const jitterShare = 1 / 10
const maxJitterMs = 10_000

/** What node-cron would print goes where the store's own warnings go, and comes from there. */
const silentLogger = { info() {}, warn() {}, error() {}, debug() {} }

/** Why a cron expression can't be used; nothing if it can. */
export function cronProblem(expression: string): string | undefined {
  try {
    intervalOf(expression, undefined)
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** Whether there is such a time zone here. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

/**
 * Calls `run` from now on, until the function that it answers is called. `run` gets the time until it is called next, in
 * ms. It must not reject; while it is under way it isn't called again.
 */
export function schedule(times: Schedule, run: (next: number) => Promise<void>): () => void {
  if (times.cron !== undefined) return byCron(times.cron, times.timezone, run)
  return times.intervalMs === undefined ? () => undefined : byInterval(times.intervalMs, run)
}

function byCron(
  expression: string,
  timezone: string | undefined,
  run: (next: number) => Promise<void>,
): () => void {
  const delay = Math.min(intervalOf(expression, timezone) * jitterShare, maxJitterMs)
  const task = cron.schedule(expression, () => run(task.msToNext() ?? 0), {
    unref: true,
    noOverlap: true,
    maxRandomDelay: delay,
    // A process that was too busy to come in time comes late.
    missedExecutionTolerance: Number.POSITIVE_INFINITY,
    suppressMissedWarning: true,
    logger: silentLogger,
    ...(timezone !== undefined && { timezone }),
  })
  return () => void task.destroy()
}

/** The time between the next two. Throws if the expression isn't one. */
function intervalOf(expression: string, timezone: string | undefined): number {
  const task = cron.createTask(expression, () => undefined, timezone === undefined ? {} : { timezone })
  try {
    const [first, second] = task.getNextRuns(2) as [Date, Date]
    return second.getTime() - first.getTime()
  } finally {
    void task.destroy()
  }
}

function byInterval(every: number, run: (next: number) => Promise<void>): () => void {
  let timer: NodeJS.Timeout
  let isStopped = false
  const wait = (): void => {
    timer = setTimeout(tick, every * (1 - jitterShare * Math.random()))
    timer.unref()
  }
  const tick = async (): Promise<void> => {
    await run(every)
    if (!isStopped) wait()
  }
  wait()
  return () => {
    isStopped = true
    clearTimeout(timer)
  }
}
