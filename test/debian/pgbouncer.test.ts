// A store through a real PgBouncer, which .ci/run installs.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { run } from '../helpers/command.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { useEverything } from '../helpers/use-everything.js'
import { type PgBouncer, startPgBouncer } from '../support/pgbouncer.js'

describe('a store through PgBouncer in transaction mode', () => {
  let pooler: PgBouncer

  before(async () => {
    pooler = await startPgBouncer(await freshDatabase(), 'transaction')
  })

  after(() => pooler.stop())

  /** As many callers as make the pooler use all its connections. */
  async function callAtOnce(store: PgStore, prefix = ''): Promise<void> {
    const sids = Array.from({ length: 40 }, (_, n) => `${prefix}session-${n}`)
    for (let round = 1; round <= 3; round++) {
      await Promise.all(
        sids.map(async (sid, n) => {
          const session = (await store.get<{ rounds: number }>(sid, { fresh: true })) ?? { rounds: 0 }
          await store.set(sid, { ...session, rounds: session.rounds + 1, n })
        }),
      )
    }
    for (const [n, sid] of sids.entries()) expect(await store.get(sid)).to.deep.equal({ rounds: 3, n })
  }

  it('has every method, with the option listen', async () => {
    const url = await freshDatabase()
    await useEverything(pooler.through(url), (text) => sql(url, text), { listen: url })
  })

  it('has every method over a pool of the application', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: pooler.through(url) })
    await useEverything(pool, (text) => sql(url, text), { listen: url })
    await pool.end()
  })

  it('caches, and receives the changes of another instance, with the option listen', async () => {
    const url = await freshDatabase()
    const options: PgStoreOptions = { listen: url }
    await using store = await trusted(pooler.through(url), options)
    await using other = await trusted(pooler.through(url), options)
    const sid = await store.create({ n: 1 })
    await store.get(sid)
    await store.get(sid)
    expect((await store.stats()).cache).to.include({ trusted: true, hits: 2 })
    await other.set(sid, { n: 2 })
    await until(async () => (await store.get<{ n: number }>(sid))?.n === 2)
    await other.destroy(sid)
    await until(async () => (await store.get(sid)) === undefined)
  })

  for (const kind of ['connection string', 'pool'] as const)
    it(`serves many callers at once with prepared statements, which it gives up, with a ${kind}`, async () => {
      const url = await freshDatabase()
      const through = pooler.through(url)
      const pool = new pg.Pool({ connectionString: through })
      const store = new PgStore(kind === 'pool' ? pool : through, { cache: false })
      await Promise.all(['a', 'b', 'c'].map((prefix) => callAtOnce(store, prefix)))
      await callAtOnce(store)
      await store.close()
      await pool.end()
    })

  it('caches nothing without the option listen, and warns with what to do', async () => {
    const url = await freshDatabase()
    const warnings: string[] = []
    const store = new PgStore(pooler.through(url), { cache: { maxStaleness: 1_000 } })
    store.on('warning', ({ message }) => warnings.push(message))
    await callAtOnce(store)
    await until(() => warnings.length > 0)
    expect(warnings[0]).to.match(
      /^LISTEN connection lost, .* set the option "listen" to a connection that does not$/,
    )
    expect((await store.stats()).cache).to.include({ trusted: false, hits: 0 })
    await store.close()
  })

  it('leaves no setting behind on the connections that other applications share', async () => {
    const url = await freshDatabase()
    const name = new URL(url).pathname.slice(1)
    await sql(url, `alter database ${name} set statement_timeout = '7s'`)
    const warnings: string[] = []
    const store = new PgStore(pooler.through(url), { cache: { maxStaleness: 1_000 } })
    store.on('warning', ({ message }) => warnings.push(message))
    await callAtOnce(store)
    await until(() => warnings.length > 0)
    const settings = await Promise.all(
      Array.from({ length: 8 }, () =>
        sql(
          pooler.through(url),
          `select current_setting('statement_timeout') as timeout, current_setting('synchronous_commit') as sync, pg_sleep(0.1)`,
        ),
      ),
    )
    for (const [row] of settings) expect(row).to.include({ timeout: '7s', sync: 'on' })
    await store.close()
  })

  it('passes koa-pg-store doctor with --listen-url, which it recommends', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url)
    await store.setup()
    await store.close()
    const alone = await run(pooler.through(url), 'doctor')
    expect(alone.out).to.match(/^problem +notifications: .*\n.*set the store’s option listen/m)
    const { status, out } = await run(pooler.through(url), 'doctor', '--listen-url', url)
    expect(out).to.match(/^ok +notifications: /m)
    expect(status, out).to.equal(0)
  })
})

describe('a store through PgBouncer in session mode', () => {
  it('has every method and caches, without the option listen', async () => {
    const url = await freshDatabase()
    const pooler = await startPgBouncer(url, 'session')
    try {
      const through = { connectionString: pooler.through(url), max: 2 }
      await useEverything(through, (text) => sql(url, text))
      await using store = await trusted(through)
      expect((await store.health()).cache).to.include({ trusted: true })
    } finally {
      await pooler.stop()
    }
  })
})
