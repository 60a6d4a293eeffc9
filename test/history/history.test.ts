// The guarantees hold in random histories of several processes, and the checker finds the faults it should.
import { expect } from 'chai'
import { digestOf } from '../../lib/session/session-id.js'
import { withoutLines } from '../helpers/faulty-library.js'
import { smallQueue } from '../helpers/full-queue.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { check } from './check.js'
import type { Event } from './event.js'
import { checkLog } from './log.js'
import { type RunOptions, run } from './run.js'

describe('the history of several processes', () => {
  const options = async (): Promise<RunOptions> => ({
    url: await freshDatabase(),
    seconds: 5,
    seed: 20_261_121,
  })

  for (const trouble of [false, true])
    it(`has no fault ${trouble ? 'while listeners are terminated and stalled and processes stopped' : 'without trouble'}`, async () => {
      const { faults, events, hits, reconnects } = await run({ ...(await options()), trouble })
      expect(faults.slice(0, 3)).to.deep.equal([])
      // On a busy machine there are few.
      expect(events).to.be.above(200)
      expect(hits, 'cache hits').to.be.above(20)
      if (trouble) expect(reconnects).to.be.above(0)
    })

  /** Two processes with 64 callers each set and destroy the same 50 keys, as fast as possible. */
  const changes = async (): Promise<RunOptions> => {
    const url = await freshDatabase()
    // PostgreSQL looks for deadlocks after a second. A store cancels a batch that has to wait before that, and divides it.
    await sql(url, `alter database ${new URL(url).pathname.slice(1)} set deadlock_timeout = '20ms'`)
    return { ...(await options()), url, seconds: 4, processes: 2, callers: 64, keys: 50, changes: true }
  }

  it('has all acknowledged sets of many callers on few keys, in order, without an error or a deadlock', async () => {
    const { faults, acknowledged, logged, ...rest } = await run(await changes())
    expect(faults.slice(0, 3)).to.deep.equal([])
    expect(rest).to.deep.include({ errors: [], deadlocks: [0, 0] })
    expect(acknowledged).to.be.above(1_000)
    expect(logged).to.be.above(acknowledged / 10)
  })

  it('has no fault while flushes of the log are delayed at random', async () => {
    const flushDelayMs = 60
    const random = await run({ ...(await options()), trouble: true, flushDelayMs })
    expect(random.faults.slice(0, 3)).to.deep.equal([])
    const { faults, errors, acknowledged } = await run({ ...(await changes()), flushDelayMs })
    expect({ faults: faults.slice(0, 3), errors }).to.deep.equal({ faults: [], errors: [] })
    expect(acknowledged).to.be.above(500)
  })

  it('has no fault while rows and the table are locked and calls are more than the server can take', async () => {
    const { faults, acknowledged, errors } = await run({
      ...(await changes()),
      seconds: 6,
      locks: true,
      callers: 192,
    })
    expect(faults.slice(0, 3)).to.deep.equal([])
    expect(acknowledged).to.be.above(200)
    // Each says that the database has no time for it.
    for (const error of errors) expect(error).to.match(/^DatabaseError: /)
  })

  it('has no fault while notifications arrive late', async () => {
    const { faults, errors } = await run({
      ...(await options()),
      seconds: 8,
      listenDelayMs: 700,
      maxStaleness: 1_500,
    })
    expect({ faults: faults.slice(0, 3), errors }).to.deep.equal({ faults: [], errors: [] })
  })

  it('has no fault, and no call fails, while the queue of notifications is full again and again', async () => {
    const server = await ownServer(smallQueue)
    try {
      const { url } = server
      const { faults, errors, acknowledged } = await run({ ...(await options()), url, fullQueue: true })
      // Changes in psql fail.
      const failed = errors.filter((error) => error.startsWith('DatabaseError'))
      expect({ faults: faults.slice(0, 3), failed }).to.deep.equal({ faults: [], failed: [] })
      expect(acknowledged).to.be.above(50)
    } finally {
      await server.stop()
    }
  })

  it('shows a deadlock if statements do not lock rows in a common order', () =>
    withoutLines(
      {
        'util/call-queue.js': '.sort(byKey)',
        // Batches of one process run side by side.
        'util/batcher.js': ' >= this.#overlapsAt',
        'repository/session-statements.js': [` order by \${order}`, ' order by s.id'],
      },
      async (library) => {
        let deadlocks = 0
        for (let seed = 1; seed <= 8 && deadlocks === 0; seed++)
          deadlocks =
            (await run({ ...(await changes()), seed, library, holdLocksSeconds: 0.003 })).deadlocks?.[1] ?? 0
        expect(deadlocks).to.be.above(0)
      },
    )).timeout(120_000)

  /** Whether one of eight histories has a stale read; a race doesn't happen every time. */
  async function hasStaleRead(library: string, trouble: boolean): Promise<boolean> {
    for (let seed = 1; seed <= 8; seed++) {
      const { faults } = await run({ ...(await options()), seed, library, trouble })
      if (faults.some(({ what }) => what === 'stale read')) return true
    }
    return false
  }

  it('shows a stale read if a fill may be older than a notification', () =>
    withoutLines(
      { 'cache/local-cache.js': 'invalidation.version = Math.max(invalidation.version, version);' },
      async (library) => {
        expect(await hasStaleRead(library, false)).to.equal(true)
      },
    )).timeout(120_000)

  it('shows a stale read if the cache is not cleared on reconnect', () =>
    withoutLines(
      { 'stores/lifecycle.js': 'this.cache?.clear();\n        this.touches.forgetExpiries();' },
      async (library) => {
        expect(await hasStaleRead(library, true)).to.equal(true)
      },
    )).timeout(120_000)
})

