import { expect } from 'chai'
import pg from 'pg'
import { DatabaseError, PgStore, type SessionInfo } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Inserts sessions as the store writes them, but faster. */
async function fill(url: string, count: number, bytes = 0): Promise<void> {
  const store = new PgStore(url)
  await store.setup()
  await store.close()
  await sql(
    url,
    `insert into session (id, expiry, session, user_id, version)
     select 'sha256:' || rtrim(translate(encode(sha256(n::text::bytea), 'base64'), '+/', '-_'), '='), now() + interval '1 hour',
       json_build_object('n', n, 'pad', repeat('x', ${bytes})), n % 100, 1 from generate_series(1, ${count}) n`,
  )
}

/** Reads all sessions, or up to `max`. */
async function read(store: PgStore, max = Number.POSITIVE_INFINITY): Promise<number[]> {
  const list: number[] = []
  for await (const { session } of store.sessions()) if (list.push(session?.n as number) >= max) break
  return list
}

const connections = {
  'a pool': (url: string) => {
    const pool = new pg.Pool({ connectionString: url, max: 2, allowExitOnIdle: true })
    return { pool, store: new PgStore(pool, { cache: false }) }
  },
  'a pool of one connection': (url: string) => {
    const pool = new pg.Pool({ connectionString: url, max: 1, allowExitOnIdle: true })
    return { pool, store: new PgStore(pool, { cache: false }) }
  },
  'a query function': (url: string) => {
    const pool = new pg.Pool({ connectionString: url, max: 1, allowExitOnIdle: true })
    return { pool, store: new PgStore((text, values) => pool.query(text, values), { cache: false }) }
  },
}

for (const [connection, make] of Object.entries(connections))
  describe(`sessions() through ${connection}`, () => {
    it('yields every active session once', async () => {
      const url = await freshDatabase()
      await fill(url, 1_234)
      await sql(
        url,
        `update session set expiry = now() where session->>'n' = '1';
         update session set session = null where session->>'n' = '2'; update session set session = '7' where session->>'n' = '3';
         update session set last_access = now() - interval '1 day' where session->>'n' = '4'`,
      )
      const { pool, store } = make(url)
      const right = Array.from({ length: 1_231 }, (_, n) => n + 4)
      const broken: SessionInfo[] = []
      for await (const info of store.sessions()) if (info.error !== undefined) broken.push(info)
      expect(broken.map(({ session, userId }) => [session, userId])).to.deep.equal([[undefined, '3']])
      await sql(url, `delete from session where session::text = '7'`)
      expect((await read(store)).sort((a, b) => a - b)).to.deep.equal(right)
      for await (const {
        handle,
        userId,
        session,
        expiresAt,
        createdAt,
        lastAccessedAt,
      } of store.sessions()) {
        expect(userId).to.equal(String(Number(session?.n) % 100))
        expect(handle).to.match(/^[\w-]{43}$/)
        for (const date of [expiresAt, createdAt, lastAccessedAt]) expect(date).to.be.instanceOf(Date)
      }
      await using idle = new PgStore(pool, { cache: false, idleTimeout: 3_600_000 })
      expect(await read(idle)).to.have.length(1_230)
      await store.close()
      await idle.close()
      await pool.end()
    })

    it('loses no connection when the loop is left early or by an error', async () => {
      const url = await freshDatabase()
      await fill(url, 500)
      const { pool, store } = make(url)
      for (const max of [1, 100, 101, 499, 500]) expect(await read(store, max)).to.have.length(max)
      for (let n = 0; n < 3; n++) {
        const failing = async (): Promise<void> => {
          for await (const { session } of store.sessions()) throw new Error(`not ${session?.n}`)
        }
        expect((await rejection(failing())).message).to.match(/^not \d+$/)
      }
      expect(await read(store)).to.have.length(500)
      expect(pool.idleCount).to.equal(pool.totalCount)
      await store.close()
      await pool.end()
    })

    it('allows sessions to be read, revoked and created in the loop', async () => {
      const url = await freshDatabase()
      await fill(url, 300)
      const { pool, store } = make(url)
      let revoked = 0
      for await (const { handle, session } of store.sessions())
        if (Number(session?.n) <= 300 && Number(session?.n) % 3 === 0) {
          expect(await store.revoke(handle)).to.equal(true)
          await store.create({ n: 1_000 + revoked++ })
        }
      expect(revoked).to.equal(100)
      const remaining = await read(store)
      expect(remaining).to.have.length(300)
      expect(remaining.filter((n) => n <= 300 && n % 3 === 0)).to.deep.equal([])
      await store.close()
      await pool.end()
    })

    const total = connection === 'a pool' ? 100_000 : 20_000
    it(`takes no more memory for ${total.toLocaleString('en')} sessions than for a few`, async () => {
      const url = await freshDatabase()
      await fill(url, total, 2_000)
      const { pool, store } = make(url)
      const usedMiB = (): number => {
        global.gc?.()
        const { heapUsed, external } = process.memoryUsage()
        return (heapUsed + external) / 1024 ** 2
      }
      const before = usedMiB()
      let maxMiB = 0
      let count = 0
      for await (const { session } of store.sessions()) {
        expect(session?.pad).to.have.length(2_000)
        if (++count % 5_000 === 4_000) maxMiB = Math.max(maxMiB, usedMiB() - before)
      }
      expect(count).to.equal(total)
      // All sessions together have 200 MB, or 40.
      expect(global.gc).to.be.a('function')
      expect(maxMiB).to.be.below(20)
      await store.close()
      await pool.end()
    })
  })

describe('sessions()', () => {
  it('goes on over another connection when one is lost in the loop, and rejects if there is none', async () => {
    const url = await freshDatabase()
    await fill(url, 500)
    await using store = new PgStore({ connectionString: url, application_name: 'lister' }, { cache: false })
    store.on('warning', () => undefined)
    const server = at(url, { database: 'postgres' })
    const lose = (): Promise<unknown> =>
      sql(
        server,
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'lister' and datname = $1`,
        [new URL(url).pathname.slice(1)],
      )
    let count = 0
    for await (const { handle } of store.sessions()) {
      expect(handle).to.have.length(43)
      if (++count % 150 === 0) await lose()
    }
    expect(count).to.equal(500)
    const setAllowed = (isAllowed: boolean): Promise<unknown> =>
      sql(server, `alter database ${new URL(url).pathname.slice(1)} allow_connections ${isAllowed}`)
    const cutOff = async (): Promise<void> => {
      for await (const _ of store.sessions()) {
        await setAllowed(false)
        await lose()
      }
    }
    expect(await rejection(cutOff())).to.be.instanceOf(DatabaseError)
    await setAllowed(true)
    await until(async () => (await store.count().catch(() => 0)) === 500)
  })

  it('lets the loop take its time: query_timeout is for each batch, and leaves no timer', async () => {
    const url = await freshDatabase()
    await fill(url, 300)
    await using store = new PgStore({ connectionString: url, query_timeout: 2_000 }, { cache: false })
    let count = 0
    for await (const _ of store.sessions())
      if (++count === 50) await new Promise((resolve) => setTimeout(resolve, 2_500))
    expect(count).to.equal(300)
  })

  it('rejects when the store is closed or the database is unreachable', async () => {
    const store = new PgStore('postgres://user:password@127.0.0.1:9/none', { cache: false })
    expect(await rejection(store.sessions().next())).to.have.property('name', 'SetupError')
    await store.close()
    expect((await rejection(store.sessions().next())).message).to.match(/the session store is closed/)
  })
})
