// Runs a job by a cron expression or at an interval: never twice at once, and without keeping the process running.

import type { Schedule } from '../types/settings.js'
import loadedCron from './cron.cjs'

let cron: Pick<typeof import('node-cron'), 'schedule' | 'createTask'> | undefined = loadedCron

/** Resolves when cron expressions can be used: at once, except in a bundle in ESM format. */
export const cronReady: Promise<void> =
  cron === undefined
    ? import('node-cron').then(
        (module) => {
          cron = module
        },
        () => undefined,
      )
    : Promise.resolve()

/** Each run is moved by up to this share of the interval, so that processes with equal clocks don't all run at once. */
const jitterShare = 1 / 10
const maxJitterMs = 10_000

/** node-cron would print: the store reports what fails by itself. */
const silentLogger = { info() {}, warn() {}, error() {}, debug() {} }

type Job = (msToNext: number) => Promise<void>

/** Returns why a cron expression can't be used; `undefined` if it can, or if that isn't known before `cronReady`. */
export function cronProblem(expression: string): string | undefined {
  if (cron === undefined) return undefined
  try {
    cronIntervalMs(expression, undefined)
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** Whether this runtime knows the time zone. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

/**
 * Calls `job` from now on, until the returned function is called. The job receives the ms until its next run, must not
 * reject, and isn't called again while it runs.
 */
export function schedule(times: Schedule, job: Job): () => void {
  if (times.cron !== undefined) return byCron(times.cron, times.timezone, job)
  return times.intervalMs === undefined ? () => undefined : byInterval(times.intervalMs, job)
}

function byCron(expression: string, timezone: string | undefined, job: Job): () => void {
  if (cron === undefined) throw new Error('node-cron could not be loaded')
  const task = cron.schedule(expression, () => job(task.msToNext() ?? 0), {
    unref: true,
    noOverlap: true,
    maxRandomDelay: Math.min(cronIntervalMs(expression, timezone) * jitterShare, maxJitterMs),
    // In a process that was too busy at the right time the job runs late.
    missedExecutionTolerance: Number.POSITIVE_INFINITY,
    suppressMissedWarning: true,
    logger: silentLogger,
    ...(timezone !== undefined && { timezone }),
  })
  return () => void task.destroy()
}

/** Returns the time between the next two runs. Throws for an invalid expression. */
function cronIntervalMs(expression: string, timezone: string | undefined): number {
  if (cron === undefined) return Number.POSITIVE_INFINITY
  const task = cron.createTask(expression, () => undefined, timezone === undefined ? {} : { timezone })
  try {
    const [first, second] = task.getNextRuns(2) as [Date, Date]
    return second.getTime() - first.getTime()
  } finally {
    void task.destroy()
  }
}

function byInterval(intervalMs: number, job: Job): () => void {
  let timer: NodeJS.Timeout
  let isStopped = false
  const wait = (): void => {
    timer = setTimeout(run, intervalMs * (1 - jitterShare * Math.random()))
    timer.unref()
  }
  const run = async (): Promise<void> => {
    await job(intervalMs)
    if (!isStopped) wait()
  }
  wait()
  return () => {
    isStopped = true
    clearTimeout(timer)
  }
}
