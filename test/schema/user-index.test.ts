import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Creates a table like koa-pg-session's; a large one has uncompressed rows of a megabyte. */
async function oldTable(isLarge: boolean): Promise<string> {
  const url = await freshDatabase()
  await sql(
    url,
    `create table session (id text not null primary key, expiry timestamptz not null, session json);
     alter table session alter column session set storage external;
     insert into session select 'koa:sess:' || n, now() + interval '1 hour',
       ('{"n":' || n || ',"pad":"' || repeat('x', ${isLarge ? 1_000_000 : 10}) || '"}')::json from generate_series(1, ${isLarge ? 260 : 3}) n`,
  )
  return url
}

const indexes = (url: string): Promise<{ name: string; valid: boolean; text: string }[]> =>
  sql(
    url,
    `select indexrelid::regclass::text as name, indisvalid as valid, pg_get_indexdef(indexrelid) as text
     from pg_index where indrelid = 'session'::regclass and not indisprimary`,
  )
/**
 * Whether the index is valid; `undefined`: there is none. Without functions that fail if the index is dropped while they describe
 * it.
 */
async function isValid(url: string): Promise<boolean | undefined> {
  const [index] = await sql<{ valid: boolean }>(
    url,
    `select indisvalid as valid from pg_index where indrelid = 'session'::regclass and not indisprimary`,
  )
  return index?.valid
}
const expectedIndex = {
  name: 'session_user_id',
  valid: true,
  text: 'CREATE INDEX session_user_id ON public.session USING btree (user_id) WHERE (user_id IS NOT NULL)',
}

