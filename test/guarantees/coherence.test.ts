// Instances on one table see each other's changes, and those made in psql.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { channelOf, readPayload } from '../../lib/notifications/payload.js'
import { digestOf } from '../../lib/session/session-id.js'
import { trusted } from '../helpers/instance.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Collects the payloads of a table's notifications, as any client of the database can. */
async function collectPayloads(
  url: string,
  table = 'session',
): Promise<{ payloads: string[]; end(): Promise<void> }> {
  const client = new pg.Client(url)
  await client.connect()
  const received: string[] = []
  client.on('notification', ({ payload }) => {
    if (!payload?.startsWith('heartbeat ')) received.push(payload ?? '')
  })
  await client.query(`listen ${channelOf({ schema: 'public', table })}`)
  return { payloads: received, end: () => client.end() }
}

describe('instances on one table', () => {
  let url: string
  const opened: PgStore[] = []
  beforeEach(async () => {
    url = await freshDatabase()
  })
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((store) => store.close()))
  })

  /** Returns a store whose cache is trusted; it is closed after the test. */
  async function instance(options: PgStoreOptions = {}, connection = url): Promise<PgStore> {
    const store = await trusted(connection, options)
    opened.push(store)
    return store
  }

  /** Whether a read of the session is a cache hit. */
  const isCached = async (store: PgStore, sid: string): Promise<boolean> => {
    const cache = (await store.stats()).cache
    const before = cache ? cache.hits : 0
    await store.get(sid)
    const after = (await store.stats()).cache
    return after !== false && after.hits === before + 1
  }

  it('serve from the cache what they have read or written', async () => {
    const [a, b] = [await instance(), await instance()]
    await a.set('x', { n: 1 })
    expect(await isCached(a, 'x')).to.equal(true)
    expect(await isCached(b, 'x')).to.equal(false)
    expect(await isCached(b, 'x')).to.equal(true)
    expect(await b.get('x')).to.deep.equal({ n: 1 })
    // Without triggers no notification is sent; `fresh` bypasses the cache.
    await sql(url, `alter table session disable trigger user; update session set session = '{"n": 2}'`)
    expect(await b.get('x')).to.deep.equal({ n: 1 })
    expect(await b.get('x', { fresh: true })).to.deep.equal({ n: 2 })
  })

  it('drop at once what another instance sets or destroys', async () => {
    const [a, b] = [await instance(), await instance()]
    await a.set('x', { n: 1 })
    for (let n = 2; n < 30; n++) {
      await b.get('x')
      await a.set('x', { n })
      await until(async () => (await b.get('x'))?.n === n)
    }
    await a.destroy('x')
    await until(async () => (await b.get('x')) === undefined)
    expect((await b.stats()).notifications.received).to.be.at.least(28)
    expect((await a.stats()).notifications).to.include({ sent: 29 })
  })

  const changesInPsql: [string, string, unknown][] = [
    ['an update of the session', `update session set session = '{"n": "psql"}'`, { n: 'psql' }],
    ['an update of the expiry', `update session set expiry = now()`, undefined],
    ['a delete', 'delete from session', undefined],
    ['a truncate', 'truncate session', undefined],
    ['an update to null', 'update session set session = null', undefined],
  ]
  for (const hashIds of [true, false])
    for (const [what, statement, expected] of changesInPsql)
      it(`are notified of ${what} in psql (hashIds: ${hashIds})`, async () => {
        const stores = [await instance({ hashIds }), await instance({ hashIds })]
        await stores[0]?.set('x', { n: 1 })
        for (const store of stores) await store.get('x')
        await sql(url, statement)
        for (const store of stores)
          await until(async () => JSON.stringify(await store.get('x')) === JSON.stringify(expected))
      })

  it('save over a change made in psql, and are notified of that save too', async () => {
    const [a, b] = [await instance(), await instance()]
    await a.set('x', { n: 1 })
    await b.get('x')
    await sql(url, `update session set session = '{"n": "psql"}'`)
    await a.set('x', { n: 2 })
    await until(async () => (await b.get('x'))?.n === 2)
  })

  it('send no notification of a first save or a touch, and one of each other change', async () => {
    const a = await instance()
    const notifications = await collectPayloads(url)
    await a.set('x', { n: 1 })
    await a.touch('x', 600_000)
    await a.set('x', { n: 2 })
    await a.destroy('x')
    await a.destroy('x')
    await a.set('x', { n: 3 })
    await a.clearCache()
    await until(() => notifications.payloads.includes('clear'))
    expect(notifications.payloads).to.have.length(3)
    const parsed = notifications.payloads.slice(0, 2).map((payload) => readPayload(payload).changes)
    for (const changes of parsed) expect(changes[0]?.digest).to.equal(digestOf('x'))
    expect(parsed[1]?.[0]?.version).to.be.greaterThan(parsed[0]?.[0]?.version as number)
    await notifications.end()
  })

  it('put no secret into a payload', async () => {
    for (const hashIds of [true, false]) {
      const table = `secret_${hashIds}`
      const a = await instance({ hashIds, table })
      const notifications = await collectPayloads(url, table)
      await a.set('OpenSesame', { a: 'Xyzzy' })
      await a.set('OpenSesame', { a: 'Xyzzy2' })
      await sql(url, `update ${table} set session = '{"a":"Xyzzy3"}'`)
      await a.destroy('OpenSesame')
      await until(() => notifications.payloads.length === 3)
      for (const payload of notifications.payloads) {
        expect(payload).not.to.match(/OpenSesame|Xyzzy/)
        expect(await a.get(payload)).to.equal(undefined)
        expect(await a.get(payload.slice(0, 43))).to.equal(undefined)
        expect(await a.get(`sha256:${payload.slice(0, 43)}`)).to.equal(undefined)
      }
      await notifications.end()
    }
  })

  it('are notified when one statement destroys 10,000 sessions', async () => {
    const stores = [await instance(), await instance()]
    await stores[0]?.setup()
    const sids = Array.from({ length: 10_000 }, (_, n) => `many-${n}`)
    await sql(
      url,
      `insert into session (id, expiry, session, version)
       select 'sha256:' || rtrim(translate(encode(sha256(convert_to(sid, 'UTF8')), 'base64'), '+/', '-_'), '='), now() + '1 hour', '{}', 1
       from unnest($1::text[]) sid`,
      [sids],
    )
    for (const store of stores) {
      for (let i = 0; i < sids.length; i += 500)
        await Promise.all(sids.slice(i, i + 500).map((sid) => store.get(sid)))
      expect((await store.stats()).cache).to.include({ size: 10_000 })
    }
    await sql(url, 'update session set session = null')
    for (const store of stores) {
      await until(async () => (await store.get('many-9999')) === undefined)
      const sessions = await Promise.all(sids.slice(0, 2_000).map((sid) => store.get(sid)))
      expect(sessions.filter(Boolean)).to.deep.equal([])
      const { cache } = await store.stats()
      expect(cache).to.include({ size: 0 })
    }
  })

  it('clear the caches of all instances with clearCache', async () => {
    const [a, b] = [await instance(), await instance()]
    await a.set('x', { n: 1 })
    await b.get('x')
    await a.clearCache()
    expect((await a.stats()).cache).to.include({ size: 0 })
    await until(async () => {
      const { cache } = await b.stats()
      return cache && cache.size === 0
    })
  })

  it("reload what another instance changed with propagate: 'update', if it is cached", async () => {
    const [a, b] = [await instance(), await instance({ cache: { propagate: 'update' } })]
    for (const sid of ['x', 'y', 'z']) await a.set(sid, { n: 1 })
    for (const sid of ['x', 'y']) await b.get(sid)
    await Promise.all(['x', 'y', 'z'].map((sid) => a.set(sid, { n: 2 })))
    await until(async () => {
      const stats = await b.stats()
      return stats.notifications.received >= 1 && stats.cache && stats.cache.size === 2
    })
    for (const sid of ['x', 'y']) {
      await until(async () => (await b.get(sid))?.n === 2)
      expect(await isCached(b, sid)).to.equal(true)
    }
    expect(await isCached(b, 'z')).to.equal(false)
    await a.destroy('x')
    await until(async () => (await b.get('x')) === undefined)
  })

  it('share one query among concurrent reads of a session that is not cached', async () => {
    const a = await instance()
    const other = new PgStore(url)
    opened.push(other)
    await other.set('x', { n: 1 })
    const before = await sql<{ n: number }>(
      url,
      `select coalesce(sum(seq_scan + idx_scan), 0)::int as n from pg_stat_user_tables where relname = 'session'`,
    )
    const sessions = await Promise.all(Array.from({ length: 200 }, () => a.get('x')))
    for (const session of sessions) expect(session).to.deep.equal({ n: 1 })
    expect(new Set(sessions).size, 'an object for each caller').to.equal(200)
    // A backend reports its scans when it is idle or ends.
    await a.close()
    await until(async () => {
      const [after] = await sql<{ n: number }>(
        url,
        `select coalesce(sum(seq_scan + idx_scan), 0)::int as n from pg_stat_user_tables where relname = 'session'`,
      )
      return (after?.n as number) > (before[0]?.n as number)
    })
    const [after] = await sql<{ n: number }>(
      url,
      `select coalesce(sum(seq_scan + idx_scan), 0)::int as n from pg_stat_user_tables where relname = 'session'`,
    )
    expect((after?.n as number) - (before[0]?.n as number)).to.be.below(20)
  })

  it('are notified of the changes of koa-pg-session on a table that they share', async () => {
    await sql(
      url,
      `create table session (id text not null primary key, expiry timestamp not null, session json)`,
    )
    const a = await instance({ hashIds: false })
    await a.set('koa:sess:x', { n: 1 }, 600_000)
    await a.get('koa:sess:x')
    await sql(
      url,
      `update session set session = '{"n": 2}', expiry = now() + interval '1 hour' where id = 'koa:sess:x'`,
    )
    await until(async () => (await a.get('koa:sess:x'))?.n === 2)
    await sql(url, `delete from session where id = 'koa:sess:x'`)
    await until(async () => (await a.get('koa:sess:x')) === undefined)
  })

  it('work without triggers if the role may not create them, and report that in stats()', async () => {
    await instance()
    await sql(
      url,
      `do $$ begin if not exists (select from pg_roles where rolname = 'no_triggers') then create role no_triggers login password 'pw'; end if; end $$;
      drop table session; create table session (id text primary key, expiry timestamptz not null, session json, user_id text,
      created_at timestamptz not null default now(), last_access timestamptz not null default now(), version bigint not null);
      grant select, insert, update, delete on session to no_triggers`,
    )
    const a = await instance({}, at(url, { user: 'no_triggers', password: 'pw' }))
    const b = await instance({}, at(url, { user: 'no_triggers', password: 'pw' }))
    expect((await a.stats()).triggers).to.equal(false)
    await a.set('x', { n: 1 })
    await b.get('x')
    await a.set('x', { n: 2 })
    await until(async () => (await b.get('x'))?.n === 2)
  })

  it('listen on a dedicated connection, whatever they use for queries', async () => {
    const pool = new pg.Pool({ connectionString: url })
    const viaPool = await instance({}, pool as unknown as string)
    const viaFunction = await instance({ listen: url }, ((text: string, values: unknown[]) =>
      pool.query(text, values)) as unknown as string)
    await viaPool.set('x', { n: 1 })
    expect(await viaFunction.get('x')).to.deep.equal({ n: 1 })
    await viaPool.set('x', { n: 2 })
    await until(async () => (await viaFunction.get('x'))?.n === 2)
    await viaPool.close()
    await viaFunction.close()
    await pool.end()
  })

  const withoutNotifications: [string, (url: string) => Promise<PgStore>, RegExp][] = [
    [
      'a query function',
      async (url) => new PgStore(async (text, values) => sql(url, text, values)),
      /a query function cannot listen. Set the option "listen"/,
    ],
    ['listen: false', async (url) => new PgStore(url, { listen: false }), /the option "listen" is false/],
    [
      'a table without versions',
      async (url) => {
        await sql(url, 'create table session (id text primary key, expiry timestamp not null, session json)')
        // Otherwise a second warning says that koa-pg-session may still need its raw ids.
        await sql(url, `comment on column session.id is 'session id'`)
        return new PgStore(url, { create: false })
      },
      /no column "version"/,
    ],
  ]
  for (const [what, makeStore, warning] of withoutNotifications)
    it(`do not cache with ${what}, and warn once`, async () => {
      const store = await makeStore(url)
      opened.push(store)
      const warnings: string[] = []
      store.on('warning', (error) => warnings.push(error.message))
      await store.set('x', { n: 1 })
      await sql(url, `update session set session = '{"n": 2}'`)
      expect(await store.get('x')).to.deep.equal({ n: 2 })
      expect((await store.stats()).cache).to.include({
        hits: 0,
        size: 0,
        trusted: false,
        lastHeartbeatAge: undefined,
      })
      expect(warnings).to.have.length(1)
      expect(warnings[0]).to.match(warning)
    })

  it('cache for cache.ttl if it is set and no notifications can arrive', async () => {
    const store = new PgStore(url, { listen: false, cache: { ttl: 400 } })
    opened.push(store)
    store.on('warning', (error) => expect.fail(error.message))
    await store.set('x', { n: 1 })
    await sql(url, `update session set session = '{"n": 2}'`)
    expect(await store.get('x')).to.deep.equal({ n: 1 })
    await until(async () => (await store.get('x'))?.n === 2)
  })

  for (const cache of [false, { ttl: 0 }] as const)
    it(`query the database every time with cache: ${JSON.stringify(cache)}`, async () => {
      const store = new PgStore(url, { cache })
      opened.push(store)
      await store.set('x', { n: 1 })
      await sql(url, `update session set session = '{"n": 2}'`)
      expect(await store.get('x')).to.deep.equal({ n: 2 })
      expect((await store.stats()).cache).to.equal(false)
      expect(
        await sql(
          url,
          `select from pg_stat_activity where application_name = 'koa-pg-store listener' and datname = current_database()`,
        ),
      ).to.have.length(0)
    })

  it('notify with a second statement in the transaction if the table is distributed by Citus', async () => {
    const { connect } = await import('../../lib/postgres/connect.js')
    const { SessionQueries } = await import('../../lib/repository/session-queries.js')
    const { SessionStatements } = await import('../../lib/repository/session-statements.js')
    const a = await instance()
    await a.set('x', { n: 1 })
    await a.get('x')
    const connection = connect(url, { warn: () => undefined })
    const columns = new Set(['id', 'expiry', 'session', 'user_id', 'created_at', 'last_access', 'version'])
    const table = {
      name: '"public"."session"',
      columns,
      hasRawIds: false,
      insertsRawIds: false,
      keepsRawIds: false,
      convertsRawIds: false,
      hasHashedIds: true,
      suitsOldSoftware: false,
      hasTriggers: false,
      isDistributed: true,
      canFlush: false,
      lacksUserIndex: false,
      hasPages: false,
      isLocked: false,
    }
    const channel = channelOf({ schema: 'public', table: 'session' })
    const limits = { maxLifetime: undefined, idleTimeout: undefined, hashIds: true }
    const statements = new SessionStatements(table, limits, channel)
    const queries = new SessionQueries(connection, table, channel, statements)
    const id = `sha256:${digestOf('x')}`
    const [changed] = await queries.write([{ id, json: '{"n":2}', ttlMs: 60_000, userId: undefined }])
    expect(changed?.version).to.be.above(0)
    expect(queries.announced).to.equal(1)
    await until(async () => (await a.get('x'))?.n === 2)
    await queries.destroyAll([id])
    await until(async () => (await a.get('x')) === undefined)
    expect(await queries.destroyAll([id])).to.deep.equal([])
    await connection.end()
  })
})
