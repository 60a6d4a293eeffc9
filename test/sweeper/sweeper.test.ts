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

/** Rows of a table: how they are filled, and how many are there beside the note of the last sweep. */
const insert = (id: string, count: number, expiry: string): string =>
  `insert into session (id, expiry, session) select '${id}-' || i, now() + interval '${expiry}', '{"a":1}'
   from generate_series(1, ${count}) i`
const fill = (count: number, expiry = '-1 second', id = 'over'): string =>
  `insert into session (id, expiry, session, version) select '${id}-' || i, now() + interval '${expiry}', '{"a":1}', 1
   from generate_series(1, ${count}) i`
const note = `id not like 'sha256:koa-pg-store-sweep%'`
async function rows(url: string, where = 'true'): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    `select count(*)::int as n from session where ${note} and ${where}`,
  )
  return row?.n as number
}

/** Where somebody waits until the test lets them go on. */
class Gate {
  open = (): void => undefined
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve
  })
}

const lockHolders = `select a.application_name as name from pg_locks l join pg_stat_activity a using (pid)
  join pg_database d on d.oid = l.database and d.datname = current_database()
  where locktype = 'advisory' and objsubid = 2 and l.granted`

const byHand: PgStoreOptions = { cleanup: false, hashIds: false, cache: false }

