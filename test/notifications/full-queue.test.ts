// While the server's queue of notifications is full, sessions are saved all the same, and no instance serves older ones from its cache.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { run } from '../helpers/command.js'
import { fillQueue, smallQueue } from '../helpers/full-queue.js'
import { trusted } from '../helpers/instance.js'
import { recordingClient } from '../helpers/recording-client.js'
import { ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import type { PostgresServer } from '../support/postgres/server.js'

describe('a full queue of notifications', () => {
  let server: PostgresServer
  before(async () => {
    server = await ownServer(smallQueue)
  })
  after(() => server.stop())

  const maxStaleness = 4_000
  let warnings: string[] = []
  const stores: PgStore[] = []
  beforeEach(async () => {
    warnings = []
    await sql(server.url, 'drop table if exists session')
  })
  afterEach(async () => {
    await Promise.all(stores.splice(0).map((store) => store.close()))
  })

  async function instance(): Promise<PgStore> {
    const store = await trusted(server.url, {
      cache: { maxStaleness },
      maxSessionsPerUser: 3,
      cleanup: false,
    })
    store.on('warning', ({ message }) => warnings.push(message))
    stores.push(store)
    return store
  }

  it('lets every change be made, and each instance sees it, also one that did not notice', async () => {
    const [here, there] = [await instance(), await instance()]
    const sids = ['set', 'destroyed', 'of a user', 'revoked', 'attribute']
    for (const sid of sids)
      await here.set(sid, { n: 1, ...(sid === 'attribute' && { userId: 'bob', role: 'admin' }) })
    const oldest = await here.create({ userId: 'ann' })
    for (let n = 0; n < 2; n++) await here.create({ userId: 'ann' })
    for (const sid of [...sids, oldest]) await there.get(sid)
    const holder = await fillQueue(server.url)
    await Promise.all([here.set('set', { n: 2 }), here.set('of a user', { n: 2, userId: 'cid' })])
    await here.destroy('destroyed')
    expect(await here.revoke(digestOf('revoked'))).to.equal(true)
    await here.create({ userId: 'ann' })
    expect(await here.deleteAttribute('bob', 'role')).to.equal(1)
    expect(await here.destroySessionsOf('cid')).to.equal(1)
    const read = async (store: PgStore): Promise<unknown> => [
      await store.get('set'),
      await store.get('destroyed'),
      await store.get('of a user'),
      await store.get('revoked'),
      await store.get('attribute'),
      await store.get(oldest),
    ]
    const expected = [{ n: 2 }, undefined, undefined, undefined, { n: 1, userId: 'bob' }, undefined]
    expect(await read(here)).to.deep.equal(expected)
    // Perhaps before the next heartbeat of the other instance, which then never fails.
    await holder.release()
    await until(async () => JSON.stringify(await read(there)) === JSON.stringify(expected))
    expect(await sql(server.url, 'select from session where session is not null')).to.have.length(5)
    expect(await here.count()).to.equal(5)
    await until(() =>
      warnings.some((text) => /queue of notifications is 100 % full.*koa-pg-store doctor/.test(text)),
    )
    await here.set('set', { n: 3 })
    await until(async () => (await there.get('set'))?.n === 3)
  })

  it('does not keep clearCache() from clearing every cache', async () => {
    const [here, there] = [await instance(), await instance()]
    await there.set('a', { n: 1 })
    await sql(server.url, 'alter table session disable trigger user')
    await sql(server.url, `update session set session = '{"n": 2}'`)
    const holder = await fillQueue(server.url)
    await here.clearCache()
    await holder.release()
    await until(async () => (await there.get('a'))?.n === 2)
  })

  it('does not divide the batches of changes', async () => {
    const { Client, texts } = recordingClient()
    const store = new PgStore({ connectionString: server.url, Client }, { cache: false })
    store.on('warning', ({ message }) => warnings.push(message))
    stores.push(store)
    const sids = Array.from({ length: 128 }, (_, n) => `s${n}`)
    await Promise.all(sids.map((sid) => store.set(sid, { n: 1 })))
    const holder = await fillQueue(server.url)
    texts.length = 0
    await Promise.all(sids.map((sid) => store.set(sid, { n: 2 })))
    expect(texts.filter((text) => text.includes('insert into'))).to.have.length(2)
    await Promise.all(sids.map((sid) => store.set(sid, { n: 3 })))
    expect(warnings).to.have.length(1)
    await holder.release()
    expect(await sql(server.url, `select from session where session->>'n' = '3'`)).to.have.length(128)
  })

  it('is warned of once when it is half full, and doctor names the process that holds it', async () => {
    const store = await instance()
    const holder = await fillQueue(server.url, 0.6)
    const isWarning = (text: string): boolean =>
      /^the server's queue of notifications is \d+ % full/.test(text)
    const keepAwake = async (): Promise<boolean> => {
      await store.get('a')
      return warnings.some(isWarning)
    }
    await until(keepAwake)
    await sleep(maxStaleness / 2)
    expect(warnings.filter(isWarning)).to.have.length(1)
    for (const share of [0.6, 1]) {
      const full = await fillQueue(server.url, share)
      const { out, status } = await run(server.url, 'doctor')
      expect(out).to.match(
        new RegExp(
          `notification queue: the queue is \\d+ % full; .* by process ${holder.pid}: application "holder", role postgres, database postgres, idle in transaction for`,
        ),
      )
      expect(out).to.include(`select pg_terminate_backend(${holder.pid})`)
      expect(out).to.not.include('pooler')
      expect(status).to.equal(1)
      await full.release()
    }
    await holder.release()
    expect((await run(server.url, 'doctor')).out).to.match(/notifications: received after/)
  })
})
