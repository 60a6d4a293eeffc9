// A session that was used within its ttl outlives an outage in which its touch can't be written.
import { expect } from 'chai'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { storedId } from '../helpers/fixture.js'
import { startProxy, type Proxy as TcpProxy } from '../helpers/proxy.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('touches that an outage delays', () => {
  let url: string
  let proxy: TcpProxy
  let store: PgStore
  let warnings: Error[]

  async function open(options: PgStoreOptions = {}): Promise<void> {
    store = new PgStore(
      {
        connectionString: at(url, { port: proxy.port }),
        query_timeout: 300,
        connectionTimeoutMillis: 300,
      },
      { cleanup: false, ...options },
    )
    store.on('warning', (error) => warnings.push(error))
    await store.setup()
  }

  beforeEach(async () => {
    url = await freshDatabase()
    proxy = await startProxy(Number(new URL(url).port))
    warnings = []
  })

  afterEach(async () => {
    await store.close()
    await proxy.close()
  })

  const touchFailed = (): boolean => warnings.some(({ message }) => message.includes('touches'))

  /** Waits until the table's row has expired, by the server's clock. */
  const expired = (sid: string): Promise<void> =>
    until(
      async () =>
        (await sql(url, 'select from session where id = $1 and expiry < now()', [storedId(sid)])).length ===
        1,
    )

  /** Uses a session, and lets the database be unreachable until its row has expired. */
  async function outage(sid: string, ttl: number, during?: () => Promise<unknown>): Promise<void> {
    await store.set(sid, { n: 1 }, 1_000)
    await store.touch(sid, ttl)
    proxy.stall()
    await expired(sid)
    await until(touchFailed)
    await during?.()
    proxy.resume()
  }

  for (const options of [{ cache: false }, {}] as const)
    it(`are written before the session is taken for expired (${JSON.stringify(options)})`, async () => {
      await open(options)
      await outage('x', 60_000)
      const found: unknown[] = []
      // The connections that the outage broke may still be in the pool, and calls are refused for a moment longer.
      await until(() =>
        store.get('x').then(
          (session) => found.push(session) > 0,
          () => false,
        ),
      )
      expect(found).to.deep.equal([{ n: 1 }])
      const [row] = await sql(url, 'select expiry > now() as active from session')
      expect(row?.active).to.equal(true)
    })

  it('count from the access: what has expired since then stays expired', async () => {
    await open()
    await outage('x', 1_500, () =>
      until(
        async () =>
          (await sql(url, `select from session where expiry < now() - interval '1 s'`)).length === 1,
      ),
    )
    await until(() =>
      store.get('x').then(
        (session) => session === undefined,
        () => false,
      ),
    )
    expect(await store.count()).to.equal(0)
  })

  it('do not bring back a session that was destroyed, or deleted, meanwhile', async () => {
    await open()
    await outage('x', 60_000, () => sql(url, 'update session set session = null'))
    await until(() =>
      store.get('x').then(
        (session) => session === undefined,
        () => false,
      ),
    )
    warnings.length = 0
    await outage('y', 60_000, () => sql(url, 'delete from session'))
    await until(() =>
      store.get('y').then(
        (session) => session === undefined,
        () => false,
      ),
    )
  })

  it('keep a session from being swept by its own process', async () => {
    await open()
    await outage('x', 60_000)
    await until(() =>
      store.sweep().then(
        () => true,
        () => false,
      ),
    )
    expect(await store.get('x')).to.deep.equal({ n: 1 })
  })

  it('let a read reject, rather than find no session, while they can’t be written', async () => {
    await open({ cache: false })
    await store.close()
    const role = `touches_${process.pid}`
    await sql(
      url,
      `create role ${role} login password 'secret'; grant select, insert, update, delete on session to ${role}`,
    )
    store = new PgStore(at(url, { user: role, password: 'secret' }), {
      cache: false,
      create: false,
      cleanup: false,
    })
    store.on('warning', (error) => warnings.push(error))
    await store.set('x', { n: 1 }, 1_000)
    await store.touch('x', 60_000)
    await sql(url, `revoke update on session from ${role}`)
    await expired('x')
    const error = await rejection(store.get('x'))
    expect(error).to.have.property('name', 'DatabaseError')
    expect(error.message).to.match(/^can't read the session: permission denied/)
    await sql(url, `grant update on session to ${role}`)
    expect(await store.get('x')).to.deep.equal({ n: 1 })
  })
})