describe('the history checker', () => {
  const event = (
    kind: Event['kind'],
    start: number,
    end: number,
    value?: number | null,
    process = 0,
  ): Event => ({
    kind,
    key: 'k',
    start,
    end,
    process,
    ...(value === undefined ? {} : { value }),
  })
  const faults = (...events: Event[]): string[] => check(events, 100).map(({ what }) => what)

  it('accepts a valid history', () => {
    const concurrent = [event('write', 0, 50, 1), event('write', 40, 60, 2), event('read', 500, 501, 1, 1)]
    expect(faults(...concurrent)).to.deep.equal([])
    expect(
      faults(event('write', 0, 1, 1), event('write', 2, 3, 2), event('read', 50, 51, 1, 1)),
    ).to.deep.equal([])
    expect(
      faults(event('write', 0, 1, 1), event('destroy', 2, 9), event('read', 5, 6, null, 1)),
    ).to.deep.equal([])
    expect(faults(event('write', 0, Infinity, 1), event('read', 5, 6, 1, 1))).to.deep.equal([])
  })

  it('finds each kind of fault', () => {
    const [first, second] = [event('write', 0, 1, 1), event('write', 2, 3, 2)]
    expect(faults(first, second, event('read', 200, 201, 1, 1))).to.deep.equal(['stale read'])
    expect(faults(first, event('destroy', 2, 3), event('read', 200, 201, 1, 1))).to.deep.equal(['stale read'])
    expect(faults(first, event('outside delete', 2, 3), event('read', 200, 201, 1))).to.deep.equal([
      'stale read',
    ])
    expect(faults(first, second, event('read', 4, 5, 1))).to.deep.equal(['own write not read'])
    expect(faults(first, second, event('read', 4, 5, 2, 1), event('read', 6, 7, 1, 1))).to.deep.equal([
      'non-monotonic read',
    ])
    expect(faults(event('read', 4, 5, 1))).to.deep.equal(['unknown value'])
    expect(faults(first, event('read', 4, 5, null, 1))).to.deep.equal(['lost write'])
  })

  /** `log` has the numbers that were written, and `null` for a destroy. */
  const logFaults = (log: (number | null)[], ...events: Event[]): string[] =>
    checkLog(
      events,
      log.map((n) => ({ id: `sha256:${digestOf('k')}`, n })),
    ).map(({ what }) => what)

  it('accepts a log that the calls may have produced', () => {
    const [first, second] = [event('write', 0, 5, 1), event('write', 4, 9, 2)]
    const [destroy, late] = [event('destroy', 20, 30), event('write', 25, 40, 3)]
    expect(logFaults([1, 2], first, second)).to.deep.equal([])
    expect(logFaults([2, 1], first, second)).to.deep.equal([])
    expect(logFaults([1, null], first, destroy, late), 'a set after the destroy').to.deep.equal([])
    expect(logFaults([1, 3, null], first, destroy, late), 'a set before the destroy').to.deep.equal([])
    expect(logFaults([], event('destroy', 0, 1)), 'nothing to destroy').to.deep.equal([])
    expect(logFaults([1], event('destroy', 0, 1), event('write', 2, 3, 1))).to.deep.equal([])
    for (const log of [[], [1]]) expect(logFaults(log, event('write', 0, Infinity, 1))).to.deep.equal([])
    for (const log of [[1], [1, null]])
      expect(logFaults(log, first, event('destroy', 20, Infinity))).to.deep.equal([])
  })

  it('finds each kind of fault in a log', () => {
    const [first, second, destroy] = [
      event('write', 0, 1, 1),
      event('write', 2, 3, 2),
      event('destroy', 10, 11),
    ]
    expect(logFaults([2], first, second)).to.deep.equal(['lost write'])
    expect(logFaults([2, null], first, second, destroy), 'acknowledged before the destroy').to.deep.equal([
      'lost write',
    ])
    expect(logFaults([2, 1], first, second)).to.deep.equal(['out of order'])
    expect(logFaults([1], first, destroy), 'a destroy that is not in the log').to.deep.equal(['resurrected'])
    expect(logFaults([1, null, 2], first, destroy, event('write', 10, 12, 2))).to.deep.equal(['resurrected'])
    expect(logFaults([1, 1], first)).to.deep.equal(['unknown value'])
    expect(logFaults([1, null], first), 'no process destroyed it').to.deep.equal(['unknown value'])
  })
})
