import { expect } from 'chai'
import pg from 'pg'
import { SessionRecords } from '../../lib/cache/session-records.js'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { type Touch, TouchBuffer } from '../../lib/repository/touch-buffer.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('deferred touches', () => {
  function make(
    options: { interval?: number; batchSize?: number; maxRecords?: number; fails?: () => boolean } = {},
  ) {
    const written: Touch[][] = []
    const warnings: string[] = []
    const records = new SessionRecords(options.maxRecords ?? 1_000, false, (digest) =>
      touches.findRecord(digest),
    )
    const touches: TouchBuffer = new TouchBuffer({
      intervalMs: options.interval ?? 60_000,
      batchSize: options.batchSize ?? 100,
      countsIdleness: false,
      records,
      write: async (list) => {
        if (options.fails?.()) throw new Error('down')
        written.push(list)
        return new Set()
      },
      writeOne: async (touch) => {
        if (options.fails?.()) throw new Error('down')
        written.push([touch])
      },
      warn: (error) => warnings.push(error.message),
    })
    return { touches, written, warnings, of: (sid: string) => records.resolve(sid) }
  }

  it('are written at once if the session’s expiry is unknown', async () => {
    const { touches, written, of } = make()
    await touches.touch(of('a'), 'a', 1_000)
    expect(written).to.deep.equal([[{ id: 'a', ttlMs: 1_000, ageMs: 0 }]])
  })

  it('wait if the session lives on, and are written together, each session once with its last expiry', async () => {
    const { touches, written, of } = make()
    for (const id of ['a', 'b']) touches.recordExpiry(of(id), 3_600_000)
    for (let i = 0; i < 10; i++) {
      await touches.touch(of('a'), 'a', 7_200_000)
      await touches.touch(of('b'), 'b')
    }
    await touches.touch(of('a'), 'a', 1_000)
    expect(written).to.deep.equal([])
    await touches.stop(0)
    expect(written).to.have.length(1)
    const [a, b] = written[0] as [Touch, Touch]
    expect(a.id).to.equal('a')
    expect(a.ttlMs).to.be.within(7_190_000, 7_200_000)
    expect(b).to.include({ id: 'b', ttlMs: null })
  })

  it('are written within a quarter of the session’s remaining life', async () => {
    const { touches, written, of } = make()
    touches.recordExpiry(of('a'), 400)
    const start = performance.now()
    await touches.touch(of('a'), 'a', 60_000)
    await until(() => written.length > 0)
    expect(performance.now() - start).to.be.at.least(90)
    expect(written).to.have.length(1)
    // Its expiry is now known to be a minute away: the next touch waits.
    await touches.touch(of('a'), 'a', 60_000)
    expect(written).to.have.length(1)
    await touches.stop(0)
  })

  it('are written up to batchSize in one statement', async () => {
    const { touches, written, of } = make({ batchSize: 10 })
    for (let n = 0; n < 25; n++) {
      touches.recordExpiry(of(`s${n}`), 3_600_000)
      await touches.touch(of(`s${n}`), `s${n}`, 3_600_000)
    }
    await touches.stop(0)
    expect(written.map((list) => list.length)).to.deep.equal([10, 10, 5])
  })

  it('wait, however many there are, and write each session once in an interval', async () => {
    const { touches, written, of } = make({ batchSize: 10 })
    for (let round = 0; round < 3; round++)
      for (let n = 0; n < 25; n++) {
        touches.recordExpiry(of(`s${n}`), 3_600_000)
        touches.recordAccess(of(`s${n}`), `s${n}`)
      }
    expect(written).to.deep.equal([])
    await touches.stop(0)
    expect(written.map((list) => list.length)).to.deep.equal([10, 10, 5])
  })

  it('are all written when the store is closed, including those in flight', async () => {
    const written: Touch[] = []
    let go = (): void => {}
    const gate = new Promise<void>((resolve) => {
      go = resolve
    })
    const records = new SessionRecords(1_000, false)
    const of = (sid: string) => records.resolve(sid)
    const touches = new TouchBuffer({
      intervalMs: 60_000,
      batchSize: 1,
      countsIdleness: false,
      records,
      warn: () => undefined,
      write: async (list) => {
        await gate
        written.push(...list)
        return new Set()
      },
      writeOne: async () => undefined,
    })
    for (const id of ['a', 'b', 'c']) {
      touches.recordExpiry(of(id), 3_600_000)
      await touches.touch(of(id), id)
    }
    void touches.flush()
    const stopped = touches.stop(10_000)
    setImmediate(go)
    await stopped
    expect(written.map(({ id }) => id)).to.deep.equal(['a', 'b', 'c'])
  })

  it('are retried when they could not be written, and dropped when their session is destroyed', async () => {
    let down = true
    const { touches, written, warnings, of } = make({ fails: () => down })
    for (const id of ['a', 'b']) {
      touches.recordExpiry(of(id), 3_600_000)
      await touches.touch(of(id), id, 3_600_000)
    }
    await touches.flush()
    expect(warnings).to.have.length(1)
    down = false
    touches.cancel(of('b').digest)
    await touches.stop(0)
    expect(written.flat().map(({ id }) => id)).to.deep.equal(['a'])
  })

  it('are kept whole if the record of their session is forgotten and made again', async () => {
    const { touches, written, of } = make({ maxRecords: 1 })
    const inFlight = of('a')
    for (const sid of ['b', 'c', 'a']) touches.recordExpiry(of(sid), 3_600_000)
    expect(of('a')).not.to.equal(inFlight)
    touches.recordExpiry(inFlight, 3_600_000)
    await touches.touch(inFlight, 'a', 7_200_000)
    touches.recordAccess(of('a'), 'a')
    for (const sid of ['b', 'c']) of(sid)
    touches.recordAccess(of('a'), 'a')
    await touches.stop(0)
    expect(written).to.have.length(1)
    expect(written[0]).to.have.length(1)
    expect(written[0]?.[0]?.ttlMs).to.be.within(7_190_000, 7_200_000)
  })

  it('of two records of a session are joined when the first could not be written', async () => {
    let down = true
    const { touches, written, of } = make({ maxRecords: 1, fails: () => down })
    const inFlight = of('a')
    for (const sid of ['b', 'c', 'a']) touches.recordExpiry(of(sid), 3_600_000)
    const again = of('a')
    touches.recordExpiry(inFlight, 3_600_000)
    await touches.touch(inFlight, 'a', 7_200_000)
    const flushed = touches.flush()
    // The first is being written by now.
    await Promise.resolve()
    await touches.touch(again, 'a', 9_000_000)
    await flushed
    down = false
    await touches.stop(0)
    expect(written.flat()).to.have.length(1)
    expect(written[0]?.[0]?.ttlMs).to.be.within(8_990_000, 9_000_000)
  })
})

