// A store in a child process that sets, merges and destroys sessions as fast as it can, and reports what was acknowledged.
import { setTimeout as sleep } from 'node:timers/promises'
import type { PgStore as Store } from '../../../lib/index.js'

const [url = '', library = '', name = ''] = process.argv.slice(2)

/** The changes that were acknowledged since the last report. Each number is greater than all before of its session. */
export interface Acknowledged {
  /** The sessions that only this process sets, with the last number. */
  readonly set: Record<string, number>
  /** The sessions of which each process sets an attribute of its own, with the last number of it. */
  readonly merged: Record<string, number>
  readonly destroyed: string[]
  /** How many there were of each. */
  readonly counts: { set: number; merged: number; destroyed: number }
}

export type Order = 'change' | 'stop'

const { PgStore } = (await import(library)) as { PgStore: typeof Store }
const store = new PgStore(url, { cleanup: false })
store.on('warning', () => undefined)
const ttl = 86_400_000
const callersOfEach = 4
const keysOfEach = 3
let n = 0
let isChanging = false
let round = 0

type Step = (acknowledged: Acknowledged) => Promise<void>

function setsOf(caller: number): Step {
  return async ({ set, counts }) => {
    const sid = `${name}-${caller}-${n % keysOfEach}`
    const value = ++n
    await store.set(sid, { n: value }, ttl)
    set[sid] = value
    counts.set++
  }
}

function mergesOf(caller: number): Step {
  return async ({ merged, counts }) => {
    // The caller of the other process has the same sessions, so that most saves find a change to merge.
    const sid = `shared-${caller}-${n % keysOfEach}`
    const session = (await store.get(sid)) ?? {}
    const value = ++n
    session[name] = value
    await store.set(sid, session, ttl)
    merged[sid] = value
    counts.merged++
  }
}

/** Destroys sessions that were created before, and saves each again as a request does that has loaded it before. */
async function destroysOf(caller: number): Promise<Step> {
  const sids = Array.from({ length: 60 }, (_, i) => `${name}-doomed-${round}-${caller}-${i}`)
  // Inserts flush the log, and so would hide that a flush is missing: all are made before the changes.
  const loaded = await Promise.all(
    sids.map(async (sid) => {
      await store.set(sid, { n: 1 }, ttl)
      return [sid, await store.get(sid)] as const
    }),
  )
  return async ({ destroyed, counts }) => {
    const [sid, session] = loaded.shift() ?? []
    if (sid === undefined || session === undefined) return void (await sleep(5))
    await store.destroy(sid)
    destroyed.push(sid)
    counts.destroyed++
    await store.set(sid, Object.assign(session, { late: true }), ttl)
  }
}

async function change(): Promise<Acknowledged> {
  round++
  // For a moment after an outage, calls are refused without an attempt.
  while (
    !(await store.get('x').then(
      () => true,
      () => false,
    ))
  )
    await sleep(20)
  const acknowledged: Acknowledged = {
    set: {},
    merged: {},
    destroyed: [],
    counts: { set: 0, merged: 0, destroyed: 0 },
  }
  const callers = Array.from({ length: callersOfEach }, (_, caller) => caller)
  const steps = [
    ...callers.map(setsOf),
    ...callers.map(mergesOf),
    ...(await Promise.all(callers.map(destroysOf))),
  ]
  isChanging = true
  process.send?.('changing')
  await Promise.all(
    steps.map(async (step) => {
      while (isChanging) {
        try {
          await step(acknowledged)
        } catch {
          // The server was killed.
          await sleep(20)
        }
      }
    }),
  )
  return acknowledged
}

process.on('message', async (order: Order) => {
  if (order === 'stop') isChanging = false
  else process.send?.(await change())
})
process.once('disconnect', () => process.exit())
