import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { Instance, trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const hour = 3_600_000

describe('maxSessionsPerUser', () => {
  let url: string
  beforeEach(async () => {
    url = await freshDatabase()
  })

  const make = (maxSessionsPerUser: number, options: PgStoreOptions = {}): Promise<PgStore> =>
    trusted(url, { maxSessionsPerUser, ...options })
  const numbers = async (store: PgStore, user = 'ann'): Promise<number[]> =>
    (await store.sessionsOf(user)).map(({ session }) => session?.n as number).sort((a, b) => a - b)
  const ann = (n: number) => ({ userId: 'ann', n })

  it('holds for 50 simultaneous sign-ins of one user in four processes, which all sign out the evicted', async () => {
    const options = { maxSessionsPerUser: 3 }
    const instances = Array.from({ length: 4 }, () => new Instance(url, options))
    try {
      for (const instance of instances) await instance.call('setup')
      await until(async () => {
        const stats = await Promise.all(instances.map((instance) => instance.call('stats')))
        return stats.every((one) => (one as { cache: { trusted: boolean } }).cache.trusted)
      })
      const rounds = await Promise.all(
        instances.map((instance, i) =>
          instance.together(
            ...Array.from({ length: i < 2 ? 13 : 12 }, (_, n): ['create', object] => [
              'create',
              ann(100 * i + n),
            ]),
          ),
        ),
      )
      const sids = rounds.flat().map(({ value, error }) => {
        expect(error).to.equal(undefined)
        return value as string
      })
      expect(sids).to.have.length(50)
      // Transaction ids grow: the session of the last transaction is active.
      const rows = await sql<{ active: boolean; last: boolean }>(
        url,
        `select session is not null as active, xmin::text::bigint = max(xmin::text::bigint) over () as last from session`,
      )
      expect(rows).to.have.length(50)
      expect(rows.filter(({ active }) => active)).to.have.length(3)
      expect(rows.filter(({ active, last }) => active && last)).to.have.length(1)
      const active = new Set<string>()
      for (const sid of sids) if ((await instances[0]?.call('get', sid)) !== undefined) active.add(sid)
      expect(active.size).to.equal(3)
      for (const instance of instances)
        await until(async () => {
          const outcomes = await instance.together(...sids.map((sid): ['get', string] => ['get', sid]))
          const there = sids.filter((_, n) => outcomes[n]?.value !== undefined)
          return there.length === 3 && there.every((sid) => active.has(sid))
        })
      // The next sign-in evicts one of them.
      const newest = await instances[3]?.call('create', ann(999))
      for (const instance of instances) {
        expect(await instance.call('get', newest)).to.deep.equal(ann(999))
        expect(await instance.call('sessionsOf', 'ann')).to.have.length(3)
      }
    } finally {
      for (const instance of instances) instance[Symbol.dispose]()
    }
  })

  it('holds for a user who has 10,000 sessions, and removes them from every cache', async () => {
    const [here, there] = [await make(3), await make(3)]
    await there.set('a session', ann(0))
    expect(await there.get('a session')).to.deep.equal(ann(0))
    await sql(
      url,
      `insert into session (id, expiry, session, user_id, last_access, version)
       select 'sha256:' || rpad(n::text, 43, 'A'), now() + interval '1 day', '{"userId":"ann"}', 'ann', now() + interval '1 s', 1
       from generate_series(1, 10000) n`,
    )
    const sid = await here.create(ann(1))
    expect(await here.count()).to.equal(3)
    expect(await here.get(sid)).to.deep.equal(ann(1))
    await until(async () => (await there.get('a session')) === undefined)
  })

  it('holds for two simultaneous sign-ins on two instances, with a limit of one', async () => {
    await using store = await make(1)
    await using other = await make(1)
    for (let n = 0; n < 40; n++) {
      await Promise.all([store.create(ann(n)), other.create(ann(100 + n))])
      expect(await store.sessionsOf('ann')).to.have.length(1)
    }
  })

  it('evicts the least recently used session, and removes it from every cache', async () => {
    await using store = await make(3)
    await using other = await make(3)
    const sids: string[] = []
    for (const n of [1, 2, 3]) sids.push(await store.create(ann(n)))
    for (const sid of sids) expect(await other.get(sid)).not.to.equal(undefined)
    await sql(url, `update session set last_access = now() - interval '1 hour' where session->>'n' = '2'`)
    await store.create(ann(4))
    expect(await numbers(store)).to.deep.equal([1, 3, 4])
    expect(await store.get(sids[1] ?? '')).to.equal(undefined)
    await until(async () => (await other.get(sids[1] ?? '')) === undefined)
    expect(await other.get(sids[0] ?? '')).to.deep.equal(ann(1))
    await store.set(sids[1] ?? '', ann(2))
    expect(await numbers(store), 'an evicted session stays destroyed').to.deep.equal([1, 3, 4])
  })

  it('counts only active sessions', async () => {
    const limits = { idleTimeout: 2 * hour, maxLifetime: 3 * hour }
    await using store = await make(3, limits)
    const sids: string[] = []
    for (const n of [1, 2, 3]) sids.push(await store.create(ann(n)))
    await store.destroy(sids[0] ?? '')
    await store.create(ann(4))
    expect(await numbers(store)).to.deep.equal([2, 3, 4])
    const expired: [number, string][] = [
      [2, 'expiry = now()'],
      [3, `last_access = now() - interval '2 hours'`],
      [4, `created_at = now() - interval '3 hours'`],
    ]
    for (const [n, change] of expired) {
      await sql(url, `update session set ${change} where session->>'n' = '${n}'`)
      await store.create(ann(10 + n))
    }
    expect(await numbers(store)).to.deep.equal([12, 13, 14])
    await store.create(ann(15))
    expect(await numbers(store)).to.deep.equal([13, 14, 15])
  })

  it('never evicts the new session or those of other users, with a limit of one', async () => {
    await using store = await make(1)
    const bobs = await store.create({ userId: 'bob', n: 0 })
    await sql(url, `update session set last_access = now() + interval '1 hour'`)
    for (let n = 1; n <= 5; n++) {
      const sid = await store.create(ann(n))
      // As if a clock that is a day fast had written it.
      await sql(url, `update session set last_access = now() + interval '1 day' where session is not null`)
      expect(await store.get(sid, { fresh: true })).to.deep.equal(ann(n))
      expect(await numbers(store)).to.deep.equal([n])
    }
    expect(await store.get(bobs)).not.to.equal(undefined)
    for (const n of [1, 2, 3]) await store.create({ n })
    expect(await store.count(), 'sessions without a user are not counted').to.equal(5)
  })

  it('counts a session for its current user, when it signs in or changes its user', async () => {
    await using store = await make(2)
    const sid = await store.create({ cart: [1] })
    for (const n of [1, 2]) await store.create(ann(n))
    const bobs = await store.create({ userId: 'bob', n: 3 })
    await store.set(sid, Object.assign((await store.get(sid)) ?? {}, ann(4)))
    expect(await numbers(store)).to.deep.equal([2, 4])
    await store.set(bobs, Object.assign((await store.get(bobs)) ?? {}, { userId: 'ann' }))
    expect(await numbers(store)).to.deep.equal([3, 4])
    expect(await numbers(store, 'bob')).to.deep.equal([])
    // When the session leaves ann, she has room for another.
    await store.set(bobs, Object.assign((await store.get(bobs)) ?? {}, { userId: 'bob' }))
    await store.create(ann(5))
    expect(await numbers(store)).to.deep.equal([4, 5])
  })

  it('evicts no session when a signed-in user saves, or signs in again in the same session', async () => {
    await using store = await make(2)
    const [first, second] = [await store.create(ann(1)), await store.create(ann(2))]
    for (let n = 0; n < 5; n++) {
      await store.set(first, Object.assign((await store.get(first)) ?? {}, { again: n }))
      await store.set(second, { ...ann(2), again: n })
    }
    expect(await numbers(store)).to.deep.equal([1, 2])
  })

  it('takes effect at the next sign-in when it is lowered', async () => {
    await using before = await trusted(url)
    for (const n of [1, 2, 3, 4, 5]) await before.create(ann(n))
    await using store = await make(2)
    expect(await numbers(store)).to.deep.equal([1, 2, 3, 4, 5])
    await store.create(ann(6))
    expect(await numbers(before)).to.deep.equal([5, 6])
  })

  it('evicts no session for one that was destroyed before it is saved', async () => {
    await using store = await make(1)
    await using other = await make(1)
    const first = await store.create(ann(1))
    const ways: ((sid: string) => Promise<unknown>)[] = [
      async (sid) => other.destroy(sid),
      async () => sql(url, `delete from session where user_id is null and session is not null`),
      async () => sql(url, `update session set session = null where user_id is null`),
    ]
    for (const end of ways)
      for (const isKept of [true, false]) {
        const sid = await store.create({ cart: [1] })
        const session = (await store.get(sid)) ?? {}
        await end(sid)
        await store.set(sid, isKept ? Object.assign(session, ann(2)) : { ...session, ...ann(2) })
        expect(await numbers(store)).to.deep.equal([1])
        expect(await store.get(first)).to.deep.equal(ann(1))
        expect(await store.get(sid, { fresh: true })).to.equal(undefined)
      }
  })

  it('counts a session once when two requests sign in with it and are merged', async () => {
    await using store = await make(2)
    await store.create(ann(1))
    const sid = await store.create({ cart: [1] })
    const [one, two] = [(await store.get(sid)) ?? {}, (await store.get(sid)) ?? {}]
    await Promise.all([
      store.set(sid, Object.assign(one, { userId: 'ann', one: 1 })),
      store.set(sid, Object.assign(two, { userId: 'ann', n: 2 })),
    ])
    expect(await store.get(sid, { fresh: true })).to.deep.equal({ cart: [1], one: 1, ...ann(2) })
    expect(await numbers(store)).to.deep.equal([1, 2])
  })

  it('holds with any default isolation level of the database', async () => {
    await sql(
      url,
      `alter database ${new URL(url).pathname.slice(1)} set default_transaction_isolation = 'serializable'`,
    )
    await using store = await make(2)
    await using other = await make(2)
    await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 ? store : other).create(ann(n))))
    expect(await numbers(store)).to.have.length(2)
  })

  it('holds with a pool of one connection', async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    await using store = await trusted(url, { maxSessionsPerUser: 2 })
    const tight = new PgStore(pool, { maxSessionsPerUser: 2 })
    await Promise.all([
      ...Array.from({ length: 20 }, (_, n) => tight.create(ann(n))),
      ...Array.from({ length: 20 }, (_, n) => tight.create({ userId: 'bob', n })),
      ...Array.from({ length: 20 }, (_, n) => tight.create({ n })),
    ])
    expect(await numbers(store)).to.have.length(2)
    expect(await tight.count()).to.equal(24)
    await tight.close()
    await pool.end()
  })

  it('holds through a query function for sign-ins one after another, and removes the evicted from its own cache', async () => {
    const pool = new pg.Pool({ connectionString: url, max: 3 })
    const store = new PgStore((text, values) => pool.query(text, values), {
      maxSessionsPerUser: 2,
      cache: { ttl: hour },
    })
    const sids: string[] = []
    for (const n of [1, 2, 3, 4, 5]) {
      sids.push(await store.create(ann(n)))
      for (const sid of sids) await store.get(sid)
    }
    expect(await numbers(store)).to.deep.equal([4, 5])
    const found = await Promise.all(sids.map((sid) => store.get(sid)))
    expect(found.map((one) => one !== undefined)).to.deep.equal([false, false, false, true, true])
    // A session was evicted for one that no longer exists: that can't be rolled back here, but the cache knows of it.
    const anonymous = await store.create({})
    const session = (await store.get(anonymous)) ?? {}
    await sql(url, `delete from session where user_id is null and session is not null`)
    await store.set(anonymous, Object.assign(session, ann(6)))
    for (const sid of sids) expect(await store.get(sid)).to.deep.equal(await store.get(sid, { fresh: true }))
    await Promise.all(Array.from({ length: 20 }, (_, n) => store.create({ userId: 'bob', n })))
    await store.create({ userId: 'bob', n: 99 })
    expect((await numbers(store, 'bob')).length).to.be.within(1, 2)
    await store.close()
    await pool.end()
  })

  it('works where a pooler does not keep prepared statements', async () => {
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    const store = new PgStore(pool, { maxSessionsPerUser: 2, cache: false })
    for (const n of [1, 2, 3]) await store.create(ann(n))
    await pool.query('deallocate all')
    await store.create(ann(4))
    expect(await numbers(store)).to.deep.equal([3, 4])
    await store.close()
    await pool.end()
  })

  it('fails no other save when the option userId throws for a session as it was', async () => {
    await using plain = await trusted(url)
    const sids = await Promise.all([1, 2, 3].map((n) => plain.create(n === 2 ? {} : ann(n))))
    const userId = (session: { user?: { id: string } }): string => {
      if (session.user === undefined) throw new Error('no user')
      return session.user.id
    }
    await using store = await make(5, { userId: userId as PgStoreOptions['userId'] & object })
    const loaded = await Promise.all(sids.map((sid) => store.get(sid)))
    await Promise.all(
      sids.map((sid, n) => store.set(sid, Object.assign(loaded[n] ?? {}, { user: { id: `user ${n}` } }))),
    )
    for (const n of sids.keys()) expect(await store.sessionsOf(`user ${n}`)).to.have.length(1)
  })

  it('never deadlocks with touches, saves, destroys and sign-ins of the same sessions on two instances', async () => {
    const options = { touch: { interval: 0 }, cache: false as const }
    const stores = [12, 12].map((max) => new PgStore(url, { maxSessionsPerUser: max, ...options }))
    const sids = Array.from({ length: 40 }, (_, n) => `session ${n}`)
    // The order of the rows in the table isn't that of their ids.
    await stores[0]?.setup()
    for (const sid of sids.toSorted((a, b) => (digestOf(a) > digestOf(b) ? -1 : 1)))
      await stores[0]?.set(sid, {}, hour)
    const users = ['ann', 'bob', undefined, 'cid']
    const end = performance.now() + 3_000
    let calls = 0
    const caller = async (n: number): Promise<void> => {
      for (let i = n; performance.now() < end; i++) {
        const store = stores[i % 2] as PgStore
        const pick = (k: number): string => sids[(i * 7 + k * 11) % sids.length] ?? ''
        const user = users[i % 4]
        const session = { ...(user && { userId: user }), i }
        const kind = (i * 13) % 8
        if (kind < 3) await store.set(pick(n), session, hour)
        else if (kind < 5) await Promise.all(sids.map((sid) => store.touch(sid, hour + i)))
        else if (kind < 6)
          await Promise.all([1, 2, 3].map((k) => store.set(pick(k), { k, i, userId: users[k] }, hour)))
        else if (kind < 7) {
          const there = await store.get(pick(n), { fresh: true })
          if (there) await store.set(pick(n), Object.assign(there, session))
        } else if (i % 5 === 0) await store.destroySessionsOf(user ?? 'ann')
        else sids[(i * 7) % sids.length] = `session ${n} ${i}`
        calls++
      }
    }
    await Promise.all(Array.from({ length: 24 }, (_, n) => caller(n)))
    for (const user of ['ann', 'bob', 'cid'])
      expect((await stores[0]?.sessionsOf(user))?.length).to.be.at.most(12)
    for (const store of stores) await store.close()
    expect(calls).to.be.above(100)
    // A backend reports its statistics when it ends.
    const mine = `datname = current_database() and pid <> pg_backend_pid()`
    await until(async () => (await sql(url, `select from pg_stat_activity where ${mine}`)).length === 0)
    const [row] = await sql(
      url,
      `select deadlocks::int from pg_stat_database where datname = current_database()`,
    )
    expect(row).to.deep.equal({ deadlocks: 0 })
  })
})