describe('sweep()', () => {
  const opened: { close(): unknown }[] = []
  /** A store that sweeps only when it is told to, on a database of its own; closed after the test. */
  async function open(
    options: PgStoreOptions = {},
    source?: (url: string) => ConnectionSource,
    prepare?: string,
  ): Promise<{ url: string; store: PgStore; warnings: Error[] }> {
    const url = await freshDatabase()
    if (prepare) await sql(url, prepare)
    const store = new PgStore(source?.(url) ?? url, { ...byHand, ...options })
    const warnings: Error[] = []
    store.on('warning', (error) => warnings.push(error))
    opened.push(store)
    await store.setup()
    return { url, store, warnings }
  }
  afterEach(async () => {
    for (const it of opened.splice(0)) await it.close()
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
    for (const tells of [false, true])
      it(`deletes from ${kind} what is over, and nothing else${tells ? ', after it was seen' : ''}`, async () => {
        const seen: ExpiredSession[] = []
        const onExpired = tells ? (session: ExpiredSession) => seen.push(session) : undefined
        const cleanup = { cron: false as const, batchSize: 200, onExpired }
        const { url, store, warnings } = await open({ ...options, cleanup }, source, prepare)
        if (prepare === undefined) await sql(url, 'alter table session alter version set default 1')
        await sql(url, insert('over', 1_000, '-1 second'))
        await sql(url, insert('alive', 500, '1 hour'))
        await sql(
          url,
          `update session set session = null, expiry = now() - interval '1 second' where id = 'over-7'`,
        )
        await sql(url, `update session set session = null where id = 'alive-7'`)
        const result = await store.sweep()
        expect(result.deleted).to.equal(1_000)
        expect(result.batches).to.be.at.least(1)
        expect(result.ms).to.be.at.least(0)
        expect(await rows(url)).to.equal(500)
        expect(await rows(url, `id like 'alive%'`)).to.equal(500)
        expect(await store.count()).to.equal(499)
        // A mark holds nothing that anybody could see.
        if (tells) expect(seen).to.have.length(999)
        expect((await store.sweep()).deleted).to.equal(0)
        expect(warnings).to.deep.equal([])
      })

  it('deletes what idleTimeout and maxLifetime have ended, and marks only when their hour is over', async () => {
    const { url, store } = await open({ idleTimeout: 60_000, maxLifetime: 3_600_000 })
    await sql(url, fill(4, '1 hour', 's'))
    await sql(
      url,
      `update session set last_access = now() - interval '61 seconds' where id in ('s-1', 's-4')`,
    )
    await sql(url, `update session set created_at = now() - interval '61 minutes' where id = 's-2'`)
    await sql(url, `update session set session = null where id = 's-4'`)
    expect((await store.sweep()).deleted).to.equal(2)
    const left = await sql(url, `select id from session where ${note} order by 1`)
    expect(left).to.deep.equal([{ id: 's-3' }, { id: 's-4' }])
  })

  it('leaves a session for the grace that is asked for', async () => {
    const { url, store } = await open({ cleanup: { cron: false, grace: 60_000 } })
    await sql(url, fill(3, '-50 seconds', 'young'))
    await sql(url, fill(3, '-61 seconds', 'old'))
    expect((await store.sweep()).deleted).to.equal(3)
    expect(await rows(url, `id like 'young%'`)).to.equal(3)
    expect(await store.get('young-1')).to.equal(undefined)
  })

  it('notifies nobody', async () => {
    const { url, store } = await open({ idleTimeout: 60_000, cache: false })
    await sql(url, fill(50))
    await sql(url, fill(50, '1 hour', 'idle'))
    await sql(url, `update session set last_access = now() - interval '2 minutes' where id like 'idle%'`)
    const listener = new pg.Client(url)
    await listener.connect()
    const heard: (string | undefined)[] = []
    listener.on('notification', ({ payload }) => heard.push(payload))
    const [channel] = await sql(
      url,
      `select 'koa_pg_store_' || left(encode(sha256('public.session'), 'hex'), 16) as name`,
    )
    await listener.query(`listen ${channel?.name}`)
    expect((await store.sweep()).deleted).to.equal(100)
    await sql(url, fill(1, '1 hour', 'other'))
    await sql(url, 'delete from session')
    await until(() => heard.length > 0)
    // Only what was deleted past the store.
    expect(heard).to.have.length(1)
    await listener.end()
  })

  it('shares one sweep among calls at the same time', async () => {
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
      const other = new PgStore(url, { ...byHand, cleanup: { cron: false, onExpired: () => gate.opened } })
      const under = other.sweep()
      await until(async () => (await sql(url, lockHolders)).length > 0)
      expect(await store.sweep()).to.deep.equal({ deleted: 0, batches: 0, ms: 0 })
      gate.open()
      expect((await under).deleted).to.equal(10)
      await other.close()
      await sql(url, fill(10))
      expect((await store.sweep()).deleted).to.equal(10)
    })

  it('holds no rows while it waits for onExpired', async () => {
    const gate = new Gate()
    const { url, store } = await open({ cleanup: { cron: false, onExpired: () => gate.opened } })
    await sql(url, fill(1))
    const under = store.sweep()
    const holder = `application_name = 'koa-pg-store sweeper' and state = 'idle in transaction' and backend_xid is null`
    await until(async () => (await sql(url, `select from pg_stat_activity where ${holder}`)).length === 1)
    // Whoever wants the row has it at once.
    await sql(url, `begin; set local lock_timeout = '10s'; update session set version = version; commit`)
    gate.open()
    await under
  })

  it('passes over a row that somebody holds, without waiting for it', async () => {
    const { url, store } = await open()
    await sql(url, fill(100))
    const holder = new pg.Client(url)
    await holder.connect()
    await holder.query(`begin; update session set expiry = now() + interval '1 hour' where id = 'over-50'`)
    expect((await store.sweep()).deleted).to.equal(99)
    await holder.query('commit')
    await holder.end()
    expect(await store.get('over-50')).to.deep.equal({ a: 1 })
    expect((await store.sweep()).deleted).to.equal(0)
  })

  it('loses to a touch that commits while it waits for the row', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    // A sweeper with all the patience in the world.
    const store = new PgStore((text, values) => pool.query(text.replace(`'50ms'`, `'1min'`), values), byHand)
    await store.setup()
    await sql(url, fill(100))
    const holder = new pg.Client(url)
    await holder.connect()
    await holder.query(`begin; update session set expiry = now() + interval '1 hour' where id = 'over-50'`)
    const under = store.sweep()
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
    expect((await under).deleted).to.equal(99)
    expect(await store.get('over-50')).to.deep.equal({ a: 1 })
    await holder.end()
    await store.close()
    await pool.end()
  })

  it('shows onExpired and the event each session with its data and without its id', async () => {
    const seen: ExpiredSession[] = []
    const { url, store } = await open({
      cleanup: { cron: false, onExpired: (session) => seen.push(session) },
    })
    const heard: ExpiredSession[] = []
    store.on('expire', (session) => heard.push(session))
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
    expect(heard).to.deep.equal(seen)
    expect(await rows(url)).to.equal(0)
  })

  it('keeps a session that onExpired or a listener throws for, says so without its id, and shows it again', async () => {
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

  it('keeps a session that was begun anew while onExpired saw the old one', async () => {
    const { url, store } = await open({
      cleanup: { cron: false, onExpired: () => other.set('over-1', { fresh: true }, 1) },
    })
    const other = new PgStore(url, byHand)
    opened.push(other)
    await sql(url, fill(1))
    // It has expired once more by now, unseen.
    expect((await store.sweep()).deleted).to.equal(0)
    expect(await rows(url)).to.equal(1)
  })

  it('lets onExpired use the store, and close it, with a pool of one connection', async () => {
    const url = await freshDatabase()
    const store: PgStore = new PgStore(
      { connectionString: url, max: 1 },
      {
        ...byHand,
        cleanup: {
          cron: false,
          onExpired: async () => {
            await store.set('alive', { a: 1 })
            void store.close()
          },
        },
      },
    )
    await store.setup()
    await sql(url, fill(200))
    expect((await store.sweep()).deleted).to.equal(1)
    await store.close()
    expect(await rows(url, `id = 'alive'`)).to.equal(1)
  })

  it('goes on after an onExpired that takes its time', async () => {
    let slow = true
    const onExpired = async (): Promise<void> => {
      if (slow) await new Promise((resolve) => setTimeout(resolve, 1_200))
      slow = false
    }
    const { url, store } = await open({ cleanup: { cron: false, onExpired } })
    await sql(url, fill(500))
    expect((await store.sweep()).deleted).to.equal(500)
  })

  it('is interrupted by close() after the batch that is under way', async () => {
    const { url, store } = await open({ cleanup: { cron: false, batchSize: 1 } })
    await sql(url, fill(20_000))
    const under = store.sweep()
    await until(async () => (await rows(url)) < 20_000)
    await store.close()
    const { deleted } = await under
    expect(deleted).to.be.within(1, 19_999)
    expect(await rows(url)).to.equal(20_000 - deleted)
    expect((await rejection(store.sweep())).message).to.equal("can't sweep: the session store is closed")
  })

  it('rejects if it loses its lock, and sweeps the next time', async () => {
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

  it('leaves more of the time to others when they are at work', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    /** When each batch began and ended. */
    const batches: { began: number; ended: number }[] = []
    const store = new PgStore(
      async (text, values) => {
        const began = performance.now()
        const result = await pool.query(text, values)
        if (text.includes('delete from')) batches.push({ began, ended: performance.now() })
        return result
      },
      { ...byHand, cleanup: { cron: false, batchSize: 500 } },
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
    const rested = batches.filter(({ began, ended }, n) => {
      const next = batches[n + 1]
      return next !== undefined && next.began - ended > (ended - began) * 1.5
    })
    expect(batches.length).to.be.above(10)
    expect(rested.length).to.be.above((batches.length - 1) * 0.75)
    await sql(url, `select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'`)
    await other
    await store.close()
    await pool.end()
  })

  it('asks for no index on expiry: touches stay on their page', async () => {
    const { url } = await open()
    const indexes = await sql(url, `select indexdef from pg_indexes where tablename = 'session'`)
    expect(indexes.map(({ indexdef }) => indexdef).join()).not.to.match(/expiry|last_access/)
  })
})
