// What a role or a database may have set for every connection: time limits, and another isolation level.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { type ExpiredSession, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { freshDatabase, sql } from '../helpers/server.js'

const hasTransactionTimeout = async (url: string): Promise<boolean> =>
  (await sql(url, `select from pg_settings where name = 'transaction_timeout'`)).length === 1

describe('with settings of the database', () => {
  let url: string
  const opened: { close(): unknown }[] = []

  /** Sets these for every later connection. */
  async function setDefaults(settings: Record<string, string>): Promise<void> {
    for (const [name, value] of Object.entries(settings))
      await sql(url, `alter database ${new URL(url).pathname.slice(1)} set ${name} = '${value}'`)
  }

  function open(options: PgStoreOptions = {}): PgStore {
    const store = new PgStore(url, { cleanup: false, hashIds: false, cache: false, ...options })
    opened.push(store)
    return store
  }

  beforeEach(async () => {
    url = await freshDatabase()
  })

  afterEach(async () => {
    for (const resource of opened.splice(0)) await resource.close()
  })

  /** Inserts sessions, expired or not. */
  const fill = (count: number, expiry: string): Promise<unknown> =>
    sql(
      url,
      `insert into session (id, expiry, session, version) select 's' || i, now() + interval '${expiry}', '{"a":1}', 1
       from generate_series(1, ${count}) i`,
    )

  describe('that limit statements and transactions', () => {
    const limitMs = 400

    beforeEach(async () => {
      await open().setup()
      await setDefaults({
        statement_timeout: `${limitMs}ms`,
        idle_in_transaction_session_timeout: `${limitMs}ms`,
        ...((await hasTransactionTimeout(url)) && { transaction_timeout: `${limitMs}ms` }),
      })
    })

    for (const partition of [false, true])
      it(`a sweep shows each session once to a slow onExpired, and deletes it (${partition ? 'partitioned' : 'ordinary'} table)`, async () => {
        if (partition)
          await sql(
            url,
            `drop table session; create table session (id text primary key, expiry timestamptz not null, session json,
               user_id text, created_at timestamptz not null default now(), last_access timestamptz not null default now(),
               version bigint not null default 0) partition by hash (id);
             create table session_0 partition of session for values with (modulus 2, remainder 0);
             create table session_1 partition of session for values with (modulus 2, remainder 1)`,
          )
        await fill(120, '-1 s')
        let shown = 0
        const onExpired = async (_: ExpiredSession): Promise<void> => {
          if (++shown % 30 === 1) await sleep(limitMs)
        }
        const { deleted } = await open({ cleanup: { cron: '0 0 1 1 *', onExpired } }).sweep()
        expect(deleted).to.equal(120)
        expect(shown).to.equal(120)
      })

    it('sessions() waits for a slow caller', async () => {
      await fill(250, '1 hour')
      let read = 0
      for await (const { session } of open().sessions()) {
        expect(session).to.deep.equal({ a: 1 })
        if (++read % 50 === 1) await sleep(limitMs / 2)
      }
      expect(read).to.equal(250)
    })
  })

  for (const level of ['repeatable read', 'serializable'])
    describe(`that make transactions ${level}`, () => {
      beforeEach(async () => {
        await setDefaults({ default_transaction_isolation: level })
      })

      it('saves, touches and destroys that meet succeed', async () => {
        const stores = [open(), open()]
        await Promise.all(stores.map((store) => store.setup()))
        const sids = Array.from({ length: 40 }, (_, n) => `s${n}`)
        const work = async (store: PgStore, name: string): Promise<void> => {
          for (let n = 0; n < 8; n++)
            await Promise.all(
              sids.map(async (sid) => {
                const session = (await store.get(sid)) ?? {}
                await store.set(sid, { ...session, [name]: n }, 3_600_000)
                await store.touch(sid, 7_200_000)
              }),
            )
        }
        await Promise.all(stores.map((store, n) => work(store, `store ${n}`)))
        await Promise.all(
          stores.flatMap((store, n) =>
            sids.map((sid, k) => (k % 2 === n ? store.destroy(sid) : store.set(sid, { n }))),
          ),
        )
        const [row] = await sql(url, 'select count(*)::int as destroyed from session where session is null')
        expect(row?.destroyed).to.equal(40)
      })

      it('a sweep deletes what others are touching, and holds no snapshot', async () => {
        const store = open()
        await store.setup()
        await fill(200, '-1 s')
        const client = new pg.Client(url)
        await client.connect()
        try {
          await client.query('begin isolation level read committed; update session set last_access = now()')
          const sweep = store.sweep()
          await sleep(100)
          await client.query('commit')
          await sweep
          // The first may have skipped rows that were locked.
          await store.sweep()
        } finally {
          await client.end()
        }
        expect(
          await sql(url, `select from session where id like 's_%' and id not like 'sha256%'`),
        ).to.have.length(0)
      })

      it('sign-ins of one user keep to the limit', async () => {
        const stores = [open({ maxSessionsPerUser: 3 }), open({ maxSessionsPerUser: 3 })]
        await Promise.all(stores.map((store) => store.setup()))
        await Promise.all(
          stores.flatMap((store) => Array.from({ length: 10 }, () => store.create({ userId: 'ann' }))),
        )
        expect(await stores[0]?.sessionsOf('ann')).to.have.length(3)
      })
    })
})
