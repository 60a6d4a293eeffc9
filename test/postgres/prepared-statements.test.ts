import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { freshDatabase } from '../helpers/server.js'

describe('prepared statements', () => {
  /** With the one connection that the store uses. */
  async function withPool(
    options: PgStoreOptions,
    use: (store: PgStore, ask: (text: string) => Promise<Record<string, unknown>[]>) => Promise<void>,
  ): Promise<void> {
    const pool = new pg.Pool({ connectionString: await freshDatabase(), max: 1 })
    const store = new PgStore(pool, { cache: false, ...options })
    await use(store, async (text) => (await pool.query(text)).rows)
    await store.close()
    await pool.end()
  }

  /** Twice: what is loaded, or was saved, is saved by other statements than what is new. */
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

  it('are used, each once on a connection', () =>
    withPool({}, async (store, ask) => {
      // Of saves there are two kinds: of what was loaded, and of what wasn't.
      await callEach(store)
      await callEach(store)
      const once = (await ask(names)).length
      expect(once).to.be.above(3)
      await callEach(store)
      expect(await ask(names)).to.have.length(once)
    }))

  it('are not used with prepare: false', () =>
    withPool({ prepare: false }, async (store, ask) => {
      await callEach(store)
      expect(await ask(names)).to.deep.equal([])
    }))

  it('are given up, without an error, where a pooler does not keep them', () =>
    withPool({}, async (store, ask) => {
      for (let time = 0; time < 3; time++) {
        await callEach(store)
        await ask('deallocate all')
      }
      await callEach(store)
      expect(await ask(names)).to.deep.equal([])
    }))
})
