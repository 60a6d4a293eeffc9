// The events create, destroy and revoke: which session began or ended, whose it was, and why.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** Writes down the events of a store, as an audit log would. */
function record(store: PgStore): unknown[][] {
  const log: unknown[][] = []
  store.on('create', ({ handle, userId }) => log.push(['create', handle, userId]))
  for (const event of ['destroy', 'revoke'] as const)
    store.on(event, ({ handle, userId, reason }) => log.push([event, handle, userId, reason]))
  return log
}

for (const cache of [undefined, false] as const)
  describe(`the events of sessions (cache: ${cache ?? 'default'})`, () => {
    let url: string
    beforeEach(async () => {
      url = await freshDatabase()
    })
    const make = async (options: object = {}): Promise<PgStore> => {
      if (cache !== false) return trusted(url, options)
      const store = new PgStore(url, { cache, ...options })
      await store.setup()
      return store
    }

    it('report a new session once, with its user, and neither its changes nor its touches', async () => {
      await using store = await make()
      const log = record(store)
      const sid = await store.create({ userId: 'ann' })
      const session = (await store.get(sid)) ?? expect.fail()
      await store.set(sid, Object.assign(session, { n: 1 }))
      await store.set(sid, { userId: 'ann', n: 2 })
      await store.touch(sid)
      const anonymous = await store.create({})
      expect(log).to.deep.equal([
        ['create', store.handleOf(sid), 'ann'],
        ['create', store.handleOf(anonymous), undefined],
      ])
    })

    it('report a logout with the user, once, and not for a session that does not exist', async () => {
      await using store = await make()
      const sid = await store.create({ userId: 'ann' })
      await using other = await make()
      const [log, otherLog] = [record(store), record(other)]
      await Promise.all([store.destroy(sid), store.destroy(sid), other.destroy(sid)])
      await store.destroy(sid)
      await store.destroy('none')
      await store.set(sid, { userId: 'ann' })
      expect([...log, ...otherLog]).to.deep.equal([['destroy', store.handleOf(sid), 'ann', 'logout']])
    })

    it('report the sessions that were revoked, those of one user or of all', async () => {
      await using store = await make()
      const sids: string[] = []
      for (const userId of ['ann', 'ann', 'ann', 'bob', 'cid'])
        sids.push(await store.create({ userId, n: sids.length }))
      const log = record(store)
      const handles = sids.map((sid) => store.handleOf(sid))
      await store.revoke(handles[0] ?? '')
      await store.revoke(handles[0] ?? '')
      await store.destroySessionsOf('ann', { except: sids[1] })
      expect(log).to.deep.equal([
        ['revoke', handles[0], 'ann', 'revoked'],
        ['revoke', handles[2], 'ann', 'revoked'],
      ])
      log.length = 0
      await store.destroyAll()
      const expected = [
        ['revoke', handles[1], 'ann', 'revoked'],
        ['revoke', handles[3], 'bob', 'revoked'],
        ['revoke', handles[4], 'cid', 'revoked'],
      ]
      expect(log).to.have.deep.members(expected)
    })

    it('report the session that a limit ended, after the sign-in is saved', async () => {
      await using store = await make({ maxSessionsPerUser: 1 })
      const log = record(store)
      const sid = await store.create({ userId: 'ann' })
      const next = await store.create({ userId: 'ann' })
      expect(log).to.have.deep.members([
        ['create', store.handleOf(sid), 'ann'],
        ['create', store.handleOf(next), 'ann'],
        ['revoke', store.handleOf(sid), 'ann', 'limit'],
      ])
    })

    it('report a session that a sweep found expired, and no tombstone', async () => {
      await using store = await make({ cleanup: false })
      const sid = await store.create({ userId: 'ann' }, { ttl: 1 })
      const gone = await store.create({ userId: 'bob' })
      await store.destroy(gone)
      await sql(url, `update session set expiry = now() - interval '1 hour'`)
      const log = record(store)
      await store.sweep()
      expect(log).to.deep.equal([['destroy', store.handleOf(sid), 'ann', 'expired']])
    })

    it('carry no session id', async () => {
      await using store = await make()
      const log = record(store)
      const sid = await store.create({ userId: 'ann', secret: 'x-secret-x' })
      await store.destroy(sid)
      expect(JSON.stringify(log)).not.to.include(sid).and.not.to.include('x-secret-x')
    })

    it('do not make a call reject whose change is made: a listener that throws causes a warning', async () => {
      await using store = await make()
      const warnings: string[] = []
      store.on('warning', ({ message }) => warnings.push(message))
      for (const event of ['create', 'destroy', 'revoke'] as const)
        store.on(event, () => {
          throw new Error(`the log of ${event} is full`)
        })
      const sid = await store.create({ userId: 'ann' })
      expect(await store.get(sid)).to.deep.equal({ userId: 'ann' })
      await store.destroy(sid)
      const other = await store.create({ userId: 'ann' })
      expect(await store.revoke(store.handleOf(other))).to.equal(true)
      await sleep(0)
      expect(warnings.filter((text) => text.startsWith('a listener for'))).to.deep.equal([
        'a listener for "create" failed: the log of create is full',
        'a listener for "destroy" failed: the log of destroy is full',
        'a listener for "create" failed: the log of create is full',
        'a listener for "revoke" failed: the log of revoke is full',
      ])
    })
  })
