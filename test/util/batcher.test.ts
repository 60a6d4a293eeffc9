import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import fc from 'fast-check'
import { Batcher, type BatcherOptions } from '../../lib/util/batcher.js'
import { rejection } from '../helpers/rejection.js'
import { until } from '../helpers/until.js'

/** A batcher whose batches the test ends one by one. */
function controlled({ maxBatchSize = 100, maxConcurrentBatches = 1 } = {}) {
  const batches: { keys: string[]; end: (error?: Error) => Promise<void> }[] = []
  const batcher = new Batcher<number, string>({
    maxBatchSize,
    maxConcurrentBatches,
    run: (calls) =>
      new Promise((resolve, reject) => {
        batches.push({
          keys: calls.map(({ key }) => key),
          end: (error) => {
            if (error) reject(error)
            else resolve(calls.map(({ key, value }) => `${key}=${value}`))
            return nextTurn()
          },
        })
      }),
  })
  return { batcher, batches }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('Batcher', () => {
  it('dispatches a single call at once, before any I/O', async () => {
    const { batcher, batches } = controlled()
    const call = batcher.add('a', 1)
    await new Promise<void>((resolve) => process.nextTick(resolve))
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['a']])
    await batches[0]?.end()
    expect(await call).to.equal('a=1')
  })

  it('joins calls of one tick, and calls made while a batch is in flight into the next batch', async () => {
    const { batcher, batches } = controlled()
    const first = [batcher.add('b', 1), batcher.add('a', 2)]
    await nextTurn()
    const second = [batcher.add('d', 3)]
    await nextTurn()
    second.push(batcher.add('c', 4))
    await nextTurn()
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['a', 'b']])
    await batches[0]?.end()
    expect(await Promise.all(first)).to.deep.equal(['b=1', 'a=2'])
    expect(batches.map(({ keys }) => keys)).to.deep.equal([
      ['a', 'b'],
      ['c', 'd'],
    ])
    await batches[1]?.end()
    expect(await Promise.all(second)).to.deep.equal(['d=3', 'c=4'])
  })

  it('joins calls that callers make as soon as a batch is done', async () => {
    const { batcher, batches } = controlled()
    const callers = Array.from({ length: 50 }, async (_, n) => {
      await batcher.add(`k${n}`, 1)
      await batcher.add(`k${n}`, 2)
    })
    await nextTurn()
    await batches[0]?.end()
    await batches[1]?.end()
    await Promise.all(callers)
    expect(batches.map(({ keys }) => keys.length)).to.deep.equal([50, 50])
  })

  it('exceeds neither maxBatchSize nor maxConcurrentBatches', async () => {
    const { batcher, batches } = controlled({ maxBatchSize: 3, maxConcurrentBatches: 2 })
    const calls = Array.from({ length: 10 }, (_, n) => batcher.add(`k${n}`, n))
    await nextTurn()
    expect(batches.map(({ keys }) => keys.length)).to.deep.equal([3, 3])
    await batches[1]?.end()
    expect(batches.map(({ keys }) => keys.length)).to.deep.equal([3, 3, 3])
    await batches[0]?.end()
    await batches[2]?.end()
    await batches[3]?.end()
    expect(await Promise.all(calls)).to.have.length(10)
  })

  it('exceeds maxSize only with a batch of one call', async () => {
    const sizes: number[] = []
    const batcher = new Batcher<number, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 1,
      sizeOf: (value) => value,
      maxSize: 10,
      run: async (calls) => {
        sizes.push(calls.length)
        return calls.map(({ value }) => value)
      },
    })
    await Promise.all([4, 4, 4, 50, 1].map((size, n) => batcher.add(`k${n}`, size)))
    expect(sizes).to.deep.equal([2, 1, 1, 1])
  })

  it('has each key once in a batch, and keeps the order of calls for one key', async () => {
    const { batcher, batches } = controlled({ maxConcurrentBatches: 3 })
    const order: number[] = []
    const calls = [1, 2, 3].map((value) => batcher.add('a', value).then(() => order.push(value)))
    const other = batcher.add('b', 9)
    await nextTurn()
    // The second call for "a" waits for the first, though more batches could be in flight.
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['a', 'b']])
    await batches[0]?.end()
    await other
    await batches[1]?.end()
    await batches[2]?.end()
    await Promise.all(calls)
    expect(order).to.deep.equal([1, 2, 3])
  })

  it('runs unordered calls with one key at the same time', async () => {
    const sizes: number[] = []
    const ends: (() => void)[] = []
    const batcher = new Batcher<undefined, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 2,
      isUnordered: true,
      run: async (calls) => {
        const n = sizes.push(calls.length)
        await new Promise<void>((resolve) => ends.push(resolve))
        return calls.map(() => n)
      },
    })
    const early = Array.from({ length: 50 }, () => batcher.add('hot', undefined))
    await nextTurn()
    const late = [batcher.add('hot', undefined), batcher.add('hot', undefined)]
    await until(() => sizes.length === 2)
    expect(sizes).to.deep.equal([50, 2])
    for (const end of ends) end()
    expect(new Set(await Promise.all(early))).to.deep.equal(new Set([1]))
    expect(await Promise.all(late)).to.deep.equal([2, 2])
  })

  it('does not make other keys wait for a call that hangs', async () => {
    const { batcher, batches } = controlled({ maxConcurrentBatches: 2 })
    void batcher.add('hangs', 1)
    await nextTurn()
    void batcher.add('hangs', 2)
    const other = batcher.add('other', 3)
    await until(() => batches.length === 2)
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['hangs'], ['other']])
    await batches[1]?.end()
    expect(await other).to.equal('other=3')
  })

  it('runs a batch beside others once it is full, or once they take long', async () => {
    const { batcher, batches } = controlled({ maxBatchSize: 3, maxConcurrentBatches: 4 })
    const { now } = performance
    const time = now.call(performance)
    performance.now = () => time
    try {
      const calls = [batcher.add('a', 1)]
      await nextTurn()
      calls.push(batcher.add('b', 2), batcher.add('c', 3))
      await sleep(20)
      expect(batches.map(({ keys }) => keys)).to.deep.equal([['a']])
      calls.push(batcher.add('d', 4))
      await nextTurn()
      calls.push(batcher.add('e', 5))
      await sleep(20)
      expect(batches.map(({ keys }) => keys)).to.deep.equal([['a'], ['b', 'c', 'd']])
      performance.now = () => time + 100
      await until(() => batches.length === 3)
      expect(batches[2]?.keys).to.deep.equal(['e'])
      for (const batch of batches) await batch.end()
      expect(await Promise.all(calls)).to.deep.equal(['a=1', 'b=2', 'c=3', 'd=4', 'e=5'])
    } finally {
      performance.now = now
    }
  })

  it('rejects all calls of a batch that fails, and runs the next batch', async () => {
    const { batcher, batches } = controlled()
    const calls = Promise.allSettled([batcher.add('a', 1), batcher.add('b', 2)])
    await nextTurn()
    const later = batcher.add('c', 3)
    await batches[0]?.end(new Error('down'))
    expect((await calls).map(({ status }) => status)).to.deep.equal(['rejected', 'rejected'])
    await batches[1]?.end()
    expect(await later).to.equal('c=3')
  })

  it('rejects only the call that makes its batch fail', async () => {
    const sizes: number[] = []
    const batcher = new Batcher<number, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 1,
      canBisect: (error) => (error as Error).message === 'one is wrong',
      run: async (calls) => {
        sizes.push(calls.length)
        if (calls.some(({ value }) => value === 13)) throw new Error('one is wrong')
        return calls.map(({ value }) => value)
      },
    })
    const outcomes = await Promise.allSettled(Array.from({ length: 64 }, (_, n) => batcher.add(`k${n}`, n)))
    expect(outcomes.filter(({ status }) => status === 'rejected')).to.have.length(1)
    expect(outcomes[13]?.status).to.equal('rejected')
    expect(sizes.length).to.be.below(15)
  })

  /** A batcher whose calls of `stuck` are overdue whenever they run, until they have all the time. */
  function withStuck(stuck: Set<string>, options: Partial<BatcherOptions<number, number>> = {}) {
    const runs: string[][] = []
    const batcher = new Batcher<number, number>({
      maxBatchSize: 128,
      maxConcurrentBatches: 1,
      maxWaitMs: 60_000,
      maxRunMs: 60_000,
      isOverdue: (error) => error instanceof Error && error.message === 'overdue',
      run: async (calls) => {
        runs.push(calls.map(({ key }) => key))
        await nextTurn()
        if (calls.some(({ key }) => stuck.has(key))) throw new Error('overdue')
        return calls.map(({ value }) => value)
      },
      ...options,
    })
    return { batcher, runs }
  }

  it('lets only those calls wait that a batch had to wait for, beside later batches', async () => {
    const stuck = new Set(['k7', 'k90'])
    const { batcher, runs } = withStuck(stuck)
    const settled: string[] = []
    const calls = Array.from({ length: 128 }, (_, n) =>
      batcher.add(`k${n}`, n).then(() => settled.push(`k${n}`)),
    )
    // The next call for a key waits for the one before it.
    const second = batcher.add('k7', 1_000).then(() => settled.push('k7 again'))
    await until(() => settled.length === 126)
    expect(await batcher.add('later', 5)).to.equal(5)
    expect(settled).to.not.include('k7 again')
    // One for all, 12 groups, and the members of two of them. Those that are stuck are tried again and again.
    expect(runs.filter((keys) => keys.length > 1 || !stuck.has(keys[0] as string)).length).to.be.below(40)
    stuck.clear()
    await Promise.all([...calls, second])
    expect(settled.indexOf('k7 again')).to.be.above(settled.indexOf('k7'))
  })

  it('gives a batch all the time if every part of it has to wait', async () => {
    const limits: (number | undefined)[] = []
    const batcher = new Batcher<number, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 1,
      maxWaitMs: 1_000,
      maxRunMs: 60_000,
      isOverdue: (error) => error instanceof Error,
      run: async (calls, { statementMs }) => {
        limits.push(statementMs)
        if (statementMs !== undefined) throw new Error('overdue')
        return calls.map(({ value }) => value)
      },
    })
    await Promise.all(Array.from({ length: 100 }, (_, n) => batcher.add(`k${n}`, n)))
    expect(limits.at(-1)).to.equal(undefined)
    expect(limits).to.have.length(12)
    // What follows isn't divided either.
    await Promise.all(Array.from({ length: 100 }, (_, n) => batcher.add(`k${n}`, n)))
    expect(limits).to.have.length(13)
  })

  it('rejects calls that wait too long, and those for which there is no room', async () => {
    const ends: (() => void)[] = []
    let settled = 0
    const batcher = new Batcher<string, string>({
      maxBatchSize: 1,
      maxConcurrentBatches: 1,
      maxWaitMs: 50,
      maxRunMs: 60_000,
      sizeOf: (value) => value.length,
      maxTotalSize: 10,
      onSettled: (calls) => {
        settled += calls.length
      },
      run: (calls) => new Promise((resolve) => ends.push(() => resolve(calls.map(({ value }) => value)))),
    })
    const first = batcher.add('a', '12345')
    const waiting = [batcher.add('a', '12'), batcher.add('b', '12')]
    expect((await rejection(batcher.add('c', '12345'))).message).to.match(/busy: 9 characters/)
    for (const call of waiting) {
      const error = await rejection(call)
      expect(error.message).to.match(/waited too long/)
      expect(Reflect.get(error, 'code')).to.equal('ERR_BUSY')
    }
    ends[0]?.()
    expect(await first).to.equal('12345')
    // What was rejected doesn't count, and neither holds its key.
    const next = batcher.add('a', '1234567890')
    await nextTurn()
    ends[1]?.()
    expect(await next).to.equal('1234567890')
    expect(settled).to.equal(5)
  })

  it('settles a call later whose result is a promise', async () => {
    const batcher = new Batcher<number, number>({
      maxBatchSize: 10,
      maxConcurrentBatches: 1,
      toError: (error) => new Error(`wrapped: ${(error as Error).message}`),
      run: async (calls) =>
        calls.map(({ value }) =>
          value === 1
            ? nextTurn().then(() => new Error('late'))
            : value === 2
              ? nextTurn().then(() => 22)
              : value,
        ),
    })
    const [one, two, three] = [batcher.add('a', 1), batcher.add('b', 2), batcher.add('c', 3)]
    expect((await rejection(one)).message).to.equal('wrapped: late')
    expect(await Promise.all([two, three])).to.deep.equal([22, 3])
  })

  it('keeps its rules for random calls', async () => {
    const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f')
    const calls = fc.array(fc.record({ key, wait: fc.nat(3), fails: fc.boolean() }), { maxLength: 60 })
    await fc.assert(
      fc.asyncProperty(
        calls,
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 4 }),
        async (list, maxBatchSize, maxConcurrentBatches) => {
          const done: Record<string, number[]> = {}
          const running = new Set<string>()
          let inFlight = 0
          const batcher = new Batcher<{ n: number; fails: boolean }, number>({
            maxBatchSize,
            maxConcurrentBatches,
            canBisect: () => true,
            run: async (group) => {
              const keys = group.map(({ key }) => key)
              expect(keys).to.deep.equal([...new Set(keys)].sort())
              expect(keys.length).to.be.at.most(maxBatchSize)
              expect(++inFlight).to.be.at.most(maxConcurrentBatches)
              for (const key of keys) {
                expect(running.has(key)).to.equal(false)
                running.add(key)
              }
              await nextTurn()
              inFlight--
              for (const key of keys) running.delete(key)
              if (group.some(({ value }) => value.fails)) throw new Error('it fails')
              for (const { key, value } of group) done[key] = [...(done[key] ?? []), value.n]
              return group.map(({ value }) => value.n)
            },
          })
          const settled: Promise<unknown>[] = []
          for (const [n, { key, wait, fails }] of list.entries()) {
            for (let i = 0; i < wait; i++) await nextTurn()
            settled.push(
              batcher.add(key, { n, fails }).then(
                (result) => expect([result, fails]).to.deep.equal([n, false]),
                () => expect(fails).to.equal(true),
              ),
            )
          }
          await Promise.all(settled)
          for (const order of Object.values(done))
            expect(order).to.deep.equal([...order].sort((a, b) => a - b))
          expect(Object.values(done).flat()).to.have.length(list.filter(({ fails }) => !fails).length)
        },
      ),
      { numRuns: 200 },
    )
  })
})
