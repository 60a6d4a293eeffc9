// What stats --watch draws: from rubbish and from extreme figures, in windows of all sizes.
import { expect } from 'chai'
import fc from 'fast-check'
import stringWidth from 'string-width'
import { sparkline } from '../../../lib/cli/terminal.js'
import { readAnswer } from '../../../lib/cli/watch/answer.js'
import type { ServerState } from '../../../lib/cli/watch/database.js'
import { type Figures, figuresOf, type Readings, rateNames } from '../../../lib/cli/watch/figures.js'
import { drawLine } from '../../../lib/cli/watch/line.js'
import { drawPage } from '../../../lib/cli/watch/page.js'

/** An answer of a process, `seconds` after its start. */
function answer(id: string, seconds: number, figures: object = {}) {
  const payload = JSON.stringify({ id, process: `${id}:1`, at: seconds * 1_000, stats: figures })
  const read = readAnswer(payload)
  if (read === undefined) throw new Error('not an answer')
  return read
}

const server: ServerState = {
  database: 'app',
  at: 1_000,
  rows: { inserted: 10, updated: 20, hotUpdated: 10, deleted: 0, dead: 3 },
  connections: 12,
  maxConnections: 100,
  oldestTransactionMs: null,
  queueUsage: 0,
  listeners: 2,
  lockWaits: 0,
  lockHolders: [],
}

const nothing: Readings = {
  table: 'public.session',
  error: undefined,
  processError: undefined,
  processes: [],
  server: undefined,
  previousServer: undefined,
  sizes: undefined,
  sessions: undefined,
  silentAfterMs: 3_000,
}

const noHistory = Object.fromEntries(rateNames.map((name) => [name, []])) as unknown as Parameters<
  typeof drawPage
>[0]['history']

const draw = (figures: Figures, width = 80, height = 24, history = noHistory): string[] =>
  drawPage({ figures, history, intervalMs: 2_000, width, height }, (_, text) => text)

describe('the figures of stats --watch', () => {
  const latency = (...counts: number[]) => ({
    buckets: [1, 5, null].map((le, n) => ({ le, count: counts[n] })),
  })

  it('are rates of the time between two answers, summed over the processes', () => {
    const processes = ['a', 'b'].map((id) => ({
      previous: answer(id, 10, {
        cache: { hits: 100, misses: 10, trusted: true },
        calls: { get: { count: 10, latency: latency(10, 10, 10) } },
        errors: { ERR_SESSION_BUSY: 1 },
      }),
      last: answer(id, 12, {
        cache: { hits: 400, misses: 110, trusted: true },
        calls: { get: { count: 110, latency: latency(70, 109, 110) } },
        errors: { ERR_SESSION_BUSY: 1, ERR_SESSION_TIMEOUT: 4 },
      }),
      answeredAt: 0,
    }))
    const figures = figuresOf({ ...nothing, processes }, 1_000, new Date(0))
    expect(figures.rates).to.include({ memory: 300, get: 100, set: 0, errors: 4 })
    expect(figures.hitRatio).to.equal(0.75)
    expect(figures.latency.get).to.deep.equal({ median: 1, p95: 5 })
    expect(figures.errorCodes).to.deep.equal(['ERR_SESSION_TIMEOUT'])
  })

  it('leave out what a silent process said, and what was counted before a restart', () => {
    const processes = [
      { previous: answer('old', 10), last: answer('old', 12, { conflicts: 8 }), answeredAt: -9_000 },
      { previous: undefined, last: answer('new', 1, { conflicts: 100 }), answeredAt: 0 },
      { previous: answer('c', 1), last: answer('c', 3, { conflicts: 4 }), answeredAt: 0 },
    ]
    const figures = figuresOf({ ...nothing, processes }, 1_000, new Date(0))
    expect(figures.rates.conflicts).to.equal(2)
    expect(figures.processes.map(({ name, silentMs }) => [name, silentMs])).to.deep.equal([
      ['old:1', 10_000],
      ['c:1', undefined],
      ['new:1', undefined],
    ])
  })

  it('have a rate of changed rows, unless PostgreSQL’s statistics were reset', () => {
    const later = {
      ...server,
      at: 3_000,
      rows: { inserted: 12, updated: 24, hotUpdated: 13, deleted: 2, dead: 3 },
    }
    const between = (previousServer: ServerState, last: ServerState) =>
      figuresOf({ ...nothing, previousServer, server: last }, 0, new Date(0))
    const figures = between(server, later)
    expect([figures.rates.rows, figures.hotRatio]).to.deep.equal([4, 0.75])
    expect(between(later, { ...server, at: 5_000 }).rates.rows).to.equal(undefined)
    expect(between({ ...server, rows: null }, later).rates.rows).to.equal(undefined)
  })

  it('are read from rubbish without an error, and without anything that a terminal would obey', () => {
    const json = fc.json().map((text) => text)
    const shaped = fc.record({
      id: fc.string(),
      process: fc.string({ unit: 'binary' }),
      at: fc.oneof(fc.double(), fc.string()),
      stats: fc.oneof(
        fc.jsonValue(),
        fc.record({
          cache: fc.jsonValue(),
          calls: fc.jsonValue(),
          errors: fc.dictionary(fc.string(), fc.jsonValue()),
        }),
      ),
    })
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          json,
          shaped.map((value) => JSON.stringify(value)),
        ),
        (payload) => {
          const read = readAnswer(payload)
          if (read === undefined) return
          const processes = [{ previous: { ...read, at: -1 }, last: read, answeredAt: 0 }]
          for (const line of draw(figuresOf({ ...nothing, processes }, 0, new Date(0)))) {
            expect(stringWidth(line)).to.be.at.most(80)
            expect(line).not.to.match(/\p{Cc}/u)
          }
        },
      ),
    )
  })
})

