import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions, SetupError } from '../../lib/index.js'
import { Instance, trusted } from '../helpers/instance.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const hour = 3_600_000

/** A session of ann's; `n` distinguishes them. */
const ann = (n: number) => ({ userId: 'ann', n })

for (const hashIds of [true, false])
  describe(`a user's sessions (hashIds: ${hashIds})`, () => {
    let url: string
    beforeEach(async () => {
      url = await freshDatabase()
    })
    const make = (options: PgStoreOptions = {}) => trusted(url, { hashIds, ...options })
    const numbers = async (store: PgStore): Promise<unknown[]> =>
      (await store.sessionsOf('ann')).map(({ session }) => session?.n)

    it('are listed with all that the table knows of them', async () => {
      await using store = await make()
      const [clock] = await sql(url, 'select now() as now')
      const sid = await store.create(ann(1), { ttl: hour })
      await store.create({ userId: 'bob' })
      await store.create({})
      const [info, ...more] = await store.sessionsOf('ann')
      expect(more).to.deep.equal([])
      const { handle, userId, session, createdAt, lastAccessedAt, expiresAt } = info ?? expect.fail()
      expect({ userId, session }).to.deep.equal({ userId: 'ann', session: ann(1) })
      expect(Number(createdAt) - Number(clock?.now)).to.be.within(0, 60_000)
      expect(lastAccessedAt).to.deep.equal(createdAt)
      expect(Number(expiresAt) - Number(createdAt)).to.equal(hour)
      // The handle isn't the id, and can't be used as one.
      expect(handle).to.match(/^[\w-]{43}$/)
      expect(handle).not.to.include(sid)
      for (const cookie of [handle, `sha256:${handle}`]) {
        expect(await store.get(cookie)).to.equal(undefined)
        await store.destroy(cookie)
        await store.touch(cookie)
      }
      expect(await store.get(sid, { fresh: true })).to.deep.equal(ann(1))
    })

    it('are listed by their last access, newest first, including reads that this instance has not written yet', async () => {
      await using store = await make()
      const sids: string[] = []
      for (const n of [1, 2, 3]) sids.push(await store.create(ann(n)))
      expect(await numbers(store)).to.deep.equal([3, 2, 1])
      await sql(
        url,
        `update session set last_access = now() - (5 - (session->>'n')::int) * interval '1 hour'`,
      )
      await store.touch(sids[1] ?? '')
      expect(await numbers(store)).to.deep.equal([2, 3, 1])
      // A read from the table is an access whose write is deferred.
      await store.clearCache()
      await store.get(sids[0] ?? '', { fresh: true })
      expect(await numbers(store)).to.deep.equal([1, 2, 3])
    })

    it('are listed and counted while they are active', async () => {
      await using store = await make()
      const sids: string[] = []
      for (const n of [1, 2, 3, 4, 5]) sids.push(await store.create(ann(n)))
      await store.destroy(sids[0] ?? '')
      await sql(url, `update session set expiry = now() where session->>'n' = '2'`)
      await sql(url, `update session set last_access = now() - interval '2 hours' where session->>'n' = '3'`)
      await sql(url, `update session set created_at = now() - interval '3 hours' where session->>'n' = '4'`)
      expect(await numbers(store)).to.have.members([3, 4, 5])
      await using idle = await make({ idleTimeout: hour })
      expect(await numbers(idle)).to.have.members([4, 5])
      await using old = await make({ maxLifetime: 2.5 * hour, idleTimeout: hour })
      expect(await numbers(old)).to.deep.equal([5])
      expect([await store.count(), await idle.count(), await old.count()]).to.deep.equal([3, 2, 1])
      expect(await old.destroySessionsOf('ann')).to.equal(1)
      expect(await numbers(store), 'also those that are active without the options').to.deep.equal([])
    })

    it('are revoked by their handles on every instance', async () => {
      await using store = await make()
      await using other = await make()
      const [first, second] = [await store.create(ann(1)), await store.create(ann(2))]
      for (const sid of [first, second]) expect(await other.get(sid)).to.have.property('userId')
      const handle = (await store.sessionsOf('ann')).find(({ session }) => session?.n === 1)?.handle ?? ''
      expect(await store.revoke(handle)).to.equal(true)
      expect(await store.get(first)).to.equal(undefined)
      await until(async () => (await other.get(first)) === undefined)
      expect(await store.revoke(handle)).to.equal(false)
      await store.set(first, ann(9))
      expect(await store.get(first), 'nothing brings it back').to.equal(undefined)
      expect(await store.get(second)).to.deep.equal(ann(2))
      // None of these is a handle.
      for (const wrong of [
        '',
        'x',
        second,
        `sha256:${handle}`,
        `${handle}\x1e${handle}`,
        'a\0b',
        'A'.repeat(43),
      ])
        expect(await store.revoke(wrong)).to.equal(false)
      expect(await numbers(store)).to.deep.equal([2])
    })

    it('are destroyed, all of them or all but one, and no other user’s', async () => {
      await using store = await make()
      await using other = await make()
      const sids: string[] = []
      for (const n of [1, 2, 3, 4]) sids.push(await store.create(ann(n)))
      const bobs = await store.create({ userId: 'bob' })
      const anonymous = await store.create({})
      for (const sid of sids) await other.get(sid)
      expect(await store.destroySessionsOf('unknown')).to.equal(0)
      // `except` as an id and as a handle.
      expect(await store.destroySessionsOf('ann', { except: sids[1] })).to.equal(3)
      for (const [n, sid] of sids.entries())
        if (n !== 1) await until(async () => (await other.get(sid)) === undefined)
      expect(await store.get(sids[0] ?? '')).to.equal(undefined)
      expect(await other.get(sids[1] ?? '')).to.deep.equal(ann(2))
      await store.create(ann(5))
      const [, { handle } = expect.fail()] = await store.sessionsOf('ann')
      expect(await store.destroySessionsOf('ann', { except: handle })).to.equal(1)
      expect(await numbers(other)).to.deep.equal([2])
      expect(await store.destroySessionsOf('ann', { except: undefined })).to.equal(1)
      expect(await store.destroySessionsOf('ann')).to.equal(0)
      for (const sid of [bobs, anonymous])
        expect(await store.get(sid, { fresh: true })).not.to.equal(undefined)
    })

    it('are destroyed even if they have expired, as a slow request could save them again', async () => {
      await using store = await make()
      await using other = await make()
      const sid = await store.create(ann(1))
      const session = (await other.get(sid)) ?? {}
      await sql(url, 'update session set expiry = now()')
      expect(await store.destroySessionsOf('ann'), 'none was active').to.equal(0)
      await other.set(sid, { ...session, late: true }, hour)
      await other.set(sid, Object.assign(session, { late: true }), hour)
      expect(await other.get(sid, { fresh: true })).to.equal(undefined)
    })

    it('are not destroyed if they belong to another user by then', async () => {
      await using store = await make()
      const sid = await store.create(ann(1))
      const client = new pg.Client(url)
      await client.connect()
      try {
        await client.query('begin')
        await client.query(`update session set user_id = 'bob', session = '{"userId":"bob"}'`)
        const destroyed = store.destroySessionsOf('ann')
        const waiting = `select from pg_locks where not granted`
        await until(async () => (await sql(url, waiting)).length > 0)
        await client.query('commit')
        expect(await destroyed).to.equal(0)
        expect(await store.get(sid, { fresh: true })).to.deep.equal({ userId: 'bob' })
      } finally {
        await client.end()
      }
    })

    for (const what of ['destroySessionsOf', 'destroyAll'] as const)
      it(`stay destroyed by ${what}, whatever is saved, touched or merged at the same time, here and in another process`, async () => {
        await using store = await make({ touch: { interval: 0 } })
        using there = new Instance(url, { hashIds, touch: { interval: 0 } })
        await there.call('setup')
        for (let round = 0; round < 30; round++) {
          const sids = await Promise.all([1, 2, 3, 4].map((n) => store.create({ ...ann(n), round })))
          const loaded = await Promise.all(sids.map((sid) => store.get(sid)))
          await there.together(...sids.map((sid): ['get', string] => ['get', sid]))
          const saves = loaded.map((session, n) => {
            const sid = sids[n] ?? ''
            if (n === 0) return store.touch(sid, 2 * hour)
            // A changed session, or a new object in its place.
            return store.set(
              sid,
              n === 1 ? { ...ann(n), late: true } : Object.assign(session ?? {}, { n: 'late' }),
            )
          })
          const elsewhere = there.together(
            ['touch', sids[0], 2 * hour],
            ['set', sids[1], { userId: 'ann', late: true }],
            ['set', sids[2], { userId: 'ann', late: true }],
            ['get', sids[3]],
          )
          if (round % 3 === 0) await sleep(round % 2)
          const destroy = (): Promise<number> =>
            what === 'destroySessionsOf' ? store.destroySessionsOf('ann') : store.destroyAll()
          expect(await destroy()).to.equal(4)
          await Promise.all(saves)
          for (const { error } of await elsewhere) expect(error).to.equal(undefined)
          for (const sid of sids) expect(await store.get(sid)).to.equal(undefined)
          expect(await sql(url, 'select from session where session is not null')).to.deep.equal([])
          await until(async () => {
            const outcomes = await there.together(...sids.map((sid): ['get', string] => ['get', sid]))
            return outcomes.every(({ value }) => value === undefined)
          })
        }
      })

    it('of all users are destroyed by destroyAll, and every user can sign in again', async () => {
      await using store = await make()
      await using other = await make()
      const sids = await Promise.all(Array.from({ length: 1_500 }, (_, n) => store.create({ userId: n, n })))
      for (const sid of sids.slice(0, 20)) expect(await other.get(sid)).not.to.equal(undefined)
      await sql(url, `update session set expiry = now() where session->>'n' in ('1', '2')`)
      expect(await store.destroyAll()).to.equal(1_498)
      expect(await store.destroyAll()).to.equal(0)
      expect(await store.count()).to.equal(0)
      for (const sid of sids.slice(0, 20)) {
        expect(await store.get(sid)).to.equal(undefined)
        await until(async () => (await other.get(sid)) === undefined)
      }
      expect(await other.get(await store.create(ann(1)))).to.deep.equal(ann(1))
    })
  })

