// What keeps the cache trusted, and what that costs: nothing while no request comes.

import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { recordingClient } from '../helpers/recording-client.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const maxStaleness = 400
const sendsHeartbeat = (text: string): boolean => text.startsWith('select pg_catalog.pg_notify(')

async function isTrusted(store: PgStore): Promise<boolean> {
  const { cache } = await store.stats()
  return cache ? cache.trusted : false
}

async function countHits(store: PgStore): Promise<number> {
  const { cache } = await store.stats()
  return cache ? cache.hits : Number.NaN
}

/** Runs with a monotonic clock that is ahead of the real one. */
async function laterBy(ms: number, run: () => Promise<void>): Promise<void> {
  const now = performance.now
  try {
    performance.now = () => now.call(performance) + ms
    await run()
  } finally {
    performance.now = now
  }
}

describe('a store with a cache', () => {
  it('sends no statement and uses no transaction id once no request has come for a minute', async () => {
    // Of its own: every database of a server takes its transaction ids from one counter.
    const server = await ownServer({ autovacuum: 'off' })
    const { url } = server
    await sql(url, 'create database watcher')
    const watcher = new pg.Client(url.replace(/postgres$/, 'watcher'))
    await watcher.connect()
    /** Changes with each statement of another connection, and with each transaction id. */
    const activity = async (): Promise<unknown> => {
      const { rows } = await watcher.query(
        `select pg_snapshot_xmax(pg_current_snapshot())::text as xid, (
           select array_agg(pid || ' ' || query_start order by pid) from pg_stat_activity
           where datname = 'postgres' and backend_type = 'client backend') as statements`,
      )
      return rows[0]
    }
    const stores = await Promise.all(
      [1, 2].map(() => trusted(url, { cache: { maxStaleness }, cleanup: false })),
    )
    const [store, other] = stores as [PgStore, PgStore]
    try {
      await store.set('a', { n: 1 })
      expect(await store.get('a')).to.deep.equal({ n: 1 })
      const awake = await activity()
      await sleep(maxStaleness)
      expect(await activity(), 'while requests have come').to.not.deep.equal(awake)
      await laterBy(61_000, async () => {
        // After what is on its way when the minute is over, and the jobs that a store does once in its first seconds.
        await until(async () => {
          const before = await activity()
          await sleep(5 * maxStaleness)
          return isDeepStrictEqual(await activity(), before)
        })
        const hits = await countHits(store)
        await other.set('a', { n: 2 })
        expect(await store.get('a'), 'at the first request').to.deep.equal({ n: 2 })
        await until(async () => {
          await store.get('a')
          return (await countHits(store)) > hits
        })
        expect(await store.stats()).to.include({ reconnects: 0 })
      })
    } finally {
      for (const each of stores) await each.close()
      await watcher.end()
      await server.stop()
    }
  })

  it('loses its listener while it is idle without a word, and connects again at the next request', async () => {
    const url = await freshDatabase()
    const store = await trusted(url, { cache: { maxStaleness }, cleanup: false })
    const warnings: Error[] = []
    store.on('warning', (warning) => warnings.push(warning))
    const listeners = `from pg_stat_activity where application_name = 'koa-pg-store listener' and datname = current_database()`
    await store.set('a', { n: 1 })
    await sleep(maxStaleness)
    await laterBy(61_000, async () => {
      await sleep(maxStaleness)
      await sql(url, `select pg_terminate_backend(pid) ${listeners}`)
      await sleep(maxStaleness)
      expect(await sql(url, `select ${listeners}`)).to.have.length(0)
      expect(warnings).to.deep.equal([])
      expect(await store.get('a')).to.deep.equal({ n: 1 })
      await until(() => isTrusted(store))
    })
    await store.close()
  })

  it('keeps its listener where the server ends idle connections', async function () {
    const url = await freshDatabase()
    const [version] = await sql(url, `select current_setting('server_version_num')::int as number`)
    // Before version 14 there is no such limit.
    if ((version?.number as number) < 140_000) this.skip()
    const name = new URL(url).pathname.slice(1)
    await sql(url, `alter database ${name} set idle_session_timeout = '100ms'`)
    const store = await trusted(url, { cache: { maxStaleness: 4_000 } })
    await store.set('a', { n: 1 })
    await sleep(1_500)
    expect(await store.get('a')).to.deep.equal({ n: 1 })
    expect(await countHits(store)).to.equal(1)
    expect(await store.stats()).to.include({ reconnects: 0 })
    await store.close()
  })

  it('keeps its trust while all connections of its pool are taken', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    const store = new PgStore(pool, { cache: { maxStaleness } })
    let distrusted = 0
    store.on('distrust', () => distrusted++)
    await store.set('a', { n: 1 })
    await until(() => isTrusted(store))
    await store.get('a')
    const held = pool.query('select pg_sleep(2)')
    const end = performance.now() + 5 * maxStaleness
    while (performance.now() < end) {
      expect(await store.get('a')).to.deep.equal({ n: 1 })
      await sleep(20)
    }
    expect(distrusted).to.equal(0)
    await held
    await store.close()
    await pool.end()
  })

  it('sends no heartbeat while its own changes come back', async () => {
    const url = await freshDatabase()
    const { Client, texts } = recordingClient()
    const config = { connectionString: url, Client }
    const store = await trusted(config, { cache: { maxStaleness } })
    const set = async (): Promise<void> => {
      const end = performance.now() + 5 * maxStaleness
      for (let n = 0; performance.now() < end; n++) {
        await store.set('a', { n })
        await store.get('a')
        await sleep(5)
      }
    }
    await set()
    texts.length = 0
    await set()
    expect(texts.filter(sendsHeartbeat)).to.have.length.below(3)
    texts.length = 0
    for (const end = performance.now() + 5 * maxStaleness; performance.now() < end; await sleep(5))
      await store.get('a')
    expect(texts.filter(sendsHeartbeat), 'without changes').to.have.length.above(5)
    expect(await isTrusted(store)).to.equal(true)
    expect(await store.stats()).to.include({ reconnects: 0 })
    await store.close()
  })
})
