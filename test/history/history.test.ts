import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { expect } from 'chai'
import { digestOf } from '../../lib/session/session-id.js'
import { freshDatabase } from '../helpers/server.js'
import { check } from './check.js'
import type { Event } from './event.js'
import { checkLog } from './log.js'
import { type Run, run } from './run.js'

/** A copy of the library with lines of some files taken out, to see that the checker would find it. */
async function withFault(
  lines: Record<string, string | string[]>,
  run: (library: string) => Promise<void>,
): Promise<void> {
  const copy = new URL('../../faulty/', import.meta.url)
  cpSync(new URL('../../lib/', import.meta.url), copy, { recursive: true })
  try {
    for (const [file, line] of Object.entries(lines).flatMap(([file, some]) =>
      [some].flat().map((line) => [file, line] as const),
    )) {
      const path = new URL(file, copy)
      const text = readFileSync(path, 'utf8')
      expect(text, `${file} has the line that is to be taken out`).to.include(line)
      writeFileSync(path, text.replace(line, line.endsWith(';') ? ';' : ''))
    }
    await run(new URL('index.js', copy).href)
  } finally {
    rmSync(copy, { recursive: true })
  }
}

describe('the history of several processes', () => {
  const options = async (): Promise<Run> => ({ url: await freshDatabase(), seconds: 5, seed: 20_261_121 })

  for (const trouble of [false, true])
    it(`keeps the promises ${trouble ? 'while listeners are ended and silenced and processes stopped' : 'in health'}`, async () => {
      const { faults, events, hits, reconnects } = await run({ ...(await options()), trouble })
      expect(faults.slice(0, 3)).to.deep.equal([])
      expect(events).to.be.above(1_000)
      expect(hits, 'answers from memory').to.be.above(200)
      if (trouble) expect(reconnects).to.be.above(0)
    })

  /** Two processes, 64 callers each, the same 50 keys: sets and destroys, as fast as they go. */
  const changes = async (): Promise<Run> => ({
    ...(await options()),
    seconds: 4,
    processes: 2,
    callers: 64,
    keys: 50,
    changes: true,
  })

  it('has every acknowledged set of many callers on few keys, in order, without an error or a deadlock', async () => {
    const { faults, acknowledged, logged, ...rest } = await run(await changes())
    expect(faults.slice(0, 3)).to.deep.equal([])
    expect(rest).to.deep.include({ errors: [], deadlocks: [0, 0] })
    expect(acknowledged).to.be.above(1_000)
    expect(logged).to.be.above(acknowledged / 10)
  })

  it('shows a deadlock where statements lock rows in no common order', () =>
    withFault(
      {
        'util/batcher.js': '.sort(byKey)',
        'repository/session-statements.js': [' order by u.id', ' order by s.id'],
      },
      async (library) => {
        let found = 0
        for (let seed = 1; seed <= 8 && found === 0; seed++)
          found = (await run({ ...(await changes()), seed, library })).deadlocks?.[1] ?? 0
        expect(found).to.be.above(0)
      },
    )).timeout(120_000)

  /** Whether some history of a few shows an old answer: a race is a matter of chance. */
  async function findsStale(library: string, trouble: boolean): Promise<boolean> {
    for (let seed = 1; seed <= 8; seed++) {
      const { faults } = await run({ ...(await options()), seed, library, trouble })
      if (faults.some(({ what }) => what === 'stale')) return true
    }
    return false
  }

  it('shows a fault where a fill may be older than a notice', () =>
    withFault(
      { 'cache/local-cache.js': 'fill.minVersion = Math.max(fill.minVersion, version);' },
      async (library) => {
        expect(await findsStale(library, false)).to.equal(true)
      },
    )).timeout(120_000)

  it('shows a fault where nothing is flushed on reconnect', () =>
    withFault(
      { 'stores/lifecycle.js': 'this.cache?.clear();\n                this.touches.forgetExpiry();' },
      async (library) => {
        expect(await findsStale(library, true)).to.equal(true)
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

  it('allows what may be', () => {
    const concurrent = [event('write', 0, 50, 1), event('write', 40, 60, 2), event('read', 500, 501, 1, 1)]
    expect(faults(...concurrent)).to.deep.equal([])
    expect(
      faults(event('write', 0, 1, 1), event('write', 2, 3, 2), event('read', 50, 51, 1, 1)),
    ).to.deep.equal([])
    expect(faults(event('write', 0, 1, 1), event('end', 2, 9), event('read', 5, 6, null, 1))).to.deep.equal(
      [],
    )
    expect(faults(event('write', 0, Infinity, 1), event('read', 5, 6, 1, 1))).to.deep.equal([])
  })

  it('finds what may not', () => {
    const [first, second] = [event('write', 0, 1, 1), event('write', 2, 3, 2)]
    expect(faults(first, second, event('read', 200, 201, 1, 1))).to.deep.equal(['stale'])
    expect(faults(first, event('end', 2, 3), event('read', 200, 201, 1, 1))).to.deep.equal(['stale'])
    expect(faults(first, event('outside end', 2, 3), event('read', 200, 201, 1))).to.deep.equal(['stale'])
    expect(faults(first, second, event('read', 4, 5, 1))).to.deep.equal(['own write not read'])
    expect(faults(first, second, event('read', 4, 5, 2, 1), event('read', 6, 7, 1, 1))).to.deep.equal([
      'went back',
    ])
    expect(faults(event('read', 4, 5, 1))).to.deep.equal(['out of nowhere'])
    expect(faults(first, event('read', 4, 5, null, 1))).to.deep.equal(['lost'])
  })

  /** Of the log that PostgreSQL has kept: the numbers that were written, and `null` for the end. */
  const logFaults = (log: (number | null)[], ...events: Event[]): string[] =>
    checkLog(
      events,
      log.map((n) => ({ id: `sha256:${digestOf('k')}`, n })),
    ).map(({ what }) => what)

  it('allows a log that the calls may have left', () => {
    const [first, second] = [event('write', 0, 5, 1), event('write', 4, 9, 2)]
    const [end, late] = [event('end', 20, 30), event('write', 25, 40, 3)]
    expect(logFaults([1, 2], first, second)).to.deep.equal([])
    expect(logFaults([2, 1], first, second)).to.deep.equal([])
    expect(logFaults([1, null], first, end, late), 'a set after the end').to.deep.equal([])
    expect(logFaults([1, 3, null], first, end, late), 'a set before the end').to.deep.equal([])
    expect(logFaults([], event('end', 0, 1)), 'nothing to end').to.deep.equal([])
    expect(logFaults([1], event('end', 0, 1), event('write', 2, 3, 1))).to.deep.equal([])
    for (const log of [[], [1]]) expect(logFaults(log, event('write', 0, Infinity, 1))).to.deep.equal([])
    for (const log of [[1], [1, null]])
      expect(logFaults(log, first, event('end', 20, Infinity))).to.deep.equal([])
  })

  it('finds in a log what may not be', () => {
    const [first, second, end] = [event('write', 0, 1, 1), event('write', 2, 3, 2), event('end', 10, 11)]
    expect(logFaults([2], first, second)).to.deep.equal(['lost'])
    expect(logFaults([2, null], first, second, end), 'acknowledged before the end').to.deep.equal(['lost'])
    expect(logFaults([2, 1], first, second)).to.deep.equal(['out of order'])
    expect(logFaults([1], first, end), 'an end that was none').to.deep.equal(['brought back'])
    expect(logFaults([1, null, 2], first, end, event('write', 10, 12, 2))).to.deep.equal(['brought back'])
    expect(logFaults([1, 1], first)).to.deep.equal(['out of nowhere'])
    expect(logFaults([1, null], first), 'nobody ended it').to.deep.equal(['out of nowhere'])
  })
})
