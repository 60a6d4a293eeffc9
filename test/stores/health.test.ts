// What health() says of a store that works, is closed, or has no database or table.
import { expect } from 'chai'
import { DatabaseError, PgStore, SetupError } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('health()', () => {
  it('says that a store works, how old its proof is, and how full its queues are', async () => {
    await using store = await trusted(await freshDatabase())
    await store.set('a-session', { n: 1 })
    await store.touch('a-session', 172_800_000)
    const { database, cache, queues, ...health } = await store.health()
    expect(database.reachable).to.equal(true)
    expect(database.ms).to.be.above(0)
    expect(queues).to.include({ calls: 0, touches: 1 })
    // PostgreSQL's queue may hold a notification.
    expect(queues.notifications).to.be.within(0, 0.1)
    if (!cache) throw new Error('there is a cache')
    expect(cache.trusted).to.equal(true)
    expect(cache.lastHeartbeatAge).to.be.within(0, 5_000)
    expect(health).to.deep.equal({
      healthy: true,
      table: { usable: true },
      error: undefined,
    })
  })

  it('tells a database that can’t be reached from a table that can’t be used, and sees both recover', async () => {
    const server = await ownServer()
    const store = new PgStore(
      { connectionString: server.url, connectionTimeoutMillis: 2_000 },
      { create: false },
    )
    store.on('warning', () => undefined)
    try {
      const missing = await store.health()
      expect(missing).to.deep.include({ healthy: false, table: { usable: false } })
      expect(missing.database.reachable).to.equal(true)
      expect(missing.error).to.be.instanceOf(SetupError)
      expect(missing.error?.message).to.match(/doesn't exist/)

      await sql(
        server.url,
        'create table session (id text primary key, expiry timestamptz not null, session json)',
      )
      expect((await store.health()).healthy).to.equal(true)
      await sql(server.url, 'drop table session')
      expect((await store.health()).healthy).to.equal(false)
      await sql(
        server.url,
        'create table session (id text primary key, expiry timestamptz not null, session json)',
      )

      await server.kill()
      const outage = await store.health()
      expect(outage).to.deep.include({ healthy: false, database: { reachable: false, ms: undefined } })
      expect(outage.error).to.be.instanceOf(DatabaseError)
      expect(outage.queues.notifications).to.equal(undefined)
      await server.start()
      await until(async () => (await store.health()).healthy)
    } finally {
      await store.close()
      await server.stop()
    }
  })

  it('says that a closed store is not healthy, and has no cache if the option is false', async () => {
    const store = new PgStore(await freshDatabase(), { cache: false })
    expect((await store.health()).cache).to.equal(false)
    await store.close()
    const { healthy, error } = await store.health()
    expect(healthy).to.equal(false)
    expect(error?.message).to.match(/closed/)
  })
})