describe('the page of stats --watch', () => {
  const huge = 123_456_789_012
  const names = [
    'web-1:1',
    '主机'.repeat(40),
    '👩‍👩‍👧'.repeat(30),
    ...Array.from({ length: 30 }, (_, n) => `host-${n}:1`),
  ]
  const processes = names.map((name, n) => {
    const figures = {
      cache: { hits: huge * n, misses: huge, size: huge, bytes: huge, trusted: n % 2 === 0 },
      calls: { get: { count: huge * n, latency: { buckets: [{ le: null, count: huge * n }] } } },
      errors: { [`ERR_SESSION_${'X'.repeat(28)}`]: huge * n },
      queue: { calls: n === 0 ? 3 : huge, oldestWait: huge },
    }
    return {
      previous: answer(`p${n}`, 1),
      last: { ...answer(`p${n}`, 2, figures), name },
      answeredAt: n === 0 ? -99_000 : 0,
    }
  })
  const extreme: Readings = {
    table: `public.${'t'.repeat(63)}`,
    error: undefined,
    processError: undefined,
    processes,
    server: {
      ...server,
      database: 'd'.repeat(63),
      connections: huge,
      oldestTransactionMs: huge,
      lockWaits: huge,
      queueUsage: 1,
      lockHolders: Array(99).fill(huge),
    },
    previousServer: { ...server, at: 0 },
    sizes: {
      bytes: { table: huge, indexes: huge, total: 2 * huge },
      lastSweep: { agoMs: huge, deleted: huge, ms: huge },
    },
    sessions: { value: { active: huge, expired: huge, destroyed: huge }, at: -huge },
    silentAfterMs: 3_000,
  }

  it('fits every window, with no figures and with extreme ones', () => {
    const error = { message: `database unreachable: ${'long '.repeat(50)}`, since: new Date(0).toISOString() }
    const values = Array.from({ length: 500 }, (_, n) => (n % 7 === 0 ? undefined : n % 5))
    const history = Object.fromEntries(rateNames.map((name) => [name, values])) as unknown as typeof noHistory
    for (const readings of [
      nothing,
      extreme,
      { ...extreme, error },
      { ...nothing, processError: 'x'.repeat(200) },
    ]) {
      const figures = figuresOf(readings, 0, new Date(0))
      expect(drawLine(figures)).not.to.match(/undefined|NaN/)
      for (const width of [1, 2, 20, 50, 69, 70, 80, 300])
        for (const height of [1, 2, 10, 22, 24, 60]) {
          const lines = draw(figures, width, height, history)
          expect(lines).to.have.length(height)
          for (const line of lines) {
            expect(stringWidth(line), line).to.be.at.most(width)
            expect(line).not.to.match(/undefined|NaN/)
          }
        }
    }
  })

  it('shows as many processes as there is room for, those with a problem first, and how many more there are', () => {
    const lines = draw(figuresOf(extreme, 0, new Date(0)), 80, 24)
    const first = lines.findIndex((line) => line.startsWith('process '))
    expect(lines.slice(first + 1, 23)).to.have.length(2)
    expect(lines[first + 1]).to.match(/^web-1:1 .*no answer for 1 min 39 s$/)
    expect(lines[22]).to.equal('… and 32 more')
    expect(draw(figuresOf(extreme, 0, new Date(0)), 80, 60)[22]).not.to.match(/more$/)
    expect(draw(figuresOf(extreme, 0, new Date(0)), 80, 60).join('\n')).not.to.match(/more$/m)
  })

  it('draws a known zero, a small value and an unknown one differently', () => {
    expect(sparkline([0, 1, undefined, 50, 100], 7)).to.equal('  ▁▂ ▅█')
    expect(sparkline([1, 2], 0)).to.equal('')
  })
})
