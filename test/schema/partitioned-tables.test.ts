// Partitioned tables: upgraded, swept, watched by triggers and searched by user; their ids are hashed without a loss.
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { run } from '../helpers/command.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const count = 4_000

const kinds = {
  hash: `create table session (id text primary key, expiry timestamp not null, session json) partition by hash (id);
    ${[0, 1, 2, 3].map((n) => `create table session_${n} partition of session for values with (modulus 4, remainder ${n});`).join('')}`,
  list: `create table session (id text primary key, expiry timestamp not null, session json) partition by list (id);
    create table session_one partition of session for values in ('koa:sess:1', 'koa:sess:2');
    create table session_rest partition of session default;`,
}

/** Creates a partitioned table like koa-pg-session's, with raw ids; every tenth session has a newer twin under its digest. */
async function partitioned(kind: keyof typeof kinds): Promise<string> {
  const url = await freshDatabase()
  await sql(
    url,
    `${kinds[kind]}
     insert into session select 'koa:sess:' || n, now() + '1 hour',
       json_build_object('n', n, 'user', json_build_object('id', n % 100), 'twin', n % 10 = 0 and 'old' = 'new') from generate_series(1, ${count}) n;`,
  )
  const twins = Array.from({ length: count / 10 }, (_, i) => (i + 1) * 10)
  await sql(
    url,
    `insert into session select id, now() + '1 hour', json_build_object('n', n, 'twin', true)
     from unnest($1::text[], $2::int[]) as u (id, n)`,
    [twins.map((n) => `sha256:${digestOf(`koa:sess:${n}`)}`), twins],
  )
  return url
}

const rawIds = (url: string) => sql(url, `select id from session where id not like 'sha256:%'`)

async function expectAll(store: PgStore): Promise<void> {
  const sessions = await Promise.all(Array.from({ length: count }, (_, i) => store.get(`koa:sess:${i + 1}`)))
  expect(sessions.map((session) => session?.n)).to.deep.equal(Array.from({ length: count }, (_, i) => i + 1))
  expect(sessions.filter((session) => session?.twin === true)).to.have.length(count / 10)
}

for (const kind of ['hash', 'list'] as const)
  describe(`a table that is partitioned by ${kind}`, () => {
    it('loses no session when its ids are hashed, by the store while it is used', async () => {
      const url = await partitioned(kind)
      await using old = new PgStore(url, { hashIds: false, cache: false })
      await expectAll(old)
      await using store = new PgStore(url, { cache: false })
      const warnings: string[] = []
      for (const each of [old, store]) each.on('warning', ({ message }) => warnings.push(message))
      await store.setup()
      let reads = 0
      while ((await rawIds(url)).length > 0) {
        const n = (reads++ % 100) + 1
        for (const each of [old, store]) {
          const session = (await each.get(`koa:sess:${n}`)) ?? expect.fail(`session ${n} is missing`)
          await each.set(`koa:sess:${n}`, Object.assign(session, { reads }))
        }
      }
      await expectAll(old)
      await expectAll(store)
      expect(await store.count()).to.equal(count)
      expect(warnings).to.deep.equal([])
    })

    it('loses no session when its ids are hashed by migrate', async () => {
      const url = await partitioned(kind)
      const { status, out, errors } = await run(url, 'migrate', '--to-hashed-ids')
      expect(status, errors).to.equal(0)
      expect(out).to.match(/4,000 session ids were replaced/)
      expect(await rawIds(url)).to.deep.equal([])
      await using store = new PgStore(url, { cache: false })
      await expectAll(store)
    })

    it('is upgraded, swept, watched and searched like any other', async () => {
      const url = await partitioned(kind)
      await using store = await trusted(url, { hashIds: false, userId: ({ n }) => n as number })
      expect((await store.stats()).triggers).to.equal(true)
      const [types] = await sql(
        url,
        `select format_type(atttypid, null) as expiry, (select array_agg(distinct c.reloptions::text) from pg_inherits join pg_class c on c.oid = inhrelid
           where inhparent = 'session'::regclass) as fill
         from pg_attribute where attrelid = 'session'::regclass and attname = 'expiry'`,
      )
      expect(types).to.deep.equal({ expiry: 'timestamp with time zone', fill: ['{fillfactor=70}'] })
      const sid = await store.create({ n: 'ann' })
      expect(await store.sessionsOf('ann')).to.have.length(1)
      await store.get('koa:sess:1')
      await sql(url, `update session set session = '{"n": "psql"}' where id = 'koa:sess:1'`)
      await until(async () => (await store.get('koa:sess:1'))?.n === 'psql')
      expect(await store.destroySessionsOf('ann')).to.equal(1)
      expect(await store.get(sid)).to.equal(undefined)
      await sql(url, `update session set expiry = now() - interval '1 second' where id not in ('koa:sess:1')`)
      expect((await store.sweep()).deleted).to.equal(count + count / 10)
      expect(await store.count()).to.equal(1)
    })
  })

describe('destroying sessions while their ids are hashed', () => {
  for (const method of ['destroySessionsOf', 'revoke', 'deleteAttribute'] as const)
    it(`misses none: ${method}`, async () => {
      const url = await freshDatabase()
      const users = 40
      await using old = new PgStore(url, { hashIds: false, cache: false })
      for (let n = 0; n < users * 5; n++)
        await old.set(`koa:sess:${n}`, { userId: `user ${n % users}`, role: 'admin' })
      // Hashes ids one by one, as another process does, while sessions are being destroyed.
      const hashing = (async () => {
        for (let n = 0; n < users * 5; n++)
          await sql(url, 'update session set id = $1 where id = $2', [
            `sha256:${digestOf(`koa:sess:${n}`)}`,
            `koa:sess:${n}`,
          ])
      })()
      await using store = new PgStore(url, { cache: false, create: false })
      let changed = 0
      for (let user = users - 1; user >= 0; user--)
        if (method === 'revoke')
          for (let n = user; n < users * 5; n += users)
            changed += (await store.revoke(digestOf(`koa:sess:${n}`))) ? 1 : 0
        else if (method === 'destroySessionsOf') changed += await store.destroySessionsOf(`user ${user}`)
        else changed += await store.deleteAttribute(`user ${user}`, 'role')
      await hashing
      expect(changed).to.equal(users * 5)
      if (method !== 'deleteAttribute') expect(await store.count()).to.equal(0)
      else expect(await sql(url, `select from session where session::text like '%admin%'`)).to.deep.equal([])
    })
})
