import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { Listener } from '../../lib/notifications/listener.js'
import { channelOf, payloads, readPayload, type SessionChange } from '../../lib/notifications/payload.js'
import { digestOf } from '../../lib/session/session-id.js'
import { startProxy } from '../helpers/proxy.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Hears what is notified in a database, as any client may. */
async function eavesdrop(
  url: string,
  table = 'session',
): Promise<{ payloads: string[]; end(): Promise<void> }> {
  const client = new pg.Client(url)
  await client.connect()
  const heard: string[] = []
  client.on('notification', ({ payload }) => {
    if (!payload?.startsWith('beat ')) heard.push(payload ?? '')
  })
  await client.query(`listen ${channelOf({ schema: 'public', table })}`)
  return { payloads: heard, end: () => client.end() }
}

describe('instances on one table', () => {
  let url: string
  const open: PgStore[] = []
  beforeEach(async () => {
    url = await freshDatabase()
  })
  afterEach(async () => {
    await Promise.all(open.splice(0).map((store) => store.close()))
  })

  /** A store whose cache is trusted. */
  async function instance(options: PgStoreOptions = {}, connection = url): Promise<PgStore> {
    const store = new PgStore(connection, options)
    open.push(store)
    const trusted = new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    await store.setup()
    await trusted
    return store
  }

  /** What a store answers from memory: the row is locked away from whoever would ask the database. */
  const isCached = async (store: PgStore, sid: string): Promise<boolean> => {
    const cache = (await store.stats()).cache
    const before = cache ? cache.hits : 0
    await store.get(sid)
    const after = (await store.stats()).cache
    return after !== false && after.hits === before + 1
  }

  it('answer from memory what they have read or written', async () => {
    const [a, b] = [await instance(), await instance()]
    await a.set('x', { n: 1 })
    expect(await isCached(a, 'x')).to.equal(true)
    expect(await isCached(b, 'x')).to.equal(false)
    expect(await isCached(b, 'x')).to.equal(true)
    expect(await b.get('x')).to.deep.equal({ n: 1 })
    // Past the cache, one call alone.
    await sql(url, `alter table session disable trigger user; update session set session = '{"n": 2}'`)
    expect(await b.get('x')).to.deep.equal({ n: 1 })
    expect(await b.get('x', { fresh: true })).to.deep.equal({ n: 2 })
  })

  it('forget at once what another sets or destroys', async () => {
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

  const outside: [string, string, unknown][] = [
    ['an update of the session', `update session set session = '{"n": "psql"}'`, { n: 'psql' }],
    ['an update of the expiry', `update session set expiry = now()`, undefined],
    ['a delete', 'delete from session', undefined],
    ['a truncate', 'truncate session', undefined],
    ['an update to null', 'update session set session = null', undefined],
  ]
  for (const hashIds of [true, false])
    for (const [what, statement, expected] of outside)
      it(`hear of ${what} in psql (hashIds: ${hashIds})`, async () => {
        const stores = [await instance({ hashIds }), await instance({ hashIds })]
        await stores[0]?.set('x', { n: 1 })
        for (const store of stores) await store.get('x')
        await sql(url, statement)
        for (const store of stores)
          await until(async () => JSON.stringify(await store.get('x')) === JSON.stringify(expected))
      })

  it('save over what was changed in psql, and hear of that too', async () => {
    const [a, b] = [await instance(), await instance()]
    await a.set('x', { n: 1 })
    await b.get('x')
    await sql(url, `update session set session = '{"n": "psql"}'`)
    await a.set('x', { n: 2 })
    await until(async () => (await b.get('x'))?.n === 2)
  })

  it('tell nothing of a first save or a touch, and their own changes once', async () => {
    const a = await instance()
    const ear = await eavesdrop(url)
    await a.set('x', { n: 1 })
    await a.touch('x', 600_000)
    await a.set('x', { n: 2 })
    await a.destroy('x')
    await a.destroy('x')
    await a.set('x', { n: 3 })
    await a.clearCache()
    await until(() => ear.payloads.includes('flush'))
    expect(ear.payloads).to.have.length(3)
    const notices = ear.payloads.slice(0, 2).map(readPayload) as SessionChange[][]
    for (const notice of notices) expect(notice[0]?.digest).to.equal(digestOf('x'))
    expect(notices[1]?.[0]?.version).to.be.greaterThan(notices[0]?.[0]?.version as number)
    await ear.end()
  })

  it('hold nothing in a payload that opens a session', async () => {
    for (const hashIds of [true, false]) {
      const table = `secret_${hashIds}`
      const a = await instance({ hashIds, table })
      const ear = await eavesdrop(url, table)
      await a.set('OpenSesame', { a: 'Xyzzy' })
      await a.set('OpenSesame', { a: 'Xyzzy2' })
      await sql(url, `update ${table} set session = '{"a":"Xyzzy3"}'`)
      await a.destroy('OpenSesame')
      await until(() => ear.payloads.length === 3)
      for (const payload of ear.payloads) {
        expect(payload).not.to.match(/OpenSesame|Xyzzy/)
        expect(await a.get(payload)).to.equal(undefined)
        expect(await a.get(payload.slice(0, 43))).to.equal(undefined)
        expect(await a.get(`sha256:${payload.slice(0, 43)}`)).to.equal(undefined)
      }
      await ear.end()
    }
  })

  it('hear of 10,000 sessions that one statement destroys', async () => {
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
      const found = await Promise.all(sids.slice(0, 2_000).map((sid) => store.get(sid)))
      expect(found.filter(Boolean)).to.deep.equal([])
      const { cache } = await store.stats()
      expect(cache).to.include({ size: 0 })
    }
  })

  it('empty every cache by clearCache', async () => {
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

  it("read again what others changed, with propagate: 'update', and only what is cached", async () => {
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

  it('share one read of a session that is missing from the cache', async () => {
    const a = await instance()
    const other = new PgStore(url)
    open.push(other)
    await other.set('x', { n: 1 })
    const before = await sql<{ n: number }>(
      url,
      `select coalesce(sum(seq_scan + idx_scan), 0)::int as n from pg_stat_user_tables where relname = 'session'`,
    )
    const found = await Promise.all(Array.from({ length: 200 }, () => a.get('x')))
    for (const session of found) expect(session).to.deep.equal({ n: 1 })
    expect(new Set(found).size, 'each its own').to.equal(200)
    // The server counts a backend's scans when that is idle or ends.
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

  it('hear of the changes of koa-pg-session on a table that they share', async () => {
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

  it('work without triggers where the role may not make them, and say so', async () => {
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

  it('listen by a connection of their own, whatever form the other has', async () => {
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

  const deaf: [string, (url: string) => Promise<PgStore>, RegExp][] = [
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
        return new PgStore(url, { create: false })
      },
      /no column "version"/,
    ],
  ]
  for (const [what, make, why] of deaf)
    it(`are not cached with ${what}, and warn once`, async () => {
      const store = await make(url)
      open.push(store)
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
      expect(warnings[0]).to.match(why)
    })

  it('are cached for the ttl alone where that was set and nothing can be heard', async () => {
    const store = new PgStore(url, { listen: false, cache: { ttl: 400 } })
    open.push(store)
    store.on('warning', (error) => expect.fail(error.message))
    await store.set('x', { n: 1 })
    await sql(url, `update session set session = '{"n": 2}'`)
    expect(await store.get('x')).to.deep.equal({ n: 1 })
    await until(async () => (await store.get('x'))?.n === 2)
  })

  for (const cache of [false, { ttl: 0 }] as const)
    it(`ask the database every time with cache: ${JSON.stringify(cache)}`, async () => {
      const store = new PgStore(url, { cache })
      open.push(store)
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

  it('notify by a statement of its own in the transaction where Citus has spread the table', async () => {
    const { connect } = await import('../../lib/postgres/connect.js')
    const { SessionQueries } = await import('../../lib/repository/session-queries.js')
    const { SessionStatements } = await import('../../lib/repository/session-statements.js')
    const a = await instance()
    await a.set('x', { n: 1 })
    await a.get('x')
    const connection = connect(url, () => undefined, true)
    const columns = new Set(['id', 'expiry', 'session', 'user_id', 'created_at', 'last_access', 'version'])
    const table = {
      name: '"public"."session"',
      columns,
      hasRawIds: false,
      hasTriggers: false,
      isDistributed: true,
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
    expect(changed).to.include({ notify: true })
    await until(async () => (await a.get('x'))?.n === 2)
    await queries.destroy(id)
    await until(async () => (await a.get('x')) === undefined)
    expect(await queries.destroy(id)).to.equal(undefined)
    await connection.end()
  })
})

describe('a table that is not quite as the store makes it', () => {
  /** Two stores whose caches are trusted. */
  async function pair(url: string): Promise<[PgStore, PgStore]> {
    const stores: [PgStore, PgStore] = [new PgStore(url), new PgStore(url)]
    for (const store of stores) {
      const trusted = new Promise((resolve) => store.once('trust', () => resolve(undefined)))
      await store.setup()
      await trusted
    }
    return stores
  }

  it('notifies of changes to sessions from the future: the clock of the server was put back', async () => {
    const url = await freshDatabase()
    const [a, b] = await pair(url)
    await a.set('x', { n: 1 })
    await sql(url, `update session set created_at = created_at + interval '1 hour'`)
    await until(async () => (await b.get('x'))?.n === 1)
    await a.set('x', { n: 2 })
    await until(async () => (await b.get('x'))?.n === 2)
    await a.close()
    await b.close()
  })

  it('has its own channel if it is partitioned, for changes in psql too', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `create table session (id text primary key, expiry timestamptz not null, session json, user_id text,
         created_at timestamptz not null default now(), last_access timestamptz not null default now(), version bigint not null)
         partition by hash (id);
       create table session_0 partition of session for values with (modulus 2, remainder 0);
       create table session_1 partition of session for values with (modulus 2, remainder 1)`,
    )
    const [a, b] = await pair(url)
    expect((await a.stats()).triggers).to.equal(true)
    for (const sid of ['x', 'y', 'z']) {
      await a.set(sid, { n: 1 })
      await b.get(sid)
    }
    await sql(url, `update session set session = '{"n": 2}'`)
    for (const sid of ['x', 'y', 'z']) await until(async () => (await b.get(sid))?.n === 2)
    await sql(url, 'delete from session')
    for (const sid of ['x', 'y', 'z']) await until(async () => (await b.get(sid)) === undefined)
    await a.close()
    await b.close()
  })

  it('is read where a session never expires', async () => {
    const url = await freshDatabase()
    const [a, b] = await pair(url)
    await a.set('x', { n: 1 })
    await sql(url, `update session set expiry = 'infinity'`)
    expect(await b.get('x')).to.deep.equal({ n: 1 })
    await b.touch('x', 60_000)
    await b.set('x', { n: 2 }, 60_000)
    expect(await b.get('x', { fresh: true })).to.deep.equal({ n: 2 })
    await a.close()
    await b.close()
  })

  it('answers what is nested too deeply to be copied, every time', async () => {
    const url = await freshDatabase()
    const [a, b] = await pair(url)
    await a.set('x', { n: 1 })
    const depth = 6_000
    await sql(url, 'update session set session = $1::text::json', [
      `{"a":${'['.repeat(depth)}${']'.repeat(depth)}}`,
    ])
    await until(async () => (await b.get('x'))?.a !== undefined)
    for (let i = 0; i < 3; i++) expect(await b.get('x')).to.have.property('a')
    await a.close()
    await b.close()
  })

  it('runs no function that a stranger put in its way', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `do $$ begin if not exists (select from pg_roles where rolname = 'mallory') then create role mallory login password 'pw'; end if; end $$;
       grant create on schema public to mallory;
       create table session (id text not null primary key, expiry timestamp not null, session json);
       create table stolen (who text, what text); grant all on stolen to mallory;
       insert into session select sid, now() + interval '1 hour', '{"n": 1}' from unnest(array['koa:sess:raw', 'koa:sess:unread']) sid`,
    )
    const planted = (name: string, args: string, result: string) =>
      `create function public.${name}(${args}) returns ${result} language plpgsql as
       $f$ begin insert into public.stolen values (current_user, '${name}'); return null; end $f$;`
    await sql(
      at(url, { user: 'mallory', password: 'pw' }),
      planted('convert_to', 'text, text', 'bytea') +
        planted('convert_to', 'text, unknown_text', 'bytea').replace('unknown_text', 'varchar') +
        planted('col_description', 'oid, smallint', 'text') +
        planted('format_type', 'oid, text', 'text') +
        planted('koa_pg_store_session', '', 'text'),
    )
    const raw = new PgStore(url, { hashIds: false, cache: false })
    expect(await raw.get('koa:sess:raw')).to.deep.equal({ n: 1 })
    await raw.set('koa:sess:raw', { n: 2 })
    await sql(url, `update session set session = '{"n": 3}'`)
    await raw.close()
    const hashed = new PgStore(url, { cache: false })
    expect(await hashed.get('koa:sess:raw')).to.deep.equal({ n: 3 })
    await until(async () => (await sql(url, `select from session where id like 'koa:%'`)).length === 0)
    await hashed.close()
    expect(await sql(url, 'select * from stolen')).to.deep.equal([])
  })

  it('keeps a view on a column, and is upgraded for the rest', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `create table session (id text not null primary key, expiry timestamp not null, session json); create view ends as select expiry from session`,
    )
    const store = new PgStore(url, { hashIds: false })
    const warnings: string[] = []
    store.on('warning', (error) => warnings.push(error.message))
    await store.set('koa:sess:x', { n: 1 })
    expect(await store.get('koa:sess:x')).to.deep.equal({ n: 1 })
    expect((await store.stats()).triggers).to.equal(true)
    expect(warnings).to.deep.equal([
      `"public"."session" is used as it is, without timestamptz for expiry: at a quiet time, run psql -v schema=public -v table=session -f node_modules/koa-pg-store/sql/004-expiry.sql`,
    ])
    await store.close()
  })
})

describe('a payload', () => {
  it('stays below 8000 bytes, however many sessions it names', () => {
    const changes = Array.from({ length: 10_000 }, (_, n) => ({
      digest: digestOf(`${n}`),
      version: 1_795_244_662_981_669 + n,
    }))
    const list = payloads(changes)
    for (const payload of list) expect(Buffer.byteLength(payload)).to.be.below(8_000)
    expect(list.length).to.be.below(80)
    expect(list.flatMap((payload) => readPayload(payload) as typeof changes)).to.deep.equal(changes)
    expect(payloads([])).to.deep.equal([])
  })

  it('that is not one of ours means that anything may have changed', () => {
    for (const text of ['', 'flush', 'x', `${'A'.repeat(43)}`, `${'A'.repeat(43)}zz`, 'a,b'])
      expect(readPayload(text), text).to.equal('flush')
  })
})

describe('the listener', () => {
  const alive = (url: string) =>
    sql<{ pid: number }>(
      url,
      `select pid from pg_stat_activity where application_name = 'koa-pg-store listener' and datname = current_database()`,
    )

  it('comes back whenever its backend is ended, and what changed meanwhile is not answered', async () => {
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
      // Nobody is told of this change: only the flush on the way back can make it seen.
      for (const { pid } of await alive(url)) await sql(url, 'select pg_terminate_backend($1)', [pid])
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
    expect(await until(async () => (await alive(url)).length === 0)).to.equal(undefined)
  })

  it('that hears nothing over an open connection is not trusted after maxStaleness', async () => {
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
    await store.setup()
    await new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    await other.set('x', { n: 1 })
    await store.get('x')
    proxy.stall()
    const stalled = performance.now()
    await other.set('x', { n: 2 })
    // However busy the machine: an old answer may not be later than the bound after the silence began.
    for (;;) {
      const asked = performance.now()
      const found = await store.get('x')
      if (found?.n === 2) break
      expect(asked - stalled).to.be.below(maxStaleness)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await until(() => distrusted)
    await other.set('x', { n: 3 })
    expect(await store.get('x'), 'on the database meanwhile').to.deep.equal({ n: 3 })
    const trusted = new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    proxy.resume()
    await trusted
    expect(await store.get('x')).to.deep.equal({ n: 3 })
    await store.close()
    await other.close()
    await proxy.close()
  })

  it('that LISTENs where notifications do not come through is not trusted, and says what to do, once', async () => {
    const url = await freshDatabase()
    // Another database, as a pooler that hands LISTEN to any connection: accepted, and never heard of again.
    const elsewhere = await freshDatabase()
    const warnings: string[] = []
    const store = new PgStore(url, { listen: elsewhere, cache: { maxStaleness: 300 } })
    store.on('warning', (error) => warnings.push(error.message))
    store.on('trust', () => expect.fail('it must not trust'))
    await store.set('x', { n: 1 })
    await until(() => warnings.length > 0)
    expect(warnings).to.have.length(1)
    expect(warnings[0]).to.match(
      /a heartbeat did not come back within 300 ms. If it goes through a pooler, set the option "listen"/,
    )
    expect(await store.get('x')).to.deep.equal({ n: 1 })
    await store.close()
  })

  it('sends its heartbeats by the way that changes take: on another server nothing would come back', async () => {
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
    await store.setup()
    await new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    await store.set('x', { n: 1 })
    // As by DNS after a failover, while the listener's connection stays.
    current = elsewhere
    await until(() => distrusted)
    expect(await store.get('x')).to.equal(undefined)
    await store.close()
    await other.close()
    for (const pool of pools.values()) await pool.end()
  })

  it('survives what throws while it connects, and an application whose handler throws', async () => {
    const url = await freshDatabase()
    let broken = true
    const store = new PgStore(url, {
      listen: {
        connectionString: url,
        // As a certificate that is being replaced, or a cloud connector.
        stream: () => {
          if (broken) throw new Error('no such file')
          return undefined
        },
      },
    })
    const warnings: string[] = []
    store.on('warning', (error) => warnings.push(error.message))
    const trusted = new Promise((resolve) => store.once('trust', () => resolve(undefined)))
    await store.set('x', { n: 1 })
    await until(() => warnings.length > 0)
    expect(warnings[0]).to.match(/LISTEN connection lost.*no such file/)
    broken = false
    await trusted
    await store.close()
  })

  it('is not trusted when the wall clock shows that the machine slept', async () => {
    const url = new URL(await freshDatabase())
    const listener = new Listener({
      config: { connectionString: url.href },
      channel: 'slept',
      maxStaleness: 5_000,
      notify: (payload) => sql(url.href, 'select pg_notify($1, $2)', ['slept', payload]),
      onNotification: () => undefined,
      onTrust: () => undefined,
      onDistrust: () => undefined,
      warn: () => undefined,
    })
    listener.start()
    await until(() => listener.isTrusted)
    const now = Date.now
    try {
      Date.now = () => now() + 6_000
      expect(listener.isTrusted).to.equal(false)
    } finally {
      Date.now = now
    }
    listener.stop()
    expect(listener.isTrusted).to.equal(false)
  })
})