describe('a user’s sessions', () => {
  it('are found, revoked and destroyed under the raw ids of an older table, which no notification contains', async () => {
    const url = await freshDatabase()
    const listener = new pg.Client(url)
    await listener.connect()
    const payloads: string[] = []
    listener.on('notification', ({ payload }) => payloads.push(payload ?? ''))
    try {
      await using old = await trusted(url, { hashIds: false })
      const sids = ['x', 'y', 'z'].map((letter) => `koa:sess:${letter.repeat(50)}`)
      for (const [n, sid] of sids.entries()) await old.set(sid, ann(n))
      // Rows under raw ids: with `create: false` the store doesn't hash them in the background.
      const [{ channel } = { channel: '' }] = await sql<{ channel: string }>(
        url,
        `select 'koa_pg_store_' || left(encode(sha256(convert_to('public.session', 'UTF8')), 'hex'), 16) as channel`,
      )
      await listener.query(`listen ${channel}`)
      await using store = new PgStore(url, { hashIds: true, create: false })
      await store.setup()
      expect(await sql(url, `select from session where id like 'koa:%'`)).to.have.length(3)
      const [, { handle } = expect.fail()] = await store.sessionsOf('ann')
      expect(await store.revoke(handle)).to.equal(true)
      expect(await store.destroySessionsOf('ann', { except: sids[0] })).to.equal(1)
      expect(await store.get(sids[0] ?? '')).to.deep.equal(ann(0))
      expect(await store.destroyAll()).to.equal(1)
      for (const sid of sids) {
        await store.set(sid, ann(9))
        expect(await store.get(sid), 'nothing brings it back').to.equal(undefined)
        await until(async () => (await old.get(sid)) === undefined)
      }
      await until(() => payloads.filter((payload) => !payload.startsWith('heartbeat')).length >= 3)
      for (const payload of payloads) expect(payload).to.match(/^(([\w-]{43}[\da-f]+|heartbeat [\w-]+),?)+$/)
      expect(payloads.join()).not.to.match(/xxx|yyy|zzz/)
    } finally {
      await listener.end()
    }
  })

  it('need the column user_id: without it the error says what to run', async () => {
    const url = await freshDatabase()
    await sql(url, 'create table session (id text primary key, expiry timestamptz not null, session json)')
    await using store = new PgStore(url, { create: false, hashIds: false, cache: { ttl: 60_000 } })
    store.on('warning', () => undefined)
    const sid = await store.create(ann(1))
    for (const call of [
      store.sessionsOf('ann'),
      store.destroySessionsOf('ann'),
      store.deleteAttribute('ann', 'n'),
    ]) {
      const error = await rejection(call)
      expect(error).to.be.instanceOf(SetupError)
      expect(error.message).to.match(/no column user_id: run sql\/003-columns.sql/)
    }
    // What needs no user works, and invalidates this cache.
    expect(await store.get(sid)).to.deep.equal(ann(1))
    const handles = []
    for await (const { handle, createdAt, lastAccessedAt } of store.sessions()) {
      expect([createdAt, lastAccessedAt]).to.deep.equal([undefined, undefined])
      handles.push(handle)
    }
    expect(await store.revoke(handles[0] ?? '')).to.equal(true)
    expect(await store.get(sid)).to.equal(undefined)
    const second = await store.create(ann(2))
    expect(await store.get(second)).to.deep.equal(ann(2))
    expect(await store.destroyAll()).to.equal(1)
    expect(await store.get(second)).to.equal(undefined)
    await using limited = new PgStore(url, {
      create: false,
      hashIds: false,
      cache: false,
      maxSessionsPerUser: 2,
    })
    expect((await rejection(limited.setup())).message).to.match(
      /maxSessionsPerUser needs the columns user_id/,
    )
  })
})
