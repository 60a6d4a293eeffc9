// Measures operations per second, in rounds in which all peers take turns.
import type { OperationFigure, Plan } from '../report/results.js'
import { serverTimeSince, serverTimes } from '../support/processor-time.js'
import { session, turns } from '../support/sessions.js'
import { median } from '../support/statistics.js'
import { type Operation, operations, type Peer } from './adapter.js'

export const callerCounts = [1, 32, 256] as const

/** A cached peer that reads fewer of its gets from memory isn't measured as one. */
const minHitShare = 0.99

type Work = () => PromiseLike<unknown> | unknown

interface Round {
  readonly perSecond: number
  readonly node: number
  readonly server: number
}

/** Reads `--seconds` and `--rounds`. */
export function readPlan(values: { seconds: string; rounds: string }): Plan {
  const plan = { seconds: Number(values.seconds), rounds: Number(values.rounds) }
  if (!(plan.seconds > 0 && plan.rounds >= 1)) throw new RangeError('--seconds and --rounds must be above 0')
  return plan
}

/** Runs round by round, so that a disturbance of the machine affects all peers. */
export async function measureOperations(
  peers: readonly Peer[],
  ids: readonly string[],
  plan: Plan,
  wanted: readonly Operation[] = operations,
): Promise<OperationFigure[]> {
  const cases = peers.flatMap((peer) =>
    wanted.flatMap((operation) =>
      callerCounts.map((callers) => ({ peer, operation, callers, rounds: [] as Round[] })),
    ),
  )
  const nextId = turns(ids)
  for (let round = 0; round < plan.rounds; round++) {
    process.stderr.write(`round ${round + 1} of ${plan.rounds}\n`)
    for (const operation of wanted)
      for (const callers of callerCounts)
        for (const peer of rotate(peers, round)) {
          const work = workOf(peer, operation, nextId)
          if (work === undefined) continue
          const measured = await measureOne(peer, operation, work, callers, plan.seconds, ids)
          cases
            .find((one) => one.peer === peer && one.operation === operation && one.callers === callers)
            ?.rounds.push(measured)
        }
  }
  return cases
    .filter(({ rounds }) => rounds.length > 0)
    .map(({ peer, operation, callers, rounds }) => ({
      peer: peer.name,
      kind: peer.kind,
      operation,
      callers,
      perSecond: median(rounds.map(({ perSecond }) => perSecond)),
      rounds: rounds.map(({ perSecond }) => perSecond),
      processorTime: {
        node: median(rounds.map(({ node }) => node)),
        server: median(rounds.map(({ server }) => server)),
      },
    }))
}

function workOf(peer: Peer, operation: Operation, nextId: () => string): Work | undefined {
  const { get, set, create, touch } = peer
  if (operation === 'get') return () => get(nextId())
  // A new object with new content each time, so that every set is a change.
  if (operation === 'set') return () => set(nextId(), session())
  if (operation === 'create') return () => create(session())
  const unchanged = session()
  return touch && (() => touch(nextId(), unchanged))
}

async function measureOne(
  peer: Peer,
  operation: Operation,
  work: Work,
  callers: number,
  seconds: number,
  ids: readonly string[],
): Promise<Round> {
  const hits = operation === 'get' ? peer.hits : undefined
  // Fills the cache.
  if (hits) for (const id of ids) await peer.get(id)
  await repeat(work, callers, seconds / 5)
  const hitsBefore = (await hits?.()) ?? 0
  const serverBefore = serverTimes(peer.serverPid)
  const before = process.cpuUsage()
  const { count, perSecond } = await repeat(work, callers, seconds)
  const { user, system } = process.cpuUsage(before)
  const server = (serverTimeSince(serverBefore, peer.serverPid) * 1_000) / count
  const hitShare = hits ? ((await hits()) - hitsBefore) / count : 1
  if (hitShare < minHitShare)
    console.error(`${peer.name}: only ${Math.round(hitShare * 100)} % of the gets were hits`)
  if (operation === 'create') await peer.deleteCreated?.()
  return { perSecond, node: (user + system) / count, server }
}

/** Lets a number of callers repeat the work. Each awaits one call before the next. */
export async function repeat(
  work: Work,
  callers: number,
  seconds: number,
): Promise<{ count: number; perSecond: number }> {
  const start = performance.now()
  const end = start + seconds * 1_000
  let count = 0
  const caller = async (): Promise<void> => {
    do {
      await work()
      count++
    } while (performance.now() < end)
  }
  await Promise.all(Array.from({ length: callers }, caller))
  return { count, perSecond: (count / (performance.now() - start)) * 1_000 }
}

function rotate<T>(list: readonly T[], by: number): T[] {
  const first = by % list.length
  return [...list.slice(first), ...list.slice(0, first)]
}
