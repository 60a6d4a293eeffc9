import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { replacedIdComment } from '../../lib/schema/table.js'
import { digestOf } from '../../lib/session/session-id.js'
import { run } from '../helpers/command.js'
import { message, start } from '../helpers/processes.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const types = ['timestamp', 'timestamptz'] as const

/** Creates a table like koa-pg-session's, with `rows` sessions and a further column. */
async function oldTable(type: string, rows = 3): Promise<string> {
  const url = await freshDatabase()
  await sql(
    url,
    `create table session (id text not null primary key, expiry ${type} not null, session json, tenant int default 7);
     insert into session (id, expiry, session)
       select 'koa:sess:' || n, now() + '1 hour', json_build_object('n', n) from generate_series(1, ${rows}) n;
     insert into session (id, expiry, session) values ('koa:sess:expired', now() - interval '1 second', '{}')`,
  )
  return url
}

async function withStore(
  url: ConstructorParameters<typeof PgStore>[0],
  options: PgStoreOptions,
  use: (store: PgStore, warnings: string[]) => Promise<unknown>,
): Promise<void> {
  const store = new PgStore(url, options)
  const warnings: string[] = []
  store.on('warning', (error) => warnings.push(error.message))
  try {
    await use(store, warnings)
  } finally {
    await store.close()
  }
}

/** Says that no process of koa-pg-session is left, as a store with `hashIds: false` does: ids may be hashed. */
const declareRaw = (url: string) => sql(url, `comment on column session.id is 'session id'`)

const rawIds = (url: string) => sql(url, `select id from session where id not like 'sha256:%'`)

const digest = (sid: string): string => `sha256:${digestOf(sid)}`

