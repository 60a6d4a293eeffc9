// How often a second something is done by so many callers, and the rounds in which all contenders take their turns.

import { session, turns } from '../support/sessions.js'
import { type Contender, type Operation, operations } from './peers.js'

export const callers = [1, 32, 256] as const

export interface Figure {
  readonly contender: string
  readonly kind: string
  readonly operation: Operation
  readonly callers: number
  /** Operations per second: the median of the rounds, and each. */
  readonly perSecond: number
  readonly rounds: readonly number[]
}

export interface Plan {
  readonly seconds: number
  readonly rounds: number
}

/** Round by round, so that what disturbs the machine for a while hits everybody. */
export async function measure(contenders: Contender[], ids: string[], plan: Plan): Promise<Figure[]> {
  const results = new Map<string, number[]>()
  const next = turns(ids)
  for (let round = 0; round < plan.rounds; round++) {
    process.stderr.write(`round ${round + 1} of ${plan.rounds}\n`)
    for (const operation of operations)
      for (const number of callers)
        for (const contender of rotated(contenders, round)) {
          const work = workOf(contender, operation, next)
          if (work === undefined) continue
          const perSecond = await measured(contender, operation, work, number, plan.seconds, ids)
          const key = [contender.name, operation, number].join('|')
          results.set(key, [...(results.get(key) ?? []), perSecond])
        }
  }
  return contenders.flatMap(({ name, kind }) =>
    operations.flatMap((operation) =>
      callers.flatMap((number) => {
        const rounds = results.get([name, operation, number].join('|'))
        if (rounds === undefined) return []
        return { contender: name, kind, operation, callers: number, perSecond: median(rounds), rounds }
      }),
    ),
  )
}

type Work = () => PromiseLike<unknown> | unknown

function workOf(contender: Contender, operation: Operation, next: () => string): Work | undefined {
  const { get, set, create, touch } = contender
  if (operation === 'get') return () => get(next())
  // Each change is one: a new object, another content.
  if (operation === 'set') return () => set(next(), session())
  if (operation === 'create') return () => create(session())
  const same = session()
  return touch && (() => touch(next(), same))
}

async function measured(
  contender: Contender,
  operation: Operation,
  work: Work,
  number: number,
  seconds: number,
  ids: string[],
): Promise<number> {
  const hits = operation === 'get' ? contender.hits : undefined
  // What is cached is to be hit.
  if (hits) for (const id of ids) await contender.get(id)
  await repeat(work, number, seconds / 5)
  const before = (await hits?.()) ?? 0
  const { count, perSecond } = await repeat(work, number, seconds)
  const share = hits ? ((await hits()) - before) / count : 1
  if (share < 0.99)
    console.error(`${contender.name}: only ${Math.round(share * 100)} % of the gets were hits`)
  if (operation === 'create') await contender.forget?.()
  return perSecond
}

/** Each caller awaits one call before the next. */
export async function repeat(
  work: Work,
  number: number,
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
  await Promise.all(Array.from({ length: number }, caller))
  return { count, perSecond: (count / (performance.now() - start)) * 1_000 }
}

function rotated<T>(list: readonly T[], by: number): T[] {
  const first = by % list.length
  return [...list.slice(first), ...list.slice(0, first)]
}

export function median(list: readonly number[]): number {
  return list.toSorted((a, b) => a - b)[list.length >> 1] as number
}