describe('touches of a store', () => {
  const state = (url: string) =>
    sql<{ left: number; ctid: string; version: string }>(
      url,
      `select extract(epoch from expiry - now())::float8 as left, ctid::text, version from session`,
    )

  async function withStore(
    options: PgStoreOptions,
    use: (store: PgStore, url: string) => Promise<void>,
  ): Promise<void> {
    const url = await freshDatabase()
    const store = new PgStore(url, options)
    const trusted = new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    await store.setup()
    if (options.cache !== false) await trusted
    await use(store, url)
    await store.close()
  }

  it('write no row while they wait, and one when the store is closed', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url)
    const trusted = new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    await store.setup()
    await trusted
    await store.set('x', { n: 1 }, 3_600_000)
    const before = await state(url)
    for (let i = 0; i < 100; i++) await store.touch('x', 7_200_000)
    expect((await state(url))[0]?.ctid).to.equal(before[0]?.ctid)
    await store.close()
    const [after] = await state(url)
    expect(after?.left).to.be.within(7_000, 7_200)
    expect(after?.version, 'no change of the session').to.equal(before[0]?.version)
  })

  it('take the place of a save that changes nothing', () =>
    withStore({}, async (store, url) => {
      await store.set('x', { n: 1 }, 3_600_000)
      const before = await state(url)
      for (let i = 0; i < 50; i++) await store.set('x', (await store.get('x')) ?? {}, 7_200_000)
      expect((await state(url))[0]?.ctid).to.equal(before[0]?.ctid)
      await store.set('x', { n: 2 }, 7_200_000)
      expect((await state(url))[0]?.version).not.to.equal(before[0]?.version)
      await store.set('x', { n: 1 }, 0)
      expect(await store.get('x'), 'a save with a ttl of 0 is not deferred').to.equal(undefined)
    }))

  it('find each session by its id, however many are written together', () =>
    withStore({}, async (_, url) => {
      const client = new pg.Client(url)
      await client.connect()
      let text = ''
      const store = new PgStore(async (statement, values) => {
        text = statement
        return client.query(statement, values)
      })
      store.on('warning', () => undefined)
      await store.touch('x', 3_600_000)
      expect(text).to.match(/^update/)
      await sql(
        url,
        `insert into session (id, expiry, session, version) select n, now() + interval '1 day', '{}', 1 from generate_series(1, 5000) n;
        analyze session`,
      )
      const list = (value: (n: number) => number): string =>
        `'${Array.from({ length: 5_000 }, (_, n) => value(n + 1)).join('\x1e')}'`
      const values = `${list((n) => n)}, ${list(() => 1)}, ${list(() => 1)}`
      for (const mode of ['force_generic_plan', 'force_custom_plan']) {
        await client.query(`set plan_cache_mode = ${mode}; deallocate all; prepare touches as ${text}`)
        const { rows } = await client.query(`explain (costs off) execute touches (${values})`)
        const plan = rows.map((row) => row['QUERY PLAN']).join('\n')
        expect(plan.match(/Index Cond: \(id = u/g), plan).to.have.length(2)
      }
      await store.close()
      await client.end()
    }))

  it('do not bring back a session that is destroyed while they wait', () =>
    withStore({}, async (store, url) => {
      await store.set('x', { n: 1 }, 3_600_000)
      await store.touch('x', 7_200_000)
      await sql(url, 'update session set session = null')
      await store.close()
      expect((await state(url))[0]?.left).to.be.below(3_601)
      expect(await sql(url, 'select from session where session is not null')).to.have.length(0)
    }))

  it('do not stand in for the save of an object that was not loaded, whatever is cached', () =>
    withStore({}, async (store, url) => {
      await store.set('x', { n: 1 }, 3_600_000)
      expect(await store.get('x')).to.deep.equal({ n: 1 })
      // A change of which no notification comes.
      await sql(url, `update session set session = '{"n":2}', version = version + 1`)
      await store.set('x', { n: 1 }, 3_600_000)
      expect(await sql(url, 'select session from session')).to.deep.equal([{ session: { n: 1 } }])
    }))

  for (const options of [{}, { cache: false }, { concurrency: 'reject' }] as const)
    describe(`of a save with a shorter ttl and nothing changed (${JSON.stringify(options)})`, () => {
      it('take the shorter one, and tell other instances', () =>
        withStore(options, async (store, url) => {
          await store.set('x', { n: 1 }, 3_600_000)
          const session = (await store.get('x')) ?? {}
          const sent = (await store.stats()).notifications.sent
          await store.set('x', session, 60_000)
          expect((await state(url))[0]?.left).to.be.within(1, 60)
          expect((await store.stats()).notifications.sent).to.equal(sent + 1)
          await store.set('x', Object.assign(session, { n: 2 }), 7_200_000)
          expect((await state(url))[0]?.left).to.be.above(7_000)
          expect((await store.stats()).conflicts).to.equal(0)
          await store.touch('x', 10_800_000)
          await store.set('x', session, 60_000)
          await store.close()
          expect((await state(url))[0]?.left, 'an earlier touch').to.be.within(1, 60)
        }))

      it('keep what another instance has changed meanwhile', () =>
        withStore(options, async (store, url) => {
          await store.set('x', { n: 1, userId: 7 }, 3_600_000)
          const session = (await store.get('x')) ?? {}
          const other = new PgStore(url, { cache: false })
          await other.set('x', Object.assign((await other.get('x')) ?? {}, { m: 1 }), 3_600_000)
          await other.close()
          await store.set('x', session, 60_000)
          expect((await state(url))[0]?.left).to.be.within(1, 60)
          expect(await store.get('x')).to.deep.equal({ n: 1, userId: 7, m: 1 })
          expect(await sql(url, 'select user_id from session')).to.deep.equal([{ user_id: '7' }])
          expect((await store.stats()).conflicts).to.equal(0)
        }))
    })

  it('take a shorter ttl from a save of what another instance has just changed', () =>
    withStore({}, async (store, url) => {
      await store.set('x', { n: 1 }, 3_600_000)
      const session = (await store.get('x')) ?? {}
      const received = (await store.stats()).notifications.received
      await sql(url, `update session set session = '{"n":1,"m":1}'`)
      await until(async () => (await store.stats()).notifications.received > received)
      await store.set('x', session, 60_000)
      expect((await state(url))[0]?.left).to.be.within(1, 60)
      expect(await store.get('x')).to.deep.equal({ n: 1, m: 1 })
    }))

  it('do not wait if another process has shortened the session’s life', () =>
    withStore({}, async (store, url) => {
      await store.set('x', { n: 1 }, 3_600_000)
      await store.get('x')
      await sql(url, `update session set expiry = now() + interval '10 seconds'`)
      await until(async () => (await store.stats()).notifications.received > 0)
      await store.touch('x', 3_600_000)
      expect((await state(url))[0]?.left).to.be.above(3_500)
    }))

  it('keep a short-lived session active for as long as it is touched', () =>
    withStore({}, async (store) => {
      await store.set('x', { n: 1 }, 1_000)
      const start = performance.now()
      while (performance.now() - start < 3_000) {
        await store.touch('x', 1_000)
        expect(await store.get('x', { fresh: true })).to.deep.equal({ n: 1 })
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }))

  it('write the last access of sessions that are read, also from the cache', () =>
    withStore({ touch: { interval: 200 } }, async (store, url) => {
      await store.set('x', { n: 1 }, 3_600_000)
      await sql(url, `update session set last_access = now() - interval '1 day'`)
      await until(async () => {
        await store.get('x')
        const [row] = await sql(
          url,
          `select last_access > now() - interval '1 minute' as recent from session`,
        )
        return row?.recent as boolean
      })
    }))

  for (const cache of [{}, false] as const)
    it(`expire a session that is neither read nor written for idleTimeout (cache: ${JSON.stringify(cache)})`, () =>
      withStore({ idleTimeout: 1_500, cache }, async (store, url) => {
        await store.set('used', { n: 1 }, 3_600_000)
        await store.set('idle', { n: 1 }, 3_600_000)
        const start = performance.now()
        let idle: unknown = {}
        while (performance.now() - start < 4_000) {
          expect(await store.get('used')).to.deep.equal({ n: 1 })
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
        idle = await store.get('idle')
        expect(idle).to.equal(undefined)
        expect(await store.count()).to.equal(1)
        await store.touch('idle', 60_000)
        expect(await store.get('idle')).to.equal(undefined)
        expect(await sql(url, 'select from session')).to.have.length(2)
      }))
})
