import { expect } from 'chai'
import fc from 'fast-check'
import { Batcher } from '../../lib/util/batcher.js'

/** A batcher whose batches end when the test says so. */
function controlled({ max = 100, concurrency = 1, isDivisible = (_: unknown) => false } = {}) {
  const batches: { keys: string[]; end: (error?: Error) => Promise<void> }[] = []
  const batch = new Batcher<number, string>({
    maxBatchSize: max,
    maxConcurrentBatches: concurrency,
    canBisect: isDivisible,
    run: (calls) =>
      new Promise((resolve, reject) => {
        batches.push({
          keys: calls.map(({ key }) => key),
          end: (error) => {
            if (error) reject(error)
            else resolve(calls.map(({ key, value }) => `${key}=${value}`))
            return turn()
          },
        })
      }),
  })
  return { batch, batches }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('a batch', () => {
  it('of one leaves at once, before any I/O', async () => {
    const { batch, batches } = controlled()
    const call = batch.add('a', 1)
    await new Promise<void>((resolve) => process.nextTick(resolve))
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['a']])
    await batches[0]?.end()
    expect(await call).to.equal('a=1')
  })

  it('joins what is called in the same turn, and what is called while it is under way in the next', async () => {
    const { batch, batches } = controlled()
    const first = [batch.add('b', 1), batch.add('a', 2)]
    await turn()
    const second = [batch.add('d', 3)]
    await turn()
    second.push(batch.add('c', 4))
    await turn()
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

  it('joins what callers ask again as soon as they are answered', async () => {
    const { batch, batches } = controlled()
    const callers = Array.from({ length: 50 }, async (_, n) => {
      await batch.add(`k${n}`, 1)
      await batch.add(`k${n}`, 2)
    })
    await turn()
    await batches[0]?.end()
    await batches[1]?.end()
    await Promise.all(callers)
    expect(batches.map(({ keys }) => keys.length)).to.deep.equal([50, 50])
  })

  it('is no larger than max, and no more are under way than may be', async () => {
    const { batch, batches } = controlled({ max: 3, concurrency: 2 })
    const calls = Array.from({ length: 10 }, (_, n) => batch.add(`k${n}`, n))
    await turn()
    expect(batches.map(({ keys }) => keys.length)).to.deep.equal([3, 3])
    await batches[1]?.end()
    expect(batches.map(({ keys }) => keys.length)).to.deep.equal([3, 3, 3])
    await batches[0]?.end()
    await batches[2]?.end()
    await batches[3]?.end()
    expect(await Promise.all(calls)).to.have.length(10)
  })

  it('is no heavier than maxWeight, if it is more than one', async () => {
    const sizes: number[] = []
    const batch = new Batcher<number, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 1,
      sizeOf: (value) => value,
      maxSize: 10,
      run: async (calls) => {
        sizes.push(calls.length)
        return calls.map(({ value }) => value)
      },
    })
    await Promise.all([4, 4, 4, 50, 1].map((weight, n) => batch.add(`k${n}`, weight)))
    expect(sizes).to.deep.equal([3, 1, 1])
  })

  it('has each key once, and keeps the order of the calls for one key', async () => {
    const { batch, batches } = controlled({ concurrency: 3 })
    const order: number[] = []
    const calls = [1, 2, 3].map((value) => batch.add('a', value).then(() => order.push(value)))
    const other = batch.add('b', 9)
    await turn()
    // The second call for "a" waits for the first, though more batches might be under way.
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['a', 'b']])
    await batches[0]?.end()
    await other
    await batches[1]?.end()
    await batches[2]?.end()
    await Promise.all(calls)
    expect(order).to.deep.equal([1, 2, 3])
  })

  it('shares a call that waits, where that is wanted, and never one under way', async () => {
    const sizes: number[] = []
    const ends: (() => void)[] = []
    const batch = new Batcher<undefined, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 2,
      dedupe: true,
      run: async (calls) => {
        const n = sizes.push(calls.length)
        await new Promise<void>((resolve) => ends.push(resolve))
        return calls.map(() => n)
      },
    })
    const early = Array.from({ length: 50 }, () => batch.add('hot', undefined))
    await turn()
    const late = [batch.add('hot', undefined), batch.add('hot', undefined)]
    await turn()
    expect(sizes).to.deep.equal([1, 1])
    for (const end of ends) end()
    expect(new Set(await Promise.all(early))).to.deep.equal(new Set([1]))
    expect(await Promise.all(late)).to.deep.equal([2, 2])
  })

  it('goes past a key whose call hangs', async () => {
    const { batch, batches } = controlled({ concurrency: 2 })
    void batch.add('hangs', 1)
    await turn()
    void batch.add('hangs', 2)
    const other = batch.add('other', 3)
    await turn()
    expect(batches.map(({ keys }) => keys)).to.deep.equal([['hangs'], ['other']])
    await batches[1]?.end()
    expect(await other).to.equal('other=3')
  })

  it('that fails fails for all, and the next is tried', async () => {
    const { batch, batches } = controlled()
    const calls = Promise.allSettled([batch.add('a', 1), batch.add('b', 2)])
    await turn()
    const later = batch.add('c', 3)
    await batches[0]?.end(new Error('down'))
    expect((await calls).map(({ status }) => status)).to.deep.equal(['rejected', 'rejected'])
    await batches[1]?.end()
    expect(await later).to.equal('c=3')
  })

  it('that fails for one call’s sake fails for that call alone', async () => {
    const sizes: number[] = []
    const batch = new Batcher<number, number>({
      maxBatchSize: 100,
      maxConcurrentBatches: 1,
      canBisect: (error) => (error as Error).message === 'one is wrong',
      run: async (calls) => {
        sizes.push(calls.length)
        if (calls.some(({ value }) => value === 13)) throw new Error('one is wrong')
        return calls.map(({ value }) => value)
      },
    })
    const outcomes = await Promise.allSettled(Array.from({ length: 64 }, (_, n) => batch.add(`k${n}`, n)))
    expect(outcomes.filter(({ status }) => status === 'rejected')).to.have.length(1)
    expect(outcomes[13]?.status).to.equal('rejected')
    expect(sizes.length).to.be.below(15)
  })

  it('keeps its rules under any abuse', async () => {
    const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f')
    const calls = fc.array(fc.record({ key, wait: fc.nat(3), fails: fc.boolean() }), { maxLength: 60 })
    await fc.assert(
      fc.asyncProperty(
        calls,
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 4 }),
        async (list, max, concurrency) => {
          const done: Record<string, number[]> = {}
          const running = new Set<string>()
          let underWay = 0
          const batch = new Batcher<{ n: number; fails: boolean }, number>({
            maxBatchSize: max,
            maxConcurrentBatches: concurrency,
            canBisect: () => true,
            run: async (group) => {
              const keys = group.map(({ key }) => key)
              expect(keys).to.deep.equal([...new Set(keys)].sort())
              expect(keys.length).to.be.at.most(max)
              expect(++underWay).to.be.at.most(concurrency)
              for (const key of keys) {
                expect(running.has(key)).to.equal(false)
                running.add(key)
              }
              await turn()
              underWay--
              for (const key of keys) running.delete(key)
              if (group.some(({ value }) => value.fails)) throw new Error('it fails')
              for (const { key, value } of group) done[key] = [...(done[key] ?? []), value.n]
              return group.map(({ value }) => value.n)
            },
          })
          const settled: Promise<unknown>[] = []
          for (const [n, { key, wait, fails }] of list.entries()) {
            for (let i = 0; i < wait; i++) await turn()
            settled.push(
              batch.add(key, { n, fails }).then(
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
