import { expect } from 'chai'
import type { PgStoreOptions } from '../../lib/index.js'
import { Instance, trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const hour = 3_600_000

describe('deleteAttribute', () => {
  let url: string
  beforeEach(async () => {
    url = await freshDatabase()
  })

  const rows = () =>
    sql(url, 'select id, session, user_id, expiry, created_at, last_access from session order by id')

  it('removes the attribute from all sessions of this user, on every instance, and from no other user’s', async () => {
    await using store = await trusted(url)
    await using other = await trusted(url)
    using far = new Instance(url)
    const sids = await Promise.all(
      Array.from({ length: 300 }, (_, n) =>
        store.create({ userId: 'ann', n, ...(n < 250 && { admin: true }) }),
      ),
    )
    const bobs = await store.create({ userId: 'bob', admin: true })
    const some = [0, 100, 249].map((n) => sids[n] ?? '')
    for (const sid of some) {
      expect(await other.get(sid)).to.include({ admin: true })
      expect(await far.call('get', sid)).to.include({ admin: true })
    }
    expect(await store.deleteAttribute('ann', 'admin')).to.equal(250)
    for (const sid of some) {
      expect(await store.get(sid)).not.to.have.property('admin')
      await until(async () => !('admin' in ((await other.get(sid)) ?? {})))
      await until(async () => !('admin' in ((await far.call('get', sid)) as object)))
    }
    const sessions = await store.sessionsOf('ann')
    expect(sessions.map(({ session }) => session?.n).sort((a, b) => Number(a) - Number(b))).to.deep.equal([
      ...sids.keys(),
    ])
    expect(sessions.filter(({ session }) => 'admin' in (session ?? {}))).to.deep.equal([])
    expect(await store.get(bobs)).to.include({ admin: true })
    expect(await store.deleteAttribute('ann', 'admin')).to.equal(0)
    expect(await store.deleteAttribute('ann', 'toString')).to.equal(0)
  })

  it('leaves expiry and last access as they are, also with maxLifetime and idleTimeout', async () => {
    for (const options of [{}, { maxLifetime: 3 * hour, idleTimeout: 2 * hour }] satisfies PgStoreOptions[]) {
      await using store = await trusted(url, options)
      await store.create({ userId: 'ann', admin: true }, { ttl: hour })
      await sql(
        url,
        `update session set last_access = now() - interval '1 hour', created_at = now() - interval '2 hours'`,
      )
      const [before] = await rows()
      expect(await store.deleteAttribute('ann', 'admin')).to.equal(1)
      expect(await rows()).to.deep.equal([{ ...before, session: { userId: 'ann' } }])
      await store.destroyAll()
      await sql(url, 'truncate session')
    }
  })

  it('does not make a session live longer in memory than in the table', async () => {
    await using store = await trusted(url)
    const sid = await store.create({ userId: 'ann', admin: true }, { ttl: 1_500 })
    await sql(url, `update session set last_access = now() - interval '1 hour'`)
    expect(await store.deleteAttribute('ann', 'admin')).to.equal(1)
    await store.get(sid)
    await until(async () => (await sql(url, 'select from session where expiry < now()')).length > 0)
    expect(await store.get(sid)).to.equal(undefined)
  })

  it('includes expired sessions, which a slow request could save again', async () => {
    await using store = await trusted(url)
    const sid = await store.create({ userId: 'ann', admin: true })
    const session = (await store.get(sid)) ?? {}
    await sql(url, 'update session set expiry = now()')
    expect(await store.deleteAttribute('ann', 'admin')).to.equal(1)
    await store.set(sid, Object.assign(session, { late: true }), hour)
    expect((await store.get(sid)) ?? {}).not.to.have.property('admin')
  })

  for (const concurrency of ['merge', 'reject', 'last-write'] as const)
    it(`is ${concurrency === 'last-write' ? '' : 'not '}undone by a save in flight that still has the attribute (concurrency: '${concurrency}')`, async () => {
      await using store = await trusted(url, { concurrency })
      await using other = await trusted(url, { concurrency })
      for (const late of [store, other]) {
        const sid = await store.create({ userId: 'ann', admin: true })
        const session = (await late.get(sid)) ?? {}
        expect(await store.deleteAttribute('ann', 'admin')).to.be.at.least(1)
        session.cart = [7]
        const saved = await late.set(sid, session).then(
          () => true,
          ({ name }) => name,
        )
        expect(saved).to.equal(concurrency === 'reject' ? 'ConflictError' : true)
        expect(await late.get(sid, { fresh: true })).to.deep.equal({
          userId: 'ann',
          ...(concurrency !== 'reject' && { cart: [7] }),
          ...(concurrency === 'last-write' && { admin: true }),
        })
      }
    })

  it('keeps what is saved at the same time, here and on another instance', async () => {
    await using store = await trusted(url)
    await using other = await trusted(url)
    for (let round = 0; round < 50; round++) {
      const sid = await store.create({ userId: 'ann', admin: true })
      const [here, there] = [(await store.get(sid)) ?? {}, (await other.get(sid)) ?? {}]
      await Promise.all([
        store.set(sid, Object.assign(here, { here: round })),
        store.deleteAttribute('ann', 'admin'),
        other.set(sid, Object.assign(there, { there: round })),
      ])
      expect(await store.get(sid, { fresh: true })).to.deep.equal({
        userId: 'ann',
        here: round,
        there: round,
      })
      await store.destroy(sid)
    }
    expect((await store.stats()).conflicts + (await other.stats()).conflicts).to.be.above(0)
  })

  it('leaves a session without a user if the attribute is its user id', async () => {
    await using store = await trusted(url, { maxSessionsPerUser: 5 })
    const sid = await store.create({ user: { id: 'ann' }, passport: { user: 'bob' } })
    expect(await store.deleteAttribute('ann', 'user')).to.equal(1)
    expect(await store.sessionsOf('ann')).to.deep.equal([])
    expect(await store.sessionsOf('bob')).to.have.length(1)
    expect(await store.deleteAttribute('bob', 'passport')).to.equal(1)
    expect(await store.get(sid)).to.deep.equal({})
    expect((await rows())[0]).to.include({ user_id: null })
  })

  it('does not bring back a session that is destroyed at the same time', async () => {
    await using store = await trusted(url)
    for (let round = 0; round < 30; round++) {
      const sids = await Promise.all([1, 2, 3].map((n) => store.create({ userId: 'ann', n, admin: true })))
      await Promise.all([
        store.deleteAttribute('ann', 'admin'),
        store.destroy(sids[0] ?? ''),
        store.destroySessionsOf('ann', { except: sids[2] ?? '' }),
      ])
      const active = await store.sessionsOf('ann')
      expect(active.map(({ session }) => session)).to.deep.equal([{ userId: 'ann', n: 3 }])
      await store.destroySessionsOf('ann')
    }
  })
})