describe('the index on user_id', () => {
  /** Returns a store, and collects its warnings. */
  function make(url: string, options: PgStoreOptions = {}, warnings: string[] = []): PgStore {
    const store = new PgStore(url, options)
    store.on('warning', ({ message }) => warnings.push(message))
    return store
  }

  it('is created with the table, is used, and is the only one besides the primary key', async () => {
    const url = await freshDatabase()
    const first = make(url)
    await first.setup()
    await first.close()
    expect(await indexes(url)).to.deep.equal([expectedIndex])
    await sql(
      url,
      `insert into session (id, expiry, session, user_id, version)
       select n, now() + interval '1 hour', '{}', n / 3, 1 from generate_series(1, 20000) n; analyze session`,
    )
    const scans = async () => {
      const [row] = await sql<{ whole: number; index: number }>(
        url,
        `select t.seq_scan::int as whole, i.idx_scan::int as index from pg_stat_user_tables t
         join pg_stat_user_indexes i using (relid) where i.indexrelname = 'session_user_id'`,
      )
      return row ?? expect.fail()
    }
    // A backend reports its statistics when it ends at the latest. Waits for those of the statements above.
    await until(async () => (await scans()).whole > 0)
    const before = await scans()
    const store = make(url, { maxSessionsPerUser: 3 })
    // All methods that look up a user.
    await store.sessionsOf(7)
    await store.create({ userId: 8 })
    await store.deleteAttribute(9, 'x')
    await store.destroySessionsOf(10)
    await store.close()
    await until(async () => (await scans()).index >= before.index + 4)
    expect((await scans()).whole).to.equal(before.whole)
  })

  it('has a different name for each table, however long the table’s name is', async () => {
    const url = await freshDatabase()
    for (const table of ['x'.repeat(63), `${'x'.repeat(62)}y`, 'ü'.repeat(31), '"quoted"']) {
      await using store = make(url, { table })
      await store.create({ userId: 'ann' })
      expect(await store.sessionsOf('ann')).to.have.length(1)
      const found = await sql(url, 'select from pg_indexes where tablename = $1', [table])
      expect(found, table).to.have.length(2)
    }
  })

  it('is created when a small table of koa-pg-session is upgraded, and again if it is missing later', async () => {
    const url = await oldTable(false)
    for (let n = 0; n < 2; n++) {
      await using store = make(url, { hashIds: false })
      await store.setup()
      expect(await indexes(url)).to.deep.equal([expectedIndex])
      await sql(url, 'drop index session_user_id')
    }
  })

  it('is not created if another index begins with user_id', async () => {
    const url = await oldTable(false)
    await sql(
      url,
      'alter table session add user_id text; create index other_index on session (user_id, expiry)',
    )
    await using store = make(url, { hashIds: false })
    await store.setup()
    expect((await indexes(url)).map(({ name }) => name)).to.deep.equal(['other_index'])
  })

  it('is optional: with create: false, and for a role that may not create it', async () => {
    const url = await oldTable(false)
    await using first = make(url, { hashIds: false })
    await first.setup()
    await sql(
      url,
      `drop index session_user_id; create role no_index login password 'pw';
       grant select, insert, update, delete on session to no_index`,
    )
    const warnings: string[] = []
    const limited = at(url, { user: 'no_index', password: 'pw' })
    for (const [connection, create] of [
      [url, false],
      [limited, true],
    ] as const) {
      const store = make(connection, { create, hashIds: false, maxSessionsPerUser: 2 }, warnings)
      for (let n = 0; n < 3; n++) await store.create({ userId: 'ann', n })
      expect(await store.sessionsOf('ann')).to.have.length(2)
      expect(await store.destroySessionsOf('ann')).to.equal(2)
      await store.close()
    }
    expect(await indexes(url)).to.deep.equal([])
    expect(warnings).to.deep.equal([])
    await sql(url, 'drop owned by no_index; drop role no_index')
  })

  it('is not written by touches', async () => {
    const url = await freshDatabase()
    const store = make(url, { touch: { interval: 0 }, cache: false })
    const sids = await Promise.all(Array.from({ length: 200 }, (_, n) => store.create({ userId: n % 7 })))
    for (let round = 0; round < 20; round++)
      await Promise.all(sids.map((sid) => store.touch(sid, 24 * 3_600_000 + round)))
    await store.close()
    const counts = `select n_tup_upd::int as updates, n_tup_hot_upd::int as hot from pg_stat_user_tables where relname = 'session'`
    await until(async () => (await sql(url, counts))[0]?.updates >= 4_000)
    const [{ updates, hot } = expect.fail()] = await sql(url, counts)
    expect(updates).to.equal(4_000)
    // With an index on a column that a touch changes it would be none. The rest found their page full.
    expect(hot).to.be.above(3_000)
  })

  describe('of a large table', function () {
    this.timeout(120_000)
    let url: string
    beforeEach(async () => {
      url = await oldTable(true)
    })
    afterEach(async () => {
      await sql(url, 'drop table session')
    })
    const untilValid = () => until(async () => (await isValid(url)) === true)

    /** Opens a transaction, for which the creation of an index has to wait. */
    async function openTransaction(): Promise<pg.Client> {
      const client = new pg.Client(url)
      await client.connect()
      await client.query('begin isolation level repeatable read; select 1')
      return client
    }
    const untilUnfinished = () => until(async () => (await isValid(url)) === false)

    it('is created in the background, blocks no calls even with one connection, and does not delay close()', async () => {
      const client = await openTransaction()
      const pool = new pg.Pool({ connectionString: url, max: 1, query_timeout: 5_000 })
      const warnings: string[] = []
      const store = new PgStore(pool, { hashIds: false })
      store.on('warning', ({ message }) => warnings.push(message))
      try {
        await store.setup()
        await untilUnfinished()
        const sid = await store.create({ userId: 'ann' })
        await store.set(sid, { userId: 'ann', n: 1 })
        expect(await store.sessionsOf('ann')).to.have.length(1)
        expect(await store.get('koa:sess:1')).to.include({ n: 1 })
        await store.close()
        await pool.end()
        expect((await indexes(url))[0]?.valid).to.equal(false)
        await client.query('commit')
        // The server finishes it by itself.
        await untilValid()
        expect(await indexes(url)).to.deep.equal([expectedIndex])
        expect(warnings).to.deep.equal([])
      } finally {
        await client.end()
      }
    })

    it('is created once, however many instances start at the same time', async () => {
      const first = make(url, { hashIds: false })
      await first.setup()
      await untilValid()
      await first.close()
      await sql(url, 'drop index session_user_id')
      const client = new pg.Client(url)
      await client.connect()
      const warnings: string[] = []
      const stores = [1, 2, 3, 4].map(() => make(url, { hashIds: false }, warnings))
      try {
        // Creating the index waits for this lock, so that all instances have started by then.
        await client.query('begin; lock table session in share update exclusive mode')
        await Promise.all(stores.map((store) => store.setup()))
        const indexing = `application_name = 'koa-pg-store index'`
        await until(async () => {
          const states = await sql(
            url,
            `select wait_event_type = 'Lock' as waits from pg_stat_activity where ${indexing}`,
          )
          return states.length > 0 && states.every(({ waits }) => waits)
        })
        await client.query('commit')
        await untilValid()
        await until(
          async () => (await sql(url, `select from pg_stat_activity where ${indexing}`)).length === 0,
        )
        expect(await indexes(url)).to.deep.equal([expectedIndex])
        expect(warnings).to.deep.equal([])
      } finally {
        for (const store of stores) await store.close()
        await client.end()
      }
    })

    it('is created again if an attempt has left it unfinished', async () => {
      await sql(
        url,
        `alter table session add user_id text;
         update session set user_id = 'twice' where id in ('koa:sess:1', 'koa:sess:2')`,
      )
      await sql(url, 'create unique index concurrently session_user_id on session (user_id)').catch(
        () => undefined,
      )
      expect((await indexes(url))[0]?.valid).to.equal(false)
      const warnings: string[] = []
      const first = make(url, { hashIds: false }, warnings)
      await first.setup()
      await untilValid()
      await first.close()
      expect(await indexes(url)).to.deep.equal([expectedIndex])
      expect(warnings).to.deep.equal([])
    })

    it('is not created while someone creates it by hand', async () => {
      const upgraded = make(url, { hashIds: false })
      await upgraded.setup()
      await untilValid()
      await upgraded.close()
      await sql(url, 'drop index session_user_id')
      const client = await openTransaction()
      const oid = () => sql(url, `select to_regclass('session_user_id')::oid as oid`)
      const made = sql(url, expectedIndex.text.replace('INDEX', 'INDEX CONCURRENTLY'))
      await untilUnfinished()
      const before = await oid()
      const warnings: string[] = []
      const store = make(url, { hashIds: false }, warnings)
      await store.setup()
      await store.create({ userId: 'ann' })
      await client.query('commit')
      await made
      await store.close()
      await client.end()
      expect(warnings).to.deep.equal([])
      expect(await indexes(url)).to.deep.equal([expectedIndex])
      expect(await oid()).to.deep.equal(before)
    })

    it('is optional if it can’t be created, with a warning that says what to run', async () => {
      const owner = make(url, { hashIds: false })
      await owner.setup()
      await untilValid()
      await owner.close()
      await sql(
        url,
        `drop index session_user_id; create role no_big_index login password 'pw';
         grant select, insert, update, delete on session to no_big_index`,
      )
      const warnings: string[] = []
      const store = make(at(url, { user: 'no_big_index', password: 'pw' }), { hashIds: false }, warnings)
      await store.create({ userId: 'ann' })
      await until(() => warnings.length > 0)
      expect(warnings[0]).to.match(
        /^the index on user_id could not be created: must be owner of table session. Run psql .*-v index=session_user_id -f node_modules\/koa-pg-store\/sql\/007-users.sql$/,
      )
      expect(await store.sessionsOf('ann')).to.have.length(1)
      await store.close()
      await sql(url, 'drop owned by no_big_index; drop role no_big_index')
    })
  })
})
