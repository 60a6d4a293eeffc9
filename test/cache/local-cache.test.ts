import { expect } from 'chai'
import fc from 'fast-check'
import { LocalCache } from '../../lib/cache/local-cache.js'
import { type SessionRecord, SessionRecords } from '../../lib/cache/session-records.js'
import { clone } from '../../lib/session/json.js'

const stored = (version: number, ttlMs = 1e9) => ({
  id: 'row',
  json: `{"version":${version}}`,
  version,
  ttlMs,
})

const record = (digest: string): SessionRecord => new SessionRecords(1, false).of(digest, digest)

describe('LocalCache', () => {
  let now = 0
  const cache = (limits = {}) =>
    new LocalCache({ max: 100, maxBytes: 1e6, ttl: 60_000, ...limits }, () => now)
  beforeEach(() => {
    now = 1_000
  })

  it('returns copies of what it was filled with', () => {
    const c = cache()
    c.commitFill('a', c.beginFill(), { ...stored(1), json: '{"list":[{"n":1}]}' })
    const first = c.get(record('a'))?.session as { list: { n: number }[] }
    ;(first.list[0] as { n: number }).n = 2
    first.list.push({ n: 3 })
    expect(c.get(record('a'))?.session).to.deep.equal({ list: [{ n: 1 }] })
  })

  it('lets the record of a session lead to its entry only while that is cached', () => {
    const c = cache({ max: 2 })
    const a = record('a')
    const fill = (digest: string, version: number): boolean =>
      c.commitFill(digest, c.beginFill(), stored(version))
    const endings = [
      () => c.invalidate('a', 2),
      () => c.clear(),
      () => ['b', 'c'].forEach((digest) => void fill(digest, 1)),
      () => fill('a', 9),
    ]
    for (const [n, end] of endings.entries()) {
      fill('a', n + 1)
      expect(c.get(a)?.entry).to.equal(a.entry)
      expect(a.entry?.version).to.equal(n + 1)
      end()
      expect(a.entry).to.equal(undefined)
    }
    expect(c.get(a)?.session).to.deep.equal({ version: 9 })
    // The record was forgotten and made again: only one of the two leads to the entry, so that none outlives it.
    const again = record('a')
    expect(c.get(again)?.session).to.deep.equal({ version: 9 })
    expect(a.entry).to.equal(undefined)
    now += 60_000
    expect(c.get(again)).to.equal(undefined)
  })

  it('refuses a fill that an invalidation overtook, and accepts one of its version or newer', () => {
    const c = cache()
    const [older, same, newer] = [c.beginFill(), c.beginFill(), c.beginFill()]
    c.invalidate('a', 5)
    c.commitFill('a', older, stored(4))
    expect(c.get(record('a'))?.session).to.equal(undefined)
    c.commitFill('a', same, stored(5))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 5 })
    c.commitFill('a', newer, stored(6))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 6 })
  })

  it('keeps the newer of two fills, whichever is committed first', () => {
    const c = cache()
    const [first, second] = [c.beginFill(), c.beginFill()]
    c.commitFill('a', second, stored(2))
    c.commitFill('a', first, stored(1))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 2 })
  })

  it('drops only a session that is older than an invalidation', () => {
    const c = cache()
    c.commitFill('a', c.beginFill(), stored(5))
    c.commitFill('b', c.beginFill(), stored(5))
    expect(c.invalidate('a', 5), 'its own echo').to.equal(undefined)
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 5 })
    expect(c.invalidate('a', 6)).to.equal('row')
    expect(c.get(record('a'))?.session).to.equal(undefined)
    expect(c.get(record('b'))?.session).to.deep.equal({ version: 5 })
  })

  it('refuses a fill that began before it was cleared', () => {
    const c = cache()
    const fill = c.beginFill()
    c.clear()
    c.commitFill('a', fill, stored(9))
    expect(c.get(record('a'))?.session).to.equal(undefined)
  })

  it('loads once for concurrent misses', async () => {
    const c = cache()
    let loads = 0
    let resolveLoad: (value: ReturnType<typeof stored>) => void = () => {}
    const load = () => {
      loads++
      return new Promise<ReturnType<typeof stored>>((resolve) => {
        resolveLoad = resolve
      })
    }
    const reads = [c.fetch('a', load), c.fetch('a', load), c.fetch('a', load)]
    await Promise.resolve()
    resolveLoad(stored(1))
    expect(await Promise.all(reads)).to.deep.equal([stored(1), stored(1), stored(1)])
    expect(loads).to.equal(1)
  })

  it('loads again for a caller that arrives after an invalidation', async () => {
    const c = cache()
    const resolvers: ((value: ReturnType<typeof stored>) => void)[] = []
    const load = () => new Promise<ReturnType<typeof stored>>((resolve) => resolvers.push(resolve))
    for (const drop of [() => c.invalidate('a', 2), () => c.clear()]) {
      resolvers.length = 0
      const before = c.fetch('a', load)
      drop()
      const after = c.fetch('a', load)
      await Promise.resolve()
      expect(resolvers).to.have.length(2)
      resolvers[1]?.(stored(2))
      resolvers[0]?.(stored(1))
      expect([await before, await after]).to.deep.equal([stored(1), stored(2)])
      expect(c.get(record('a'))?.session).to.deep.equal({ version: 2 })
    }
  })

  it('shares no miss with a caller that arrived during the load', async () => {
    const c = cache()
    let resolveLoad: (value?: ReturnType<typeof stored>) => void = () => {}
    let loads = 0
    const load = () => {
      loads++
      return new Promise<ReturnType<typeof stored> | undefined>((resolve) => {
        resolveLoad = resolve
      })
    }
    const first = c.fetch('a', load)
    // Another instance inserts the session while the first load is in flight.
    const later = [c.fetch('a', load), c.fetch('a', load)]
    await Promise.resolve()
    resolveLoad(undefined)
    expect(await first).to.equal(undefined)
    await new Promise((resolve) => setImmediate(resolve))
    resolveLoad(stored(1))
    expect(await Promise.all(later)).to.deep.equal([stored(1), stored(1)])
    expect(loads).to.equal(2)
  })

  it('rejects all callers that share a failed load, and loads again for the next', async () => {
    const c = cache()
    const fail = () => Promise.reject(new Error('down'))
    const outcomes = await Promise.allSettled([c.fetch('a', fail), c.fetch('a', fail)])
    expect(outcomes.map(({ status }) => status)).to.deep.equal(['rejected', 'rejected'])
    expect(await c.fetch('a', async () => stored(1))).to.deep.equal(stored(1))
  })

  it('returns a session until it expires or for its ttl, from the start of the load', () => {
    const c = cache({ ttl: 500 })
    const fill = c.beginFill()
    now += 50
    c.commitFill('short', fill, stored(1, 100))
    c.commitFill('long', c.beginFill(), stored(1, 10_000))
    now += 49
    expect(c.get(record('short'))?.session).to.deep.equal({ version: 1 })
    now += 1
    expect(c.get(record('short'))?.session).to.equal(undefined)
    now += 399
    expect(c.get(record('long'))?.session).to.deep.equal({ version: 1 })
    now += 51
    expect(c.get(record('long'))?.session).to.equal(undefined)
  })

  it('is bounded in sessions and in characters', () => {
    const few = cache({ max: 10 })
    const small = cache({ maxBytes: 150 })
    for (let i = 0; i < 100; i++)
      for (const c of [few, small]) c.commitFill(`${i}`, c.beginFill(), stored(i + 1))
    expect(few.size).to.equal(10)
    expect(small.bytes).to.be.within(100, 150)
    expect(few.get(record('99'))?.session).to.deep.equal({ version: 100 })
    small.commitFill('big', small.beginFill(), { ...stored(1), json: `{"a":"${'x'.repeat(200)}"}` })
    expect(small.get(record('big'))).to.equal(undefined)
  })

  it('refuses what was read before an invalidation of any version, and takes what was read after it', () => {
    const c = cache()
    const before = c.beginFill()
    c.invalidate('a', Number.POSITIVE_INFINITY)
    const after = c.beginFill()
    c.commitFill('a', before, stored(9))
    expect(c.get(record('a'))).to.equal(undefined)
    c.commitFill('a', after, stored(1))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 1 })
  })

  it('keeps out what is older than a session that was saved here, also when that has been evicted', () => {
    const c = cache({ max: 2 })
    const older = c.beginFill()
    c.commitFill('a', c.beginFill(), stored(1))
    c.commitSave('a', c.beginFill(), stored(5))
    c.commitFill('a', older, stored(4))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 5 })
    expect(c.hasVersion('a', 5)).to.equal(true)
    expect(c.hasVersion('a', 6)).to.equal(false)
    for (const digest of ['b', 'c']) c.commitFill(digest, c.beginFill(), stored(1))
    expect(c.hasVersion('a', 5)).to.equal(false)
    c.commitFill('a', older, stored(4))
    expect(c.get(record('a'))).to.equal(undefined)
    c.commitFill('a', older, stored(5))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 5 })
  })

  it('drops what is older than a save that it can’t keep', () => {
    const c = cache({ maxBytes: 150 })
    const endings = [
      () => c.commitSave('a', c.beginFill(), { ...stored(2), json: `{"a":"${'x'.repeat(200)}"}` }),
      (older: ReturnType<typeof c.beginFill>) => {
        c.clear()
        c.commitFill('a', c.beginFill(), stored(3))
        c.commitSave('a', older, stored(4))
      },
    ]
    for (const end of endings) {
      const older = c.beginFill()
      c.commitFill('a', c.beginFill(), stored(1))
      end(older)
      expect(c.get(record('a'))).to.equal(undefined)
      c.commitFill('a', older, stored(1))
      expect(c.get(record('a'))).to.equal(undefined)
    }
  })

  it('shares no query that is older than a notification', async () => {
    const c = cache()
    c.commitFill('a', c.beginFill(), stored(1, 0))
    let loads = 0
    const load = async () => stored(++loads)
    const first = c.fetch('a', load)
    expect(c.hasVersion('a', 1)).to.equal(true)
    await Promise.all([first, c.fetch('a', load)])
    expect(loads).to.equal(2)
  })

  it('drops fills in flight once it has forgotten what was invalidated', () => {
    const c = cache()
    const fill = c.beginFill()
    c.invalidate('a', 5)
    for (let i = 0; i < 10_000; i++) c.invalidate(`${i}`, 5)
    c.commitFill('a', fill, stored(4))
    expect(c.get(record('a'))).to.equal(undefined)
    c.commitFill('a', c.beginFill(), stored(5))
    expect(c.get(record('a'))?.session).to.deep.equal({ version: 5 })
  })

  it('copies sessions as JSON does', () => {
    const key = fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', 'toString', '0', '1'))
    const value = fc.letrec((tie) => ({
      node: fc.oneof(
        { depthSize: 'small' },
        fc.string(),
        fc.double(),
        fc.boolean(),
        fc.constant(null),
        fc.array(tie('node')),
        fc.dictionary(key, tie('node')),
      ),
    })).node
    fc.assert(
      fc.property(fc.dictionary(key, value), (data) => {
        const parsed = JSON.parse(JSON.stringify(data)) as object
        const copied = clone(parsed)
        expect(JSON.stringify(copied)).to.equal(JSON.stringify(parsed))
        expect(copied).not.to.equal(parsed)
        expect(Object.getPrototypeOf(copied)).to.equal(Object.prototype)
      }),
      { numRuns: 1_000 },
    )
  })
})

describe('a million sessions in a cache of 10,000', () => {
  it('do not grow the heap', async function () {
    this.timeout(120_000)
    if (globalThis.gc === undefined) throw new Error('run with --expose-gc, as .mocharc.yml says')
    const cache = new LocalCache({ max: 10_000, maxBytes: 64 * 1024 * 1024, ttl: 60_000 })
    const fill = (from: number, to: number): void => {
      for (let n = from; n < to; n++) {
        const digest = `session ${n}`
        cache.commitFill(digest, cache.beginFill(), {
          id: digest,
          json: JSON.stringify({ n, text: `${n}`.padEnd(400, 'x') }),
          version: n + 1,
          ttlMs: 1e9,
        })
        cache.get(record(digest))
        if (n % 3 === 0) cache.invalidate(digest, n + 2)
      }
    }
    const heapBytes = (): number => {
      globalThis.gc?.()
      return process.memoryUsage().heapUsed
    }
    fill(0, 50_000)
    const before = heapBytes()
    fill(50_000, 1_000_000)
    const growth = heapBytes() - before
    expect(cache.size).to.be.within(9_990, 10_000)
    // 950,000 sessions of 400 bytes would be more than 380 MB.
    expect(growth).to.be.below(10_000_000)
  })
})
