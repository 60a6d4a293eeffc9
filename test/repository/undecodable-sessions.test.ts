// One session that can't be decoded, such as one whose key is lost, is told of and keeps nobody from the others.
import { expect } from 'chai'
import { DecodeError, encrypted, PgStore, type PgStoreOptions, type SessionInfo } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

const keys = { now: { id: 'now', key: Buffer.alloc(32, 1) }, lost: { id: 'lost', key: Buffer.alloc(32, 2) } }

describe('a session that can’t be decoded', () => {
  let url: string
  const opened: PgStore[] = []
  const open = (key: { id: string; key: Buffer }, options: PgStoreOptions = {}): PgStore => {
    const store = new PgStore(url, { cleanup: false, codec: encrypted({ keys: [key] }), ...options })
    opened.push(store)
    return store
  }
  let store: PgStore
  let handle: string

  beforeEach(async () => {
    url = await freshDatabase()
    const old = open(keys.lost)
    await old.set('undecodable', { userId: 'ann', admin: true })
    handle = digestOf('undecodable')
    store = open(keys.now)
    await store.set('one', { userId: 'ann', admin: true, n: 1 })
    await store.set('two', { userId: 'ann', admin: true, n: 2 })
  })

  afterEach(async () => {
    for (const one of opened.splice(0)) await one.close()
  })

  for (const how of ['sessions', 'sessionsOf'] as const)
    it(`is in the list of ${how}(), with its handle, its times and the error`, async () => {
      const list: SessionInfo[] = how === 'sessionsOf' ? await store.sessionsOf('ann') : []
      if (how === 'sessions') for await (const info of store.sessions()) list.push(info)
      expect(list.map(({ session }) => session?.n).sort()).to.deep.equal([1, 2, undefined])
      const found = list.find(({ error }) => error !== undefined)
      expect(found?.error).to.be.instanceOf(DecodeError)
      expect(found).to.include({ handle, userId: 'ann', session: undefined })
      for (const date of [found?.createdAt, found?.lastAccessedAt, found?.expiresAt])
        expect(date).to.be.instanceOf(Date)
      expect(list.filter(({ error }) => error === undefined)).to.have.length(2)
    })

  it('is named by deleteAttribute, which removes the attribute from the others', async () => {
    const error = await rejection(store.deleteAttribute('ann', 'admin'))
    expect(error).to.be.instanceOf(DecodeError)
    expect(error.message).to.match(/^"admin" was removed from 2 sessions, but 1 can't be decoded \(/)
    expect(error.message).to.include(`revoke with ${handle}`)
    for (const [sid, n] of [
      ['one', 1],
      ['two', 2],
    ] as const)
      expect(await store.get(sid)).to.deep.equal({ userId: 'ann', n })
  })

  it('is destroyed by destroySessionsOf, revoke and destroyAll', async () => {
    expect(await store.destroySessionsOf('ann', { except: 'one' })).to.equal(2)
    expect((await store.sessionsOf('ann')).map(({ session }) => session?.n)).to.deep.equal([1])
    await open(keys.lost).set('another', { userId: 'ann' })
    expect(await store.destroyAll()).to.equal(2)
    await open(keys.lost).set('a third', { userId: 'ann' })
    expect(await store.revoke(digestOf('a third'))).to.equal(true)
    expect(await store.count()).to.equal(0)
  })

  it('is told of where the table holds no session at all', async () => {
    await sql(url, `update session set session = '7' where user_id = 'ann'`)
    const list = await store.sessionsOf('ann')
    expect(list.map(({ error }) => error?.name)).to.deep.equal(['DecodeError', 'DecodeError', 'DecodeError'])
  })
})
