// The LISTEN connection: when it is lost or stalls, the cache is not trusted; when it recovers, it is.
import { once } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { unannouncedId } from '../../lib/notifications/heartbeat.js'
import { Listener } from '../../lib/notifications/listener.js'
import { startProxy } from '../helpers/proxy.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('the listener', () => {
  const listenerBackends = (url: string) =>
    sql<{ pid: number }>(
      url,
      `select pid from pg_stat_activity where application_name = 'koa-pg-store listener' and datname = current_database()`,
    )

  it('reconnects whenever its backend is terminated, and then clears the cache', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url)
    const events: string[] = []
    const warnings: string[] = []
    for (const event of ['trust', 'distrust'] as const) store.on(event, () => events.push(event))
    store.on('warning', (error) => warnings.push(error.message))
    await store.set('x', { n: 0 })
    await until(() => events.length === 1)
    await sql(url, 'alter table session disable trigger user')
    for (let n = 1; n <= 5; n++) {
      await store.get('x')
      // No notification is sent of this change: only the clear on reconnect can reveal it.
      for (const { pid } of await listenerBackends(url))
        await sql(url, 'select pg_terminate_backend($1)', [pid])
      await sql(url, `update session set session = json_build_object('n', ${n})`)
      await until(() => events.length === 1 + 2 * n)
      expect(await store.get('x')).to.deep.equal({ n })
    }
    expect(events).to.deep.equal(['trust', ...Array.from({ length: 5 }, () => ['distrust', 'trust']).flat()])
    expect(
      warnings.filter((text) =>
        /^LISTEN connection lost, serving sessions from the database until it recovers/.test(text),
      ),
    ).to.have.length(5)
    expect((await store.stats()).reconnects).to.be.at.least(5)
    await store.close()
    await until(async () => (await listenerBackends(url)).length === 0)
  })

  it('is not trusted after maxStaleness if its connection is open but stalled', async () => {
    const url = await freshDatabase()
    const target = new URL(url)
    const proxy = await startProxy(Number(target.port))
    target.port = String(proxy.port)
    const maxStaleness = 800
    const store = new PgStore(url, { listen: target.href, cache: { maxStaleness } })
    const other = new PgStore(url)
    let distrusted = false
    store.on('distrust', () => {
      distrusted = true
    })
    await Promise.all([store.setup(), once(store, 'trust')])
    await other.set('x', { n: 1 })
    await store.get('x')
    proxy.stall()
    const stalledAt = performance.now()
    await other.set('x', { n: 2 })
    // On any machine, a stale read starts within maxStaleness of the stall.
    for (;;) {
      const startedAt = performance.now()
      const session = await store.get('x')
      if (session?.n === 2) break
      expect(startedAt - stalledAt).to.be.below(maxStaleness)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await until(() => distrusted)
    await other.set('x', { n: 3 })
    expect(await store.get('x'), 'from the database while not trusted').to.deep.equal({ n: 3 })
    const trust = once(store, 'trust')
    proxy.resume()
    await trust
    expect(await store.get('x')).to.deep.equal({ n: 3 })
    await store.close()
    await other.close()
    await proxy.close()
  })

  it('is not trusted where notifications do not arrive, and warns once with what to do', async () => {
    const url = await freshDatabase()
    // LISTEN succeeds and no notification arrives, as with a pooler in transaction mode.
    const elsewhere = await freshDatabase()
    const warnings: string[] = []
    const store = new PgStore(url, { listen: elsewhere, cache: { maxStaleness: 300 } })
    store.on('warning', (error) => warnings.push(error.message))
    store.on('trust', () => expect.fail('the cache must not be trusted'))
    await store.set('x', { n: 1 })
    await until(() => warnings.length > 0)
    expect(warnings).to.have.length(1)
    expect(warnings[0]).to.match(
      /a heartbeat did not come back within 300 ms. If it goes through a pooler, set the option "listen"/,
    )
    expect(await store.get('x')).to.deep.equal({ n: 1 })
    await store.close()
  })

  it('sends heartbeats over the connection that makes changes, and detects if that moves to another server', async () => {
    const url = await freshDatabase()
    const elsewhere = await freshDatabase()
    let current = url
    const pools = new Map([url, elsewhere].map((each) => [each, new pg.Pool({ connectionString: each })]))
    const other = new PgStore(elsewhere)
    await other.setup()
    const store = new PgStore(async (text, values) => (pools.get(current) as pg.Pool).query(text, values), {
      listen: url,
      cache: { maxStaleness: 500 },
    })
    let distrusted = false
    store.on('distrust', () => {
      distrusted = true
    })
    await Promise.all([store.setup(), once(store, 'trust')])
    await store.set('x', { n: 1 })
    // As after a failover by DNS, while the listener keeps its connection.
    current = elsewhere
    await until(() => distrusted)
    expect(await store.get('x')).to.equal(undefined)
    await store.close()
    await other.close()
    for (const pool of pools.values()) await pool.end()
  })

  it('survives an error that is thrown while it connects', async () => {
    const url = await freshDatabase()
    let broken = true
    const store = new PgStore(url, {
      listen: {
        connectionString: url,
        // As a cloud connector may, or a certificate file that is being replaced.
        stream: () => {
          if (broken) throw new Error('no such file')
          return undefined
        },
      },
    })
    const warnings: string[] = []
    store.on('warning', (error) => warnings.push(error.message))
    const trust = once(store, 'trust')
    await store.set('x', { n: 1 })
    await until(() => warnings.length > 0)
    expect(warnings[0]).to.match(/LISTEN connection lost.*no such file/)
    broken = false
    await trust
    await store.close()
  })

  describe('by itself', () => {
    let url: string
    let listener: Listener
    let stale = 0
    let answers = 0
    beforeEach(async () => {
      url = await freshDatabase()
      await sql(url, 'create table session (id text, version bigint)')
      stale = 0
      listener = new Listener({
        config: { connectionString: url },
        channel: 'slept',
        table: 'session',
        maxStaleness: 5_000,
        query: (text, values) => sql(url, text, values),
        guard: undefined,
        poolState: () => undefined,
        onNotification: () => undefined,
        onTrust: () => undefined,
        onDistrust: () => undefined,
        onStale: () => stale++,
        onQueueUsage: () => undefined,
        statsAnswer: () => {
          answers++
          throw new Error('no host name')
        },
        warn: () => undefined,
      })
      listener.start()
      await until(() => listener.isTrusted)
    })
    afterEach(() => {
      listener.stop()
      expect(listener.isTrusted).to.equal(false)
    })

    it('survives that its figures can’t be read, and is asked again', async () => {
      answers = 0
      await until(async () => {
        await sql(url, `select pg_notify('slept_stats_requests', '')`)
        return answers >= 2
      })
      expect(listener.isTrusted).to.equal(true)
    })

    it('is not trusted when the wall clock shows that the machine was suspended', async () => {
      const now = Date.now
      try {
        Date.now = () => now() + 6_000
        expect(listener.isTrusted).to.equal(false)
        expect(stale).to.equal(0)
        listener.use()
        await until(() => listener.isTrusted)
        // In between, requests have read from the database.
        expect(stale, 'the cache is cleared').to.be.at.least(1)
      } finally {
        Date.now = now
      }
    })

    it('clears the cache when a change was made without a notification, and stays trusted', async () => {
      const awake = (count: number) => until(() => listener.use() && stale === count)
      await sql(url, 'insert into session values ($1, 1)', [unannouncedId])
      await awake(1)
      await sql(url, 'update session set version = 2')
      await awake(2)
      // As the sweep does.
      await sql(url, 'delete from session')
      await awake(3)
      expect(listener.reconnects).to.equal(0)
    })

    it('is not trusted again by a clock that is set back', async () => {
      const now = Date.now
      try {
        Date.now = () => now() + 6_000
        expect(listener.isTrusted).to.equal(false)
      } finally {
        Date.now = now
      }
      expect(listener.isTrusted).to.equal(false)
      await until(() => listener.isTrusted)
      expect(stale).to.be.at.least(1)
    })
  })
})
