// What a store can be given as its connection, and that it leaves an application's pool as it was.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import type { Outcome } from '../helpers/programs/calls.js'
import { startProxy } from '../helpers/proxy.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('a pool', () => {
  it('without timeouts of its own still ends every wait', async () => {
    const url = new URL(await freshDatabase())
    const proxy = await startProxy(Number(url.port))
    url.port = String(proxy.port)
    const pool = new pg.Pool({ connectionString: url.href, max: 1 })
    const store = new PgStore(pool, { cache: false })
    await store.setup()
    proxy.stall()
    const [first, second] = await Promise.all([rejection(store.get('a')), rejection(store.set('b', {}))])
    expect(first.message).to.match(/no response from PostgreSQL/)
    expect(second.message).to.match(/no connection to PostgreSQL within 5000 ms/)
    proxy.resume()
    await until(() =>
      store.get('a').then(
        () => true,
        () => false,
      ),
    )
    await store.close()
    await pool.end()
    await proxy.close()
  })

  it('of one connection serves any number of calls at once', async () => {
    const pool = new pg.Pool({ connectionString: await freshDatabase(), max: 1 })
    const store = new PgStore(pool, { cache: false })
    const ids = await Promise.all(Array.from({ length: 50 }, (_, n) => store.create({ n })))
    const results = await Promise.all(ids.flatMap((id) => [store.get(id), store.touch(id), store.count()]))
    expect(results.filter((value) => value === undefined)).to.have.length(50)
    await store.close()
    await pool.end()
  })

  it('that is exhausted makes the call reject, and nothing is written later', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url, max: 1, connectionTimeoutMillis: 2_000 })
    const store = new PgStore(pool, { cache: false })
    await store.set('a', { a: 1 })
    const client = await pool.connect()
    expect((await rejection(store.set('a', { late: true }))).message).to.match(
      /no connection to PostgreSQL within 2000 ms|timeout exceeded/,
    )
    client.release()
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    expect(pool.waitingCount).to.equal(0)
    await store.close()
    await pool.end()
  })

  it('is neither ended nor left with listeners by close', async () => {
    const pool = new pg.Pool({ connectionString: await freshDatabase() })
    const store = new PgStore(pool, { cache: false })
    await store.set('a', { a: 1 })
    expect(pool.listenerCount('error')).to.equal(1)
    await store.close()
    expect(pool.listenerCount('error')).to.equal(0)
    expect(pool.ended).to.equal(false)
    expect((await pool.query('select 1 as one')).rows).to.deep.equal([{ one: 1 }])
    await pool.end()
  })

  it('that loses its idle connections does not end the process', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    const store = new PgStore(pool, { cache: false })
    const warnings: Error[] = []
    store.on('warning', (error) => warnings.push(error))
    await store.set('a', { a: 1 })
    await sql(
      url,
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
    )
    await until(() => warnings.length > 0)
    expect(warnings[0]?.message).to.match(/terminating connection|Connection terminated/)
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    await store.close()
    await pool.end()
  })
})

describe('a connection', () => {
  it('may be a pg configuration', async () => {
    const url = new URL(await freshDatabase())
    const store = new PgStore({
      host: url.hostname,
      port: Number(url.port),
      user: url.username,
      password: url.password,
      database: url.pathname.slice(1),
      max: 2,
    })
    await store.set('a', { a: 1 })
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    await store.close()
  })

  for (const form of ['rows', '{ rows }'])
    it(`may be a function that returns ${form}`, async () => {
      const pool = new pg.Pool({ connectionString: await freshDatabase() })
      const store = new PgStore(async (text, values) => {
        const result = await pool.query(text, values)
        return form === 'rows' ? result.rows : result
      })
      await store.set('a', { a: 1 })
      await store.touch('a')
      expect(await store.get('a')).to.deep.equal({ a: 1 })
      await store.destroy('a')
      expect(await store.count()).to.equal(0)
      await store.close()
      expect(pool.ended).to.equal(false)
      await pool.end()
    })

  it('must not be a function that returns anything else', async () => {
    const store = new PgStore(async () => 'nothing' as unknown as [])
    expect((await rejection(store.get('a'))).message).to.match(
      /the query function must resolve with rows or { rows }; received "nothing"/,
    )
    await store.close()
  })

  it('does not keep the process running, closed or not', async () => {
    for (const close of [true, false]) {
      const child = start('calls.js', [await freshDatabase()])
      child.send(['create', { a: 1 }])
      expect(await message<Outcome>(child)).to.have.property('value')
      if (close) {
        child.send(['close'])
        await message(child)
      }
      const exit = new Promise((resolve) => child.once('exit', resolve))
      child.disconnect()
      expect(await exit).to.equal(0)
    }
  })
})
