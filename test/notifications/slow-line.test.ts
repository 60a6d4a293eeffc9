// Notifications that arrive late: what an instance has written, destroyed or read from the database, it doesn't return older.
import { once } from 'node:events'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { startProxy } from '../helpers/proxy.js'
import { at, freshDatabase, sql } from '../helpers/server.js'

describe('an instance whose notifications arrive late', () => {
  let delayMs: number
  let proxy: Awaited<ReturnType<typeof startProxy>>
  let url: string
  let here: PgStore
  let there: PgStore

  beforeEach(async () => {
    url = await freshDatabase()
    delayMs = 0
    proxy = await startProxy(Number(new URL(url).port), () => delayMs)
    here = new PgStore(url, { listen: at(url, { port: proxy.port }) })
    there = new PgStore(url, { cache: false })
    const trust = once(here, 'trust')
    await here.setup()
    await trust
  })

  afterEach(async () => {
    await Promise.all([here.close(), there.close()])
    await proxy.close()
  })

  /** Saves a session of a user, which is cached here, and destroys it elsewhere. */
  async function destroyThere(): Promise<void> {
    await here.set('a', { userId: 'ann' })
    await here.get('a')
    await there.destroy('a')
    expect(await here.get('a'), 'no notification has come').to.deep.equal({ userId: 'ann' })
  }

  for (const late of [300, 3_000])
    for (const [what, call] of [
      ['destroySessionsOf', () => here.destroySessionsOf('ann')],
      ['destroyAll', () => here.destroyAll()],
      ['revoke', () => here.revoke(digestOf('a'))],
      ['get with fresh', () => here.get('a', { fresh: true })],
    ] as const)
      it(`by ${late} ms returns no session after ${what} that another instance destroyed before`, async () => {
        delayMs = late
        await destroyThere()
        await call()
        expect(await here.get('a')).to.equal(undefined)
      })

  it('keeps its cache when it destroys the sessions of a user, unless notifications are very late', async () => {
    const size = async (): Promise<unknown> => {
      const { cache } = await here.stats()
      return cache ? cache.size : undefined
    }
    await here.set('a', {})
    delayMs = 300
    await here.destroySessionsOf('ann')
    expect(await size()).to.equal(1)
    delayMs = 3_000
    await here.destroySessionsOf('ann')
    expect(await size()).to.equal(0)
  })

  it('removes an attribute that another instance has just removed', async () => {
    delayMs = 3_000
    await here.set('a', { userId: 'ann', role: 'admin' })
    await there.deleteAttribute('ann', 'role')
    expect(await here.deleteAttribute('ann', 'role')).to.equal(0)
    expect(await here.get('a')).to.deep.equal({ userId: 'ann' })
  })

  it('writes an object of the application that equals what it has cached', async () => {
    delayMs = 3_000
    await here.set('a', { n: 1 })
    await there.set('a', { n: 2 })
    await here.set('a', { n: 1 })
    expect(await there.get('a')).to.deep.equal({ n: 1 })
    expect(await sql(url, 'select session from session')).to.deep.equal([{ session: { n: 1 } }])
  })

  it('returns nothing older than it has read from the database while its cache was not trusted', async () => {
    await here.set('a', { n: 1 })
    delayMs = 3_000
    await there.set('a', { n: 2 })
    const now = Date.now
    try {
      // As if heartbeats were late, too.
      Date.now = () => now() + 6_000
      expect(await here.get('a')).to.deep.equal({ n: 2 })
    } finally {
      Date.now = now
    }
    expect(await here.get('a')).to.deep.equal({ n: 2 })
  })
})
