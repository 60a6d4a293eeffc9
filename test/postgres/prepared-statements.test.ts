// Statements of the request path are prepared, until a pooler rejects them.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { freshDatabase } from '../helpers/server.js'

describe('prepared statements', () => {
  /** Calls `use` with a store and a function that queries over the store's only connection. */
  async function withPool(
    options: PgStoreOptions,
    use: (store: PgStore, query: (text: string) => Promise<Record<string, unknown>[]>) => Promise<void>,
  ): Promise<void> {
    const pool = new pg.Pool({ connectionString: await freshDatabase(), max: 1 })
    const store = new PgStore(pool, { cache: false, ...options })
    await use(store, async (text) => (await pool.query(text)).rows)
    await store.close()
    await pool.end()
  }

  /** Twice, since a loaded session is saved by another statement than a new one. */
  async function callEach(store: PgStore): Promise<void> {
    await callOnce(store)
    await callOnce(store)
  }

  async function callOnce(store: PgStore): Promise<void> {
    await store.set('x', { n: 1 })
    await Promise.all(['a', 'b', 'c'].map((sid) => store.set(sid, { sid })))
    expect(await store.get('x')).to.deep.equal({ n: 1 })
    expect(await Promise.all(['a', 'b', 'c'].map((sid) => store.get(sid)))).to.have.length(3)
    await store.destroy('a')
    expect(await store.get('a')).to.equal(undefined)
  }

  const names = 'select name from pg_prepared_statements'

  it('are prepared once on a connection', () =>
    withPool({}, async (store, query) => {
      await callEach(store)
      await callEach(store)
      const count = (await query(names)).length
      expect(count).to.be.above(3)
      await callEach(store)
      expect(await query(names)).to.have.length(count)
    }))

  it('are not used with prepare: false', () =>
    withPool({ prepare: false }, async (store, query) => {
      await callEach(store)
      expect(await query(names)).to.deep.equal([])
    }))

  it('are given up, without an error, if a pooler drops them', () =>
    withPool({}, async (store, query) => {
      for (let round = 0; round < 3; round++) {
        await callEach(store)
        await query('deallocate all')
      }
      await callEach(store)
      expect(await query(names)).to.deep.equal([])
    }))

  it('are given up, without an error, if a pooler drops only that of the flush', () =>
    withPool({}, async (store, query) => {
      await callEach(store)
      const [flush] = await query(
        `${names} where statement like 'select case when pg_catalog.current_setting%'`,
      )
      expect(flush).to.have.property('name')
      await query(`deallocate "${flush?.name}"`)
      await store.set('x', { n: 2 })
      expect(await store.get('x')).to.deep.equal({ n: 2 })
    }))

  it('are given up, without an error, by all statements that are in flight', async () => {
    const pool = new pg.Pool({ connectionString: await freshDatabase(), max: 3 })
    const store = new PgStore(pool, { cache: false, cleanup: false })
    const callAll = (n: number): Promise<unknown> =>
      Promise.all([store.get('x'), store.set(`set-${n}`, { n }), store.touch('x', 1_000_000_000 + n)])
    // Each kind of statement is prepared on each connection.
    for (let n = 0; n < 20; n++) await callAll(n)
    const clients = await Promise.all([1, 2, 3].map(() => pool.connect()))
    for (const client of clients) await client.query('deallocate all')
    for (const client of clients) client.release()
    await callAll(20)
    await store.close()
    await pool.end()
  })
})
