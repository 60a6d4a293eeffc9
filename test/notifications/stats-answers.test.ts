// A process that is asked for its figures answers, without a session in it and without effect on its cache.
import { expect } from 'chai'
import pg from 'pg'
import type { PgStore } from '../../lib/index.js'
import { channelOf } from '../../lib/notifications/payload.js'
import { type ProcessStats, type StatsSource, statsAnswer } from '../../lib/stores/stats.js'
import { CallRecorder } from '../../lib/util/call-stats.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const channel = channelOf({ schema: 'public', table: 'session' })

describe('a store that is asked for its figures', () => {
  let url: string
  let store: PgStore
  let client: pg.Client
  let received: { channel: string; payload: string }[]
  beforeEach(async () => {
    url = await freshDatabase()
    store = await trusted(url)
    received = []
    client = new pg.Client(url)
    await client.connect()
    client.on('notification', ({ channel, payload = '' }) => received.push({ channel, payload }))
    await client.query(`listen ${channel}; listen ${channel}_stats`)
  })
  afterEach(async () => {
    await client.end()
    await store.close()
  })

  const ask = (): Promise<unknown> => sql(url, `select pg_notify('${channel}_stats_requests', '')`)
  const answers = (): ProcessStats[] =>
    received
      .filter((notification) => notification.channel === `${channel}_stats`)
      .map(({ payload }) => JSON.parse(payload) as ProcessStats)

  /** Asks until there is an answer: the store listens for requests a moment after it trusts its cache. */
  async function answer(): Promise<ProcessStats> {
    const before = answers().length
    await until(async () => {
      await ask()
      return answers().length > before
    })
    return answers().at(-1) as ProcessStats
  }

  it('answers with what stats() counts, and only then', async () => {
    await store.set('a session', { user: { id: 'ann' }, secret: 'content' })
    for (let n = 0; n < 5; n++) await store.get('a session')
    expect(answers()).to.deep.equal([])
    const { process: name, stats } = await answer()
    const expected = await store.stats()
    expect(name).to.match(new RegExp(`:${process.pid}$`))
    expect(stats.cache).to.include({ hits: 5, trusted: true })
    expect(stats.calls.set.count).to.equal(expected.calls.set.count)
    const text = received.map(({ payload }) => payload).join('\n')
    for (const secret of ['a session', store.handleOf('a session'), 'ann', 'content'])
      expect(text.replace(/^[\w-]{43}[0-9a-f]+/gm, '')).not.to.include(secret)
  })

  it('keeps its cache, and earlier versions, which would clear theirs at an unknown message, receive nothing', async () => {
    await store.set('x', { n: 1 })
    await store.get('x')
    await answer()
    const { cache, notifications } = await store.stats()
    expect(cache).to.include({ size: 1 })
    await store.get('x')
    const after = await store.stats()
    expect(after.cache).to.include({ hits: (cache as { hits: number }).hits + 1 })
    expect(after.notifications.received).to.equal(notifications.received)
    const onItsChannel = received.filter((notification) => notification.channel === channel)
    for (const { payload } of onItsChannel) expect(payload).to.match(/^heartbeat /)
  })

  it('answers one of many requests at a time', async () => {
    await answer()
    received.length = 0
    await sql(
      url,
      `do 'begin for n in 1..1000 loop perform pg_notify(''${channel}_stats_requests'', n::text); end loop; end'`,
    )
    await answer()
    expect(answers().length).to.be.below(100)
  })

  it('sends an answer that fits a notification, whatever it has counted', () => {
    const large = Number.MAX_SAFE_INTEGER / 1_000
    const calls = new CallRecorder()
    calls.stats = () => ({
      count: large,
      errors: large,
      batches: large,
      latency: {
        buckets: new CallRecorder().stats().latency.buckets.map(({ le }) => ({ le, count: large })),
        sum: large,
      },
    })
    const source = {
      cache: { hits: large, misses: large, size: large, bytes: large },
      trust: { isTrusted: true, lastHeartbeatAge: large, received: large, reconnects: large },
      components: {
        queries: { announced: large },
        repository: { oldestWaitMs: large },
        table: { hasTriggers: true },
      },
      calls: { get: calls, set: calls, touch: calls, destroy: calls },
      sweeps: { count: large, deleted: large },
      conflicts: large,
      operations: {
        count: large,
        errors: {
          ERR_SESSION_UNREACHABLE: large,
          ERR_SESSION_TIMEOUT: large,
          ERR_SESSION_BUSY: large,
          ERR_SESSION_DATABASE: large,
        },
      },
      touches: { pendingCount: large, lost: large },
    }
    expect(Buffer.byteLength(statsAnswer('id', source as unknown as StatsSource))).to.be.below(7_900)
  })
})
