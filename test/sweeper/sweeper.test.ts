import { expect } from 'chai'
import pg from 'pg'
import {
  type ConnectionSource,
  type ExpiredSession,
  PgStore,
  type PgStoreOptions,
  type SweepResult,
} from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Statements that insert `count` rows; the second one for tables with versions. */
const insert = (id: string, count: number, expiry: string): string =>
  `insert into session (id, expiry, session) select '${id}-' || i, now() + interval '${expiry}', '{"a":1}'
   from generate_series(1, ${count}) i`
const fill = (count: number, expiry = '-1 second', id = 'expired'): string =>
  `insert into session (id, expiry, session, version) select '${id}-' || i, now() + interval '${expiry}', '{"a":1}', 1
   from generate_series(1, ${count}) i`
const isSession = `id not like 'sha256:koa-pg-store-sweep%'`

/** Returns the number of rows, besides the record of the last sweep. */
async function rows(url: string, where = 'true'): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    `select count(*)::int as n from session where ${isSession} and ${where}`,
  )
  return row?.n as number
}

/** A promise that the test resolves. */
class Gate {
  open = (): void => undefined
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve
  })
}

const lockHolders = `select a.application_name as name from pg_locks l join pg_stat_activity a using (pid)
  join pg_database d on d.oid = l.database and d.datname = current_database()
  where locktype = 'advisory' and objsubid = 2 and l.granted`

const noSchedule: PgStoreOptions = { cleanup: false, hashIds: false, cache: false }