describe('a table of koa-pg-session', () => {
  for (const type of types) {
    it(`is used without changes with create: false (${type})`, async () => {
      const url = await oldTable(type)
      const columns = `select attname, atttypid::regtype from pg_attribute where attrelid = 'session'::regclass and attnum > 0`
      const before = await sql(url, columns)
      await withStore(url, { create: false, hashIds: false }, async (store) => {
        expect(await store.get('koa:sess:1')).to.deep.equal({ n: 1 })
        expect(await store.get('koa:sess:expired')).to.equal(undefined)
        await store.set('koa:sess:1', { n: 'new' }, 600_000)
        await store.set('koa:sess:new', { n: 4 }, 600_000)
        await store.touch('koa:sess:2', 7_200_000)
        await store.destroy('koa:sess:3')
        await store.set('koa:sess:3', { late: true })
        expect(await store.get('koa:sess:1')).to.deep.equal({ n: 'new' })
        expect(await store.get('koa:sess:3')).to.equal(undefined)
        expect(await store.count()).to.equal(3)
      })
      expect(await sql(url, columns)).to.deep.equal(before)
      const [row] = await sql(
        url,
        `select extract(epoch from expiry::timestamptz - now())::float8 as left, tenant from session where id = 'koa:sess:2'`,
      )
      expect(row?.left).to.be.within(7_000, 7_200)
      expect(row?.tenant).to.equal(7)
    })

    it(`is upgraded in place with create: true and hashIds: false (${type})`, async () => {
      const url = await oldTable(type)
      await withStore(url, { hashIds: false }, async (store, warnings) => {
        expect(await store.get('koa:sess:2')).to.deep.equal({ n: 2 })
        expect(await store.count()).to.equal(3)
        expect(warnings).to.deep.equal([])
      })
      const names = await sql(
        url,
        `select attname || ' ' || format_type(atttypid, null) as c from pg_attribute where attrelid = 'session'::regclass and attnum > 0 order by attnum`,
      )
      expect(names.map(({ c }) => c)).to.deep.equal([
        'id text',
        'expiry timestamp with time zone',
        'session json',
        'tenant integer',
        'user_id text',
        'created_at timestamp with time zone',
        'last_access timestamp with time zone',
        'version bigint',
      ])
      expect(await rawIds(url)).to.have.length(4)
    })

    it(`loses no session when its ids are hashed (${type})`, async () => {
      const url = await oldTable(type, 5_000)
      await declareRaw(url)
      await withStore(url, {}, async (store) => {
        // Read before, while and after their ids are hashed.
        const sessions = await Promise.all(
          Array.from({ length: 500 }, (_, i) => store.get(`koa:sess:${5_000 - i * 10}`)),
        )
        expect(sessions.map((session) => session?.n)).to.deep.equal(
          Array.from({ length: 500 }, (_, i) => 5_000 - i * 10),
        )
        await until(async () => (await rawIds(url)).length === 0)
        expect(await store.get('koa:sess:1')).to.deep.equal({ n: 1 })
        expect(await store.count()).to.equal(5_000)
        const [row] = await sql(url, 'select session, tenant from session where id = $1', [
          digest('koa:sess:17'),
        ])
        expect(row).to.deep.equal({ session: { n: 17 }, tenant: 7 })
      })
    })
  }

  it('keeps working for a process with koa-pg-session while it is upgraded', async () => {
    const url = await freshDatabase()
    const child = start('old-software.js', [url])
    try {
      expect(await message(child)).to.equal('running')
      const sids: string[] = []
      await withStore(url, { hashIds: false }, async (store) => {
        for (let n = 0; n < 100; n++) sids.push(await store.create({ n }))
        expect(await store.get('koa:sess:old-0')).to.have.property('n')
        const last = `select from session where id = 'koa:sess:old-199'`
        await until(async () => (await sql(url, last)).length === 1)
        child.send('stop')
        const { sessions, errors } = await message<{ sessions: Record<string, number>; errors: string[] }>(
          child,
        )
        expect(errors).to.deep.equal([])
        expect(Object.keys(sessions)).to.have.length(200)
        for (const [sid, n] of Object.entries(sessions)) expect(await store.get(sid)).to.deep.equal({ n })
        for (const [n, sid] of sids.entries()) expect(await store.get(sid)).to.deep.equal({ n })
      })
    } finally {
      child.kill()
    }
  })

  it('never opens a session for a digest: before, while and after ids are hashed', async () => {
    const url = await oldTable('timestamptz', 2_000)
    await declareRaw(url)
    const digests = Array.from({ length: 2_000 }, (_, i) => digest(`koa:sess:${i + 1}`))
    for (const create of [false, true])
      await withStore(url, { create }, async (store) => {
        await store.get('koa:sess:1')
        for (let i = 0; i < 2_000; i += 50) {
          const opened = await Promise.all(digests.slice(i, i + 50).map((id) => store.get(id)))
          expect(opened.filter(Boolean)).to.deep.equal([])
        }
        if (create) await until(async () => (await rawIds(url)).length === 0)
        const stored = await sql<{ id: string }>(url, `select id from session where id like 'sha256:%'`)
        for (const { id } of stored.slice(0, 200)) {
          expect(await store.get(id)).to.equal(undefined)
          await store.destroy(id)
        }
      })
    await withStore(url, { hashIds: false, create: false }, async (store) => {
      expect(await store.get(digest('koa:sess:1'))).to.equal(undefined)
      expect((await rejection(store.set(digest('koa:sess:1'), {}))).message).to.match(
        /not the form of a digest/,
      )
    })
    await withStore(url, {}, async (store) => {
      await store.set(digest('koa:sess:1'), { forged: true })
      expect(await store.get('koa:sess:1')).to.deep.equal({ n: 1 })
    })
  })

  it('keeps raw ids, with a warning, until it is known that koa-pg-session is gone', async () => {
    const url = await oldTable('timestamptz')
    for (const create of [false, true])
      await withStore(url, { create, cache: false }, async (store, warnings) => {
        const sid = await store.create({ n: 'new' })
        expect(await store.get(sid)).to.deep.equal({ n: 'new' })
        await store.set('koa:sess:1', { n: 'saved' })
        await store.touch('koa:sess:2', 7_200_000)
        expect(await store.get('koa:sess:1')).to.deep.equal({ n: 'saved' })
        expect(
          await sql(url, `select from session where id like 'sha256:%' and expiry > now()`),
        ).to.have.length(0)
        expect(await sql(url, 'select from session where id = $1', [sid])).to.have.length(1)
        expect(warnings).to.deep.equal([
          '"public"."session" keeps raw session ids, as koa-pg-session may still use it: when no process with koa-pg-session is left, run as the owner: npx koa-pg-store migrate --to-hashed-ids',
        ])
      })
  })

  it('finds a row under its raw id and under its digest in every method, and lets the digest win', async () => {
    const url = await oldTable('timestamptz')
    await declareRaw(url)
    for (const hashIds of [true, false])
      await withStore(url, { create: false, hashIds, cache: false }, async (store) => {
        const sid = await store.create({ n: 'new' })
        const form = hashIds ? 'sha256:%' : sid
        expect(await sql(url, 'select from session where id like $1', [form])).to.have.length(1)
        for (const form of ['raw', 'hashed']) {
          const { n } = (await store.get('koa:sess:1')) ?? expect.fail()
          await store.set('koa:sess:1', { n: `${n} ${form}` })
          await store.touch('koa:sess:2', 7_200_000)
          await store.destroy('koa:sess:3')
          await store.set('koa:sess:3', { late: true })
          expect(await store.get('koa:sess:3')).to.equal(undefined)
          if (form === 'raw')
            for (const n of [1, 2, 3])
              await sql(url, 'update session set id = $1 where id = $2', [
                digest(`koa:sess:${n}`),
                `koa:sess:${n}`,
              ])
        }
        expect(await store.get('koa:sess:1')).to.deep.equal({ n: '1 raw hashed' })
        expect(await store.count()).to.equal(3)
        // An old process saves under the raw id what it had loaded before the id was hashed.
        await sql(
          url,
          `insert into session (id, expiry, session) values ('koa:sess:3', now() + '1 hour', '{"late": true}')`,
        )
        expect(await store.get('koa:sess:3')).to.equal(undefined)
        await sql(url, 'delete from session')
        await sql(
          url,
          `insert into session (id, expiry, session) select 'koa:sess:' || n, now() + '1 hour', json_build_object('n', n) from generate_series(1, 3) n`,
        )
      })
  })

  it('gets its ids hashed by any store where migrate --to-hashed-ids was interrupted', async () => {
    const url = await oldTable('timestamptz', 300)
    await sql(url, `comment on column session.id is '${replacedIdComment}'`)
    await withStore(url, { create: false, hashIds: false, cache: false }, async (store, warnings) => {
      const sid = await store.create({ n: 'new' })
      expect(await sql(url, 'select from session where id = $1', [digest(sid)])).to.have.length(1)
      expect(await store.get('koa:sess:7')).to.deep.equal({ n: 7 })
      await until(async () => (await rawIds(url)).length === 0)
      const comment = `select col_description('session'::regclass, 1) as text`
      await until(async () => String((await sql(url, comment))[0]?.text).startsWith('SHA-256'))
      expect(await store.get('koa:sess:7')).to.deep.equal({ n: 7 })
      expect(warnings).to.deep.equal([])
    })
  })

  it('counts and reports a session once that has a row under its id and one under its digest', async () => {
    const url = await oldTable('timestamptz', 4)
    await withStore(url, { hashIds: false, userId: () => 'ann' }, async (store) => {
      await store.setup()
      const sids = [1, 2, 3, 4].map((n) => `koa:sess:${n}`)
      await sql(
        url,
        `insert into session (id, expiry, session, user_id) select unnest($1::text[]), now() + '1 hour', '{}', 'ann'`,
        [sids.map(digest)],
      )
      await sql(url, `update session set user_id = 'ann' where id like 'koa:sess:_'`)
      const log: unknown[] = []
      for (const event of ['destroy', 'revoke'] as const)
        store.on(event, ({ handle, userId, reason }) => log.push([handle, userId, reason]))
      const handles = sids.map((sid) => store.handleOf(sid))
      await store.destroy(sids[0] as string)
      expect(await store.revoke(handles[1] as string)).to.equal(true)
      expect(await store.destroySessionsOf('ann')).to.equal(2)
      expect(log.splice(0, 2)).to.deep.equal([
        [handles[0], 'ann', 'logout'],
        [handles[1], 'ann', 'revoked'],
      ])
      expect(log).to.have.deep.members([
        [handles[2], 'ann', 'revoked'],
        [handles[3], 'ann', 'revoked'],
      ])
      for (const sid of sids) expect(await store.get(sid, { fresh: true })).to.equal(undefined)
      expect(await store.count()).to.equal(0)
    })
  })

  it('keeps digests if a store with hashIds: false starts on them, and finds what other stores wrote', async () => {
    const url = await freshDatabase()
    await withStore(url, {}, async (store) => {
      const sid = await store.create({ n: 1 })
      await withStore(url, { hashIds: false }, async (old, warnings) => {
        expect(await old.get(sid)).to.deep.equal({ n: 1 })
        const late = await old.create({ n: 2 })
        expect(await store.get(late)).to.deep.equal({ n: 2 })
        expect(warnings).to.deep.equal([
          '"public"."session" holds digests of session ids, so the option hashIds: false has no effect',
        ])
      })
    })
    expect(await rawIds(url)).to.deep.equal([])
  })

  it('records when all ids are digests, and looks for raw ids for another day', async () => {
    const url = await oldTable('timestamptz', 0)
    await sql(url, 'delete from session')
    await declareRaw(url)
    const comment = async () =>
      (await sql<{ c: string | null }>(url, `select col_description('session'::regclass, 1) as c`))[0]?.c
    await withStore(url, {}, async (store) => {
      await store.setup()
      await until(async () => (await comment()) !== 'session id')
    })
    expect(await comment()).to.match(
      /^SHA-256 of the session id, and of no other since 20\d\d-\d\d-\d\dT[\d:]+Z$/,
    )
    const late = `insert into session (id, expiry, session) values ('koa:sess:late', now() + '1 hour', '{}') on conflict do nothing`
    await sql(url, late)
    await withStore(url, {}, async (store) => expect(await store.get('koa:sess:late')).to.deep.equal({}))
    await sql(
      url,
      `comment on column session.id is 'SHA-256 of the session id, and of no other since 2020-01-01T00:00:00Z'; delete from session`,
    )
    await sql(url, late)
    await withStore(url, {}, async (store) => expect(await store.get('koa:sess:late')).to.equal(undefined))
  })

  it('is cheap and quiet for a role that may only change rows: one warning, no write before a read', async () => {
    const url = await oldTable('timestamptz', 300)
    await withStore(url, { hashIds: false }, (store) => store.setup())
    await sql(
      url,
      `do $$ begin if not exists (select from pg_roles where rolname = 'dml_role') then create role dml_role login password 'pw'; end if; end $$; grant select, insert, update, delete on session to dml_role`,
    )
    const pool = new pg.Pool({ connectionString: at(url, { user: 'dml_role', password: 'pw' }) })
    pool.on('error', () => undefined)
    const texts: string[] = []
    const query = (text: string, values: unknown[]) => {
      texts.push(text)
      return pool.query<Record<string, unknown>>(text, values)
    }
    await withStore(query, { cache: false }, async (store, warnings) => {
      await store.setup()
      await until(() => warnings.length === 1)
      expect(warnings[0]).to.match(
        /^all session ids are digests, but this role may not record it, .* run as the owner: comment on column "public"."session".id is 'SHA-256/,
      )
      expect(await rawIds(url)).to.deep.equal([])
      texts.length = 0
      expect(await store.get('koa:sess:7')).to.deep.equal({ n: 7 })
      expect(await store.get('koa:sess:missing')).to.equal(undefined)
      expect(texts.map((text) => text.slice(0, 7))).to.deep.equal(['select ', 'select '])
      expect(warnings).to.have.length(1)
      const [, statement = ''] = /run as the owner: (.*)$/.exec(warnings[0] ?? '') ?? []
      await sql(url, statement)
    })
    await pool.end()
    await sql(url, 'drop owned by dml_role')
  })

  it('is used without an upgrade, with a warning, by a role that may not alter it', async () => {
    const url = await oldTable('timestamp')
    await sql(
      url,
      `do $$ begin if not exists (select from pg_roles where rolname = 'not_owner') then create role not_owner login password 'pw'; end if; end $$; grant select, insert, update, delete on session to not_owner`,
    )
    const asRole = at(url, { user: 'not_owner', password: 'pw' })
    await withStore(asRole, { hashIds: false, cache: false }, async (store, warnings) => {
      expect(await store.get('koa:sess:1')).to.deep.equal({ n: 1 })
      expect(warnings).to.have.length(1)
      expect(warnings[0]).to.match(
        /used as it is, without user_id, created_at, last_access, version, timestamptz for expiry: must be owner of table session: run as the owner: .*sql\/003-columns.sql/,
      )
    })
    await withStore(asRole, { hashIds: false, maxLifetime: 1_000 }, async (store) => {
      expect((await rejection(store.setup())).message).to.match(/must be owner of table session/)
    })
    await withStore(asRole, { hashIds: false, create: false, maxLifetime: 1_000 }, async (store) => {
      expect((await rejection(store.setup())).message).to.match(
        /maxLifetime needs the column created_at: run psql -v schema=public -v table=session -f node_modules\/koa-pg-store\/sql\/003-columns.sql/,
      )
    })
  })

  it('gets the users of its sessions in the background, so that destroySessionsOf finds them', async () => {
    const url = await oldTable('timestamptz', 0)
    await sql(
      url,
      `insert into session (id, expiry, session) select 'koa:sess:' || n, now() + '1 hour',
         json_build_object('account', json_build_object('mail', 'user ' || n % 3)) from generate_series(1, 450) n;
       insert into session (id, expiry, session) values ('koa:sess:anonymous', now() + '1 hour', '{"n": 1}'), ('koa:sess:array', now() + '1 hour', '[]')`,
    )
    const userId = ({ account }: Record<string, unknown>): string | undefined =>
      account === undefined ? undefined : (Reflect.get(Object(account), 'mail') as string)
    await withStore(url, { hashIds: false, userId }, async (store) => {
      await store.setup()
      await until(async () => (await store.sessionsOf('user 1')).length === 150)
      await until(async () => (await store.sessionsOf('user 2')).length === 150)
      expect(await store.destroySessionsOf('user 1')).to.equal(150)
      expect(await store.get('koa:sess:1')).to.equal(undefined)
      expect(await store.get('koa:sess:anonymous')).to.deep.equal({ n: 1 })
      const { out } = await run(url, 'doctor', '--raw-ids')
      expect(out).to.match(
        /users: 300 of 302 active sessions belong to a user; all earlier .* once more within an hour/,
      )
      expect(out).to.match(/ids: 453 raw, to be replaced by digests/)
    })
  })
})
