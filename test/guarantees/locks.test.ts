// Whatever makes a batch wait is one session's business, and what was given up ends on the server.
import { expect } from 'chai'
import pg from 'pg'
import { type DatabaseError, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { storedId } from '../helpers/fixture.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Statements may take this long. */
const queryTimeout = 1_500

describe('a lock', () => {
  let url: string
  let store: PgStore
  let holder: pg.Client
  const ids = Array.from({ length: 60 }, (_, n) => `s${n}`)

  async function open(options: PgStoreOptions = {}, config: pg.PoolConfig = {}): Promise<void> {
    url = await freshDatabase()
    store = new PgStore(
      {
        connectionString: url,
        query_timeout: queryTimeout,
        connectionTimeoutMillis: 2_000,
        application_name: 'a store',
        ...config,
      },
      { cache: false, touch: { interval: 0 }, ...options },
    )
    store.on('warning', () => undefined)
    await Promise.all(ids.map((id) => store.set(id, { n: 0 }, 600_000)))
    holder = new pg.Client(url)
    await holder.connect()
  }

  afterEach(async () => {
    await holder.end()
    await store.close()
  })

  const lock = (...locked: string[]) =>
    holder.query({
      text: `select from session where id = any($1) for update`,
      values: [locked.map((id) => storedId(id))],
    })

  /** Starts a call for each session, and resolves with those that were settled when all but the locked ones had been. */
  async function settleAround(
    locked: string[],
    call: (id: string) => PromiseLike<unknown>,
  ): Promise<string[]> {
    await holder.query('begin')
    await lock(...locked)
    const settled: string[] = []
    const calls = ids.map(async (id) => {
      await call(id)
      settled.push(id)
    })
    await until(() => settled.length >= ids.length - locked.length, queryTimeout * 3)
    const early = [...settled]
    await holder.query('commit')
    await Promise.all(calls)
    return early
  }

  const calls: Record<string, (id: string) => PromiseLike<unknown>> = {
    sets: (id) => store.set(id, { n: 1 }, 600_000),
    'changes of loaded sessions': (id) => changes.get(id)?.() as Promise<void>,
    destroys: (id) => store.destroy(id),
    touches: (id) => store.touch(id, 700_000),
  }
  const changes = new Map<string, () => PromiseLike<void>>()

  for (const [name, call] of Object.entries(calls))
    for (const locked of [['s7'], ['s3', 's20', 's21', 's40']])
      it(`of ${locked.length} of the rows of 60 joined ${name} delays those alone`, async () => {
        // More than a lock is held: a call settles because it went on, not because its time was over.
        await open({}, { query_timeout: 20_000 })
        for (const id of ids) {
          const session = (await store.get(id)) as { n: number }
          changes.set(id, () => store.set(id, Object.assign(session, { n: 1 }), 600_000))
        }
        const early = await settleAround(locked, call)
        expect(early.filter((id) => locked.includes(id))).to.deep.equal([])
        expect(early).to.have.length(ids.length - locked.length)
      })

  it('of a row delays no deferred touch but its own, which is written later', async () => {
    await open({ touch: { interval: 600 } })
    await sql(url, `update session set last_access = now() - interval '1 hour'`)
    await holder.query('begin')
    await lock('s7')
    await Promise.all(ids.map((id) => store.get(id)))
    const untouched = async () =>
      (
        await sql<{ id: string }>(
          url,
          `select id from session where last_access < now() - interval '1 minute'`,
        )
      ).map(({ id }) => id)
    await until(async () => (await untouched()).length <= 1)
    expect(await untouched()).to.deep.equal([storedId('s7')])
    await holder.query('commit')
    await until(async () => (await untouched()).length === 0)
  })

  it('of a row makes its call fail in time, with a code, and nothing is written later', async () => {
    await open()
    await holder.query('begin')
    await lock('s7')
    const error = (await rejection(store.set('s7', { late: true }, 600_000))) as DatabaseError
    expect([error.code, error.status]).to.deep.equal(['ERR_SESSION_TIMEOUT', 503])
    await holder.query('commit')
    expect(await store.get('s7')).to.deep.equal({ n: 0 })
  })

  it('of a user whose sessions are limited delays no other user', async () => {
    await open({ maxSessionsPerUser: 2 })
    const [backend] = (await holder.query(
      'begin; select pg_backend_pid() as pid',
    )) as unknown as pg.QueryResult[]
    expect(backend).to.not.equal(undefined)
    await holder.query(
      `select pg_advisory_xact_lock(hashtext('koa-pg-store'), hashtext($1 || ' ' || 'u7'))`,
      [
        (
          await sql<{ channel: string }>(
            url,
            `select 'koa_pg_store_' || substr(encode(sha256('public.session'), 'hex'), 1, 16) as channel`,
          )
        )[0]?.channel,
      ],
    )
    let isSettled = false
    const waiting = store.create({ userId: 'u7' }).then(() => {
      isSettled = true
    })
    await Promise.all(Array.from({ length: 20 }, (_, n) => store.create({ userId: `other${n}` })))
    expect(isSettled).to.equal(false)
    await holder.query('commit')
    await waiting
  })

  const backends = async (condition = 'true'): Promise<number> =>
    (
      await sql<{ n: number }>(
        url,
        `select count(*)::int as n from pg_stat_activity where application_name = 'a store' and ${condition}`,
      )
    )[0]?.n as number

  it('of the table leaves no statement on the server, nor more connections than the pool has', async () => {
    await open({}, { max: 3, query_timeout: 400, connectionTimeoutMillis: 1_000 })
    await holder.query('begin; lock table session in access exclusive mode')
    let most = 0
    let isOver = false
    const watching = (async () => {
      while (!isOver) most = Math.max(most, await backends())
    })()
    for (let round = 0; round < 4; round++) {
      const calls = ids.flatMap((id) => [store.get(id), store.set(id, { round }, 600_000), store.touch(id)])
      for (const result of await Promise.allSettled(calls)) expect(result.status).to.equal('rejected')
    }
    isOver = true
    await watching
    expect(most).to.be.within(1, 3)
    expect(await backends(`state = 'active'`)).to.equal(0)
    await holder.query('commit')
    expect(await store.get('s1')).to.deep.equal({ n: 0 })
  })

  it('does not multiply with repeats: they share one time limit', async () => {
    await open({}, { max: 50 })
    await holder.query('begin; lock table session in access exclusive mode')
    let terminations = 0
    let isSettled = false
    const call = rejection(store.get('s1')).finally(() => {
      isSettled = true
    })
    while (!isSettled) {
      await until(async () => isSettled || (await backends(`state = 'active'`)) > 0)
      terminations += await backends(`state = 'active'`)
      await sql(
        url,
        `select pg_sleep(0.3), pg_terminate_backend(pid) from pg_stat_activity where application_name = 'a store' and state = 'active'`,
      )
    }
    await call
    await holder.query('commit')
    // Without a common limit it is sent 51 times.
    expect(terminations).to.be.below(15)
  })
})

describe('a server that allows no further connection', () => {
  it('makes calls wait for the connection that there is', async () => {
    const url = await freshDatabase()
    const role = `one_${new URL(url).pathname.slice(1)}`
    await sql(
      url,
      `create role ${role} login connection limit 1 password 'x'; grant all on schema public to ${role}`,
    )
    const store = new PgStore(at(url, { user: role, password: 'x' }), { cache: false })
    await store.set('a', { a: 1 })
    for (let round = 0; round < 20; round++)
      await Promise.all([
        store.get('a'),
        store.set(`b${round}`, {}),
        store.touch('a'),
        store.destroy(`c${round}`),
      ])
    await store.close()
    await sql(url, `drop owned by ${role}; drop role ${role}`)
  })
})

describe('a backend that is stopped while it is to save a session', () => {
  it('does not overwrite what was saved after its call was given up', async () => {
    const url = await freshDatabase()
    const config = {
      connectionString: url,
      application_name: 'a',
      query_timeout: 600,
      connectionTimeoutMillis: 1_000,
      max: 1,
    }
    const a = new PgStore(config, { cache: false })
    const b = new PgStore(url, { cache: false })
    a.on('warning', () => undefined)
    await a.set('s', { by: 'first' }, 600_000)
    const [row] = await sql<{ pid: number }>(
      url,
      `select pid from pg_stat_activity where datname = current_database() and application_name = 'a'`,
    )
    const pid = row?.pid as number
    process.kill(pid, 'SIGSTOP')
    try {
      const error = (await rejection(a.set('s', { by: 'a' }, 600_000))) as DatabaseError
      expect(error.code).to.equal('ERR_SESSION_TIMEOUT')
      await b.set('s', { by: 'b' }, 600_000)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await until(async () => (await sql(url, `select from pg_stat_activity where pid = ${pid}`)).length === 0)
    expect(await b.get('s')).to.deep.equal({ by: 'b' })
    // The server is there: the next call is served.
    await a.set('s', { by: 'a again' }, 600_000)
    expect(await b.get('s')).to.deep.equal({ by: 'a again' })
    await a.close()
    await b.close()
  })
})
