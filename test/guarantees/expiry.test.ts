// When sessions expire: by ttl, idle time and age, and by the clock of the database server.
import { expect } from 'chai'
import { PgStore, type Ttl } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import type { Outcome } from '../helpers/programs/calls.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const day = 86_400_000
const maxTtlMs = 100 * 365.25 * day

describe('expiry', () => {
  let url: string
  before(async () => {
    url = await freshDatabase()
  })

  /** Returns in how many ms the only session of a table expires, by the server's clock. */
  const ttlMsOf = async (table: string, where = 'true'): Promise<number> => {
    const [row] = await sql<{ ttlMs: number }>(
      url,
      `select extract(epoch from expiry - now())::float8 * 1000 as "ttlMs" from ${table} where ${where}`,
    )
    return row?.ttlMs as number
  }

  const cases: [Ttl, number, string][] = [
    [undefined, 1_000_000, 'the option ttl'],
    [null, 1_000_000, 'the option ttl'],
    [Number.NaN, 1_000_000, 'the option ttl'],
    ['session', 1_000_000, 'the option ttl'],
    [500_000, 500_000, '500000 ms'],
    [500_000.7, 500_001, '500001 ms'],
    [0, 0, 'expired at once'],
    [-1, 0, 'expired at once'],
    [-Infinity, 0, 'expired at once'],
    [Number.MAX_SAFE_INTEGER, maxTtlMs, '100 years'],
    [Infinity, maxTtlMs, '100 years'],
  ]
  for (const [ttl, ms, meaning] of cases)
    it(`treats a ttl of ${ttl} as ${meaning}`, async () => {
      const store = new PgStore(url, { ttl: 1_000_000, table: 'ttls' })
      await store.setup()
      await sql(url, 'truncate ttls')
      await store.set('a', { a: 1 }, ttl)
      expect(await ttlMsOf('ttls')).to.be.within(ms - 60_000, ms)
      expect(await store.get('a')).to.deep.equal(ms === 0 ? undefined : { a: 1 })
      await store.close()
    })

  it('refuses a ttl of another type, and writes nothing', async () => {
    const store = new PgStore(url)
    for (const ttl of ['3600000', {}, true, 5n]) {
      const error = await rejection(store.set('a', { a: 1 }, ttl as Ttl))
      expect(error).to.be.instanceOf(TypeError)
      expect(error.message).to.match(/^ttl must be a number of milliseconds; received/)
      expect(await rejection(store.touch('a', ttl as Ttl))).to.be.instanceOf(TypeError)
    }
    expect(await store.get('a')).to.equal(undefined)
    await store.close()
  })

  it('hides an expired session from get, touch and count', async () => {
    const store = new PgStore(url, { table: 'short' })
    await store.set('a', { a: 1 }, 300)
    await until(async () => (await store.get('a')) === undefined)
    await store.touch('a', 60_000)
    expect(await store.get('a')).to.equal(undefined)
    expect(await store.count()).to.equal(0)
    await store.close()
  })

  it('expires a session maxLifetime after its creation, even if it is saved or touched', async () => {
    const store = new PgStore(url, { table: 'lifetimes', maxLifetime: 3_600_000, cache: false })
    await store.set('a', { a: 1 }, 2 * 3_600_000)
    expect(await ttlMsOf('lifetimes')).to.be.within(3_500_000, 3_600_000)
    await sql(url, `update lifetimes set created_at = now() - interval '50 minutes'`)
    await store.set('a', { a: 2 }, 3_600_000)
    expect(await ttlMsOf('lifetimes')).to.be.within(500_000, 600_000)
    await store.touch('a', 3_600_000)
    expect(await ttlMsOf('lifetimes')).to.be.within(500_000, 600_000)
    await store.set('a', { a: 3 }, 60_000)
    expect(await ttlMsOf('lifetimes')).to.be.within(50_000, 60_000)

    await sql(url, `update lifetimes set created_at = now() - interval '61 minutes'`)
    expect(await store.get('a')).to.equal(undefined)
    expect(await store.count()).to.equal(0)
    await store.touch('a', 3_600_000)
    await store.set('a', { late: true }, 3_600_000)
    expect(await store.get('a')).to.equal(undefined)
    await store.close()
  })

  it('applies maxLifetime to existing sessions', async () => {
    const before = new PgStore(url, { table: 'older' })
    await before.set('a', { a: 1 }, 30 * day)
    await sql(url, `update older set created_at = now() - interval '2 days'`)
    expect(await before.get('a')).to.deep.equal({ a: 1 })
    await before.close()
    const store = new PgStore(url, { table: 'older', maxLifetime: day })
    expect(await store.get('a')).to.equal(undefined)
    await store.close()
  })

  const zones: [string, string, string, number][] = [
    ['timestamptz', 'America/St_Johns', 'Asia/Tokyo', day],
    ['timestamptz', 'Pacific/Kiritimati', 'America/New_York', -day],
    ['timestamp', 'Asia/Kolkata', 'Europe/London', day],
    ['timestamp', 'UTC', 'America/St_Johns', -day],
  ]
  for (const [type, TZ, TimeZone, offsetMs] of zones)
    it(`follows the server's clock with TZ=${TZ}, TimeZone=${TimeZone}, an app clock off by ${offsetMs / day} d (${type})`, async () => {
      const database = await freshDatabase()
      await sql(
        database,
        `alter database ${new URL(database).pathname.slice(1)} set timezone = '${TimeZone}'`,
      )
      const options: Record<string, unknown> = {}
      if (type === 'timestamp') {
        await sql(
          database,
          'create table session (id text primary key, expiry timestamp not null, session json)',
        )
        Object.assign(options, { create: false, hashIds: false })
      }
      const clock = new URL('../helpers/programs/clock-off.js', import.meta.url).href
      const child = start('calls.js', [database, JSON.stringify(options)], {
        TZ,
        CLOCK_OFF_MS: String(offsetMs),
        NODE_OPTIONS: `--import ${clock}`,
      })
      const call = async (...args: unknown[]): Promise<unknown> => {
        child.send(args)
        const outcome = await message<Outcome>(child)
        if (outcome.error) throw new Error(outcome.error)
        return outcome.value
      }
      try {
        await call('set', 'theirs', { a: 1 }, 600_000)
        await call('set', 'short', { a: 1 }, 500)
        const here = new PgStore(database, options)
        expect(await here.get('theirs')).to.deep.equal({ a: 1 })
        await here.set('ours', { b: 2 }, 600_000)
        expect(await call('get', 'ours')).to.deep.equal({ b: 2 })
        const [row] = await sql(
          database,
          `select extract(epoch from max(expiry)::timestamptz - now())::float8 as "ttlSeconds" from session`,
        )
        expect(row?.ttlSeconds).to.be.within(500, 600)
        await until(async () => (await call('get', 'short')) === undefined)
        await until(async () => (await here.get('short')) === undefined)
        await sql(database, `update session set expiry = now() - interval '1 minute'`)
        await until(async () => (await call('get', 'ours')) === undefined)
        await until(async () => (await here.get('theirs')) === undefined)
        await here.close()
      } finally {
        child.kill()
      }
    })
})