describe('sweep()', () => {
  const opened: { close(): unknown }[] = []
  /** Returns a store without a schedule, on a new database; closed after the test. */
  async function open(
    options: PgStoreOptions = {},
    source?: (url: string) => ConnectionSource,
    prepare?: string,
  ): Promise<{ url: string; store: PgStore; warnings: Error[] }> {
    const url = await freshDatabase()
    if (prepare) await sql(url, prepare)
    const store = new PgStore(source?.(url) ?? url, { ...noSchedule, ...options })
    const warnings: Error[] = []
    store.on('warning', (error) => warnings.push(error))
    opened.push(store)
    await store.setup()
    return { url, store, warnings }
  }
  afterEach(async () => {
    for (const resource of opened.splice(0)) await resource.close()
  })

  const queryFunction = (url: string): ConnectionSource => {
    const pool = new pg.Pool({ connectionString: url })
    opened.push({ close: () => pool.end() })
    return (text, values) => pool.query(text, values)
  }
  const plain = 'create table session (id text primary key, expiry timestamp not null, session json)'
  const partitioned = `create table session (id text primary key, expiry timestamptz not null, session json,
    user_id text, created_at timestamptz not null default now(), last_access timestamptz not null default now(),
    version bigint not null default 0) partition by hash (id);
    create table session_0 partition of session for values with (modulus 2, remainder 0);
    create table session_1 partition of session for values with (modulus 2, remainder 1)`
  const kinds: [string, PgStoreOptions, ((url: string) => ConnectionSource) | undefined, string?][] = [
    ['its own table', {}, undefined],
    [
      'its own table with a pool of one connection',
      {},
      (url) => {
        const pool = new pg.Pool({ connectionString: url, max: 1 })
        opened.push({ close: () => pool.end() })
        return pool
      },
    ],
    ['its own table through a query function', {}, queryFunction],
    ['a plain table of koa-pg-session', { create: false }, undefined, plain],
    ['such a table through a query function', { create: false }, queryFunction, plain],
    ['a partitioned table', { create: false }, undefined, partitioned],
    ['a partitioned table through a query function', { create: false }, queryFunction, partitioned],
  ]
  for (const [kind, options, source, prepare] of kinds)
    for (const withHook of [false, true])
      it(`deletes expired rows of ${kind}, and no others${withHook ? ', after onExpired' : ''}`, async () => {
        const seen: ExpiredSession[] = []
        const onExpired = withHook ? (session: ExpiredSession) => seen.push(session) : undefined
        const cleanup = { cron: false as const, batchSize: 200, onExpired }
        const { url, store, warnings } = await open({ ...options, cleanup }, source, prepare)
        if (prepare === undefined) await sql(url, 'alter table session alter version set default 1')
        await sql(url, insert('expired', 1_000, '-1 second'))
        await sql(url, insert('active', 500, '1 hour'))
        await sql(
          url,
          `update session set session = null, expiry = now() - interval '1 second' where id = 'expired-7'`,
        )
        await sql(url, `update session set session = null where id = 'active-7'`)
        const result = await store.sweep()
        expect(result.deleted).to.equal(1_000)
        expect(result.batches).to.be.at.least(1)
        expect(result.ms).to.be.at.least(0)
        expect(await rows(url)).to.equal(500)
        expect(await rows(url, `id like 'active%'`)).to.equal(500)
        expect(await store.count()).to.equal(499)
        // A tombstone has no session to pass.
        if (withHook) expect(seen).to.have.length(999)
        expect((await store.sweep()).deleted).to.equal(0)
        expect(warnings).to.deep.equal([])
      })

  it('deletes sessions that idleTimeout or maxLifetime expired, and keeps tombstones for an hour', async () => {
    const { url, store } = await open({ idleTimeout: 60_000, maxLifetime: 3_600_000 })
    await sql(url, fill(4, '1 hour', 's'))
    await sql(
      url,
      `update session set last_access = now() - interval '61 seconds' where id in ('s-1', 's-4')`,
    )
    await sql(url, `update session set created_at = now() - interval '61 minutes' where id = 's-2'`)
    await sql(url, `update session set session = null where id = 's-4'`)
    expect((await store.sweep()).deleted).to.equal(2)
    const remaining = await sql(url, `select id from session where ${isSession} order by 1`)
    expect(remaining).to.deep.equal([{ id: 's-3' }, { id: 's-4' }])
  })

  it('keeps an expired session for the grace period', async () => {
    const { url, store } = await open({ cleanup: { cron: false, grace: 60_000 } })
    await sql(url, fill(3, '-50 seconds', 'young'))
    await sql(url, fill(3, '-61 seconds', 'old'))
    expect((await store.sweep()).deleted).to.equal(3)
    expect(await rows(url, `id like 'young%'`)).to.equal(3)
    expect(await store.get('young-1')).to.equal(undefined)
  })

  it('sends no notifications', async () => {
    const { url, store } = await open({ idleTimeout: 60_000, cache: false })
    await sql(url, fill(50))
    await sql(url, fill(50, '1 hour', 'idle'))
    await sql(url, `update session set last_access = now() - interval '2 minutes' where id like 'idle%'`)
    const listener = new pg.Client(url)
    await listener.connect()
    const payloads: (string | undefined)[] = []
    listener.on('notification', ({ payload }) => payloads.push(payload))
    const [channel] = await sql(
      url,
      `select 'koa_pg_store_' || left(encode(sha256('public.session'), 'hex'), 16) as name`,
    )
    await listener.query(`listen ${channel?.name}`)
    expect((await store.sweep()).deleted).to.equal(100)
    await sql(url, fill(1, '1 hour', 'other'))
    await sql(url, 'delete from session')
    await until(() => payloads.length > 0)
    // Only of the row that was deleted outside the store.
    expect(payloads).to.have.length(1)
    await listener.end()
  })

  it('shares one sweep among concurrent calls', async () => {
    const { url, store } = await open()
    const swept: SweepResult[] = []
    store.on('sweep', (result) => swept.push(result))
    await sql(url, fill(1_000))
    const results = await Promise.all([store.sweep(), store.sweep(), store.sweep()])
    expect(results.map(({ deleted }) => deleted)).to.deep.equal([1_000, 1_000, 1_000])
    expect(swept).to.deep.equal([results[0]])
  })

  for (const [form, source] of [
    ['pool', undefined],
    ['query function', queryFunction],
  ] as const)
    it(`deletes nothing while another instance is sweeping (${form})`, async () => {
      const { url, store } = await open({}, source)
      await sql(url, fill(10))
      const gate = new Gate()
      const other = new PgStore(url, {
        ...noSchedule,
        cleanup: { cron: false, onExpired: () => gate.opened },
      })
      const running = other.sweep()
      await until(async () => (await sql(url, lockHolders)).length > 0)
      expect(await store.sweep()).to.deep.equal({ deleted: 0, batches: 0, ms: 0 })
      gate.open()
      expect((await running).deleted).to.equal(10)
      await other.close()
      await sql(url, fill(10))
      expect((await store.sweep()).deleted).to.equal(10)
    })

  it('holds no rows while it waits for onExpired', async () => {
    const gate = new Gate()
    const { url, store } = await open({ cleanup: { cron: false, onExpired: () => gate.opened } })
    await sql(url, fill(1))
    const running = store.sweep()
    const holder = `application_name = 'koa-pg-store sweeper' and state = 'idle in transaction' and backend_xid is null and backend_xmin is null`
    await until(async () => (await sql(url, `select from pg_stat_activity where ${holder}`)).length === 1)
    // Another transaction gets the row at once.
    await sql(url, `begin; set local lock_timeout = '10s'; update session set version = version; commit`)
    gate.open()
    await running
  })

  it('skips a row that another transaction has locked, without waiting for it', async () => {
    const { url, store } = await open()
    await sql(url, fill(100))
    const holder = new pg.Client(url)
    await holder.connect()
    await holder.query(`begin; update session set expiry = now() + interval '1 hour' where id = 'expired-50'`)
    expect((await store.sweep()).deleted).to.equal(99)
    await holder.query('commit')
    await holder.end()
    expect(await store.get('expired-50')).to.deep.equal({ a: 1 })
    expect((await store.sweep()).deleted).to.equal(0)
  })

  it('keeps a session whose touch commits while the sweep waits for the row', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    // The sweeper waits for locks much longer than usual.
    const store = new PgStore(
      (text, values) => pool.query(text.replace(`'50ms'`, `'1min'`), values),
      noSchedule,
    )
    await store.setup()
    await sql(url, fill(100))
    const holder = new pg.Client(url)
    await holder.connect()
    await holder.query(`begin; update session set expiry = now() + interval '1 hour' where id = 'expired-50'`)
    const running = store.sweep()
    await until(
      async () =>
        (
          await sql(
            url,
            `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%delete%'`,
          )
        ).length > 0,
    )
    await holder.query('commit')
    expect((await running).deleted).to.equal(99)
    expect(await store.get('expired-50')).to.deep.equal({ a: 1 })
    await holder.end()
    await store.close()
    await pool.end()
  })

  it('passes each session to onExpired and the event, with its data and without its id', async () => {
    const seen: ExpiredSession[] = []
    const { url, store } = await open({
      cleanup: { cron: false, onExpired: (session) => seen.push(session) },
    })
    const emitted: ExpiredSession[] = []
    store.on('expire', (session) => emitted.push(session))
    await store.set('koa:sess:OpenSesame', { cart: [1, 2] }, 60_000)
    await sql(
      url,
      `update session set expiry = now() - interval '1 second', user_id = 'ann', version = version + 1`,
    )
    await store.sweep()
    expect(seen).to.have.length(1)
    const [
      { session, userId, createdAt, lastAccessedAt: lastAccess, expiresAt: expiry } = {} as ExpiredSession,
    ] = seen
    expect({ session, userId }).to.deep.equal({ session: { cart: [1, 2] }, userId: 'ann' })
    for (const date of [createdAt, lastAccess, expiry])
      expect(Date.now() - Number(date)).to.be.within(0, 120_000)
    expect(JSON.stringify(seen)).not.to.match(/OpenSesame|sha256/)
    expect(emitted).to.deep.equal(seen)
    expect(await rows(url)).to.equal(0)
  })

  it('keeps a session for which onExpired throws, warns without its id, and passes it again at the next sweep', async () => {
    let broken = true
    const seen: unknown[] = []
    const { url, store, warnings } = await open({
      cleanup: {
        cron: false,
        onExpired: async ({ session }) => {
          if (broken && session.n === 3) throw new Error('the mail server is down (OpenSesame-3)')
          seen.push(session.n)
        },
      },
    })
    await sql(
      url,
      `insert into session (id, expiry, session, version) select 'OpenSesame-' || i, now() - interval '1 second',
       ('{"n":' || i || '}')::json, 1 from generate_series(1, 4) i`,
    )
    expect((await store.sweep()).deleted).to.equal(3)
    expect(await rows(url)).to.equal(1)
    expect(warnings.map(({ message }) => message)).to.deep.equal([
      'onExpired failed for 1 expired session, kept for the next sweep: the mail server is down (…)',
    ])
    broken = false
    expect((await store.sweep()).deleted).to.equal(1)
    expect(seen).to.deep.equal([1, 2, 4, 3])
  })

  it('keeps a session that was saved again while onExpired ran', async () => {
    const { url, store } = await open({
      cleanup: { cron: false, onExpired: () => other.set('expired-1', { fresh: true }, 1) },
    })
    const other = new PgStore(url, noSchedule)
    opened.push(other)
    await sql(url, fill(1))
    // The new session has expired by now too, but onExpired hasn't received it.
    expect((await store.sweep()).deleted).to.equal(0)
    expect(await rows(url)).to.equal(1)
  })

  it('lets onExpired use the store, and close it, with a pool of one connection', async () => {
    const url = await freshDatabase()
    const store: PgStore = new PgStore(
      { connectionString: url, max: 1 },
      {
        ...noSchedule,
        cleanup: {
          cron: false,
          onExpired: async () => {
            await store.set('active', { a: 1 })
            void store.close()
          },
        },
      },
    )
    await store.setup()
    await sql(url, fill(200))
    expect((await store.sweep()).deleted).to.equal(1)
    await store.close()
    expect(await rows(url, `id = 'active'`)).to.equal(1)
  })

  it('continues after a slow onExpired', async () => {
    let slow = true
    const onExpired = async (): Promise<void> => {
      if (slow) await new Promise((resolve) => setTimeout(resolve, 1_200))
      slow = false
    }
    const { url, store } = await open({ cleanup: { cron: false, onExpired } })
    await sql(url, fill(500))
    expect((await store.sweep()).deleted).to.equal(500)
  })

  it('is ended by close() after the current batch', async () => {
    const { url, store } = await open({ cleanup: { cron: false, batchSize: 1 } })
    await sql(url, fill(20_000))
    const running = store.sweep()
    await until(async () => (await rows(url)) < 20_000)
    await store.close()
    const { deleted } = await running
    expect(deleted).to.be.within(1, 19_999)
    expect(await rows(url)).to.equal(20_000 - deleted)
    expect((await rejection(store.sweep())).message).to.equal("can't sweep: the session store is closed")
  })

  it('rejects if it loses its lock, and succeeds the next time', async () => {
    let kill = true
    const { url, store } = await open({
      cleanup: {
        cron: false,
        onExpired: async () => {
          if (kill)
            await sql(
              url,
              `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'koa-pg-store sweeper'`,
            )
          kill = false
        },
      },
    })
    await sql(url, fill(200))
    const error = await rejection(store.sweep())
    expect(error.message).to.match(/^can't sweep: /)
    expect((await store.sweep()).deleted + 200 - (await rows(url))).to.be.within(100, 400)
    expect(await rows(url)).to.equal(0)
  })

  it('pauses longer while the server is busy with other clients', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    const batches: { startedAt: number; endedAt: number }[] = []
    const store = new PgStore(
      async (text, values) => {
        const startedAt = performance.now()
        const result = await pool.query(text, values)
        if (text.includes('delete from')) batches.push({ startedAt, endedAt: performance.now() })
        return result
      },
      { ...noSchedule, cleanup: { cron: false, batchSize: 500 } },
    )
    await store.setup()
    await sql(url, fill(20_000))
    const other = sql(url, 'select pg_sleep(60)').catch(() => undefined)
    await until(
      async () => (await sql(url, `select from pg_stat_activity where wait_event = 'PgSleep'`)).length > 0,
    )
    batches.splice(0)
    expect((await store.sweep()).deleted).to.equal(20_000)
    // A busy machine makes pauses longer, never shorter, unless it stands still for a second.
    const rested = batches.filter(({ startedAt, endedAt }, n) => {
      const next = batches[n + 1]
      return next !== undefined && next.startedAt - endedAt > (endedAt - startedAt) * 1.5
    })
    expect(batches.length).to.be.above(10)
    expect(rested.length).to.be.above((batches.length - 1) * 0.75)
    await sql(url, `select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'`)
    await other
    await store.close()
    await pool.end()
  })

  it('needs no index on expiry or last_access, which every touch would have to update', async () => {
    const { url } = await open()
    const indexes = await sql(url, `select indexdef from pg_indexes where tablename = 'session'`)
    expect(indexes.map(({ indexdef }) => indexdef).join()).not.to.match(/expiry|last_access/)
  })
})
