import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { expect } from 'chai'
import { freshDatabase } from './helpers/server.js'
import { check } from './history/check.js'
import type { Event } from './history/event.js'
import { type Run, run } from './history/run.js'

/** A copy of the library with a line taken out, to see that the checker would find it. */
async function withFault(file: string, line: string, run: (library: string) => Promise<void>): Promise<void> {
  const copy = new URL('../faulty/', import.meta.url)
  cpSync(new URL('../lib/', import.meta.url), copy, { recursive: true })
  try {
    const path = new URL(file, copy)
    const text = readFileSync(path, 'utf8')
    expect(text, `${file} has the line that is to be taken out`).to.include(line)
    writeFileSync(path, text.replace(line, line.endsWith(';') ? ';' : ''))
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

  /** Whether some history of a few shows an old answer: a race is a matter of chance. */
  async function findsStale(library: string, trouble: boolean): Promise<boolean> {
    for (let seed = 1; seed <= 8; seed++) {
      const { faults } = await run({ ...(await options()), seed, library, trouble })
      if (faults.some(({ what }) => what === 'stale')) return true
    }
    return false
  }

  it('shows a fault where a fill may be older than a notice', () =>
    withFault('cache.js', 'fill.floor = Math.max(fill.floor, version);', async (library) => {
      expect(await findsStale(library, false)).to.equal(true)
    })).timeout(120_000)

  it('shows a fault where nothing is flushed on reconnect', () =>
    withFault(
      'store.js',
      'this.#cache?.flush();\n                this.#touches.doubt();',
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
})
