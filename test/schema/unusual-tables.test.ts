// Tables that differ from the one the store creates: partitioned, with odd contents, or with a stranger's functions beside them.
import { expect } from 'chai'
import { PgStore, SetupError } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('a table that differs from the one that the store creates', () => {
  async function twoInstances(url: string): Promise<[PgStore, PgStore]> {
    return [await trusted(url), await trusted(url)]
  }

  it('notifies of changes to sessions that were created in the future, after the server’s clock was set back', async () => {
    const url = await freshDatabase()
    const [a, b] = await twoInstances(url)
    await a.set('x', { n: 1 })
    await sql(url, `update session set created_at = created_at + interval '1 hour'`)
    await until(async () => (await b.get('x'))?.n === 1)
    await a.set('x', { n: 2 })
    await until(async () => (await b.get('x'))?.n === 2)
    await a.close()
    await b.close()
  })

  it('has one channel if it is partitioned, also for changes in psql', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `create table session (id text primary key, expiry timestamptz not null, session json, user_id text,
         created_at timestamptz not null default now(), last_access timestamptz not null default now(), version bigint not null)
         partition by hash (id);
       create table session_0 partition of session for values with (modulus 2, remainder 0);
       create table session_1 partition of session for values with (modulus 2, remainder 1)`,
    )
    const [a, b] = await twoInstances(url)
    expect((await a.stats()).triggers).to.equal(true)
    for (const sid of ['x', 'y', 'z']) {
      await a.set(sid, { n: 1 })
      await b.get(sid)
    }
    await sql(url, `update session set session = '{"n": 2}'`)
    for (const sid of ['x', 'y', 'z']) await until(async () => (await b.get(sid))?.n === 2)
    await sql(url, 'delete from session')
    for (const sid of ['x', 'y', 'z']) await until(async () => (await b.get(sid)) === undefined)
    await a.close()
    await b.close()
  })

  it('is refused if its ids are too short for a digest', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      'create table session (id varchar(40) primary key, expiry timestamptz not null, session json)',
    )
    const store = new PgStore(url, { create: false })
    const error = await rejection(store.setup())
    expect(error).to.be.instanceOf(SetupError)
    expect(error.message).to.equal(
      `"public"."session" can't be used: column id holds 40 characters, and must hold 50: run alter table "public"."session" alter column id type text`,
    )
    await sql(url, 'alter table session alter column id type varchar(50)')
    await store.set('x', { n: 1 })
    expect(await store.get('x')).to.deep.equal({ n: 1 })
    await store.close()
  })

  for (const encoding of ['LATIN1', 'SQL_ASCII'])
    it(`is refused in a database with the encoding ${encoding}`, async () => {
      const name = `encoding_${encoding}_${process.pid}`.toLowerCase()
      const utf8 = await freshDatabase()
      await sql(utf8, `create database ${name} encoding '${encoding}' locale 'C' template template0`)
      await using store = new PgStore(at(utf8, { database: name }))
      const error = await rejection(store.setup())
      expect(error).to.be.instanceOf(SetupError)
      expect(error.message).to.match(
        new RegExp(`^the database has the encoding ${encoding}, and must have UTF8: run create database`),
      )
    })

  it('has a record of the last sweep that is no session, even when the server’s clock is put back', async () => {
    const url = await freshDatabase()
    await using store = new PgStore(url)
    await store.sweep()
    const rows = await sql(url, `select from session where expiry <= '4713-01-01 BC'::timestamptz`)
    expect(rows).to.have.length(1)
    expect(await sql(url, 'select from session')).to.have.length(1)
  })

  it('may hold a session that never expires', async () => {
    const url = await freshDatabase()
    const [a, b] = await twoInstances(url)
    await a.set('x', { n: 1 })
    await sql(url, `update session set expiry = 'infinity'`)
    expect(await b.get('x')).to.deep.equal({ n: 1 })
    await b.touch('x', 60_000)
    await b.set('x', { n: 2 }, 60_000)
    expect(await b.get('x', { fresh: true })).to.deep.equal({ n: 2 })
    await a.close()
    await b.close()
  })

  it('may hold a session that is nested too deeply to be cloned', async () => {
    const url = await freshDatabase()
    const [a, b] = await twoInstances(url)
    await a.set('x', { n: 1 })
    const depth = 6_000
    await sql(url, 'update session set session = $1::text::json', [
      `{"a":${'['.repeat(depth)}${']'.repeat(depth)}}`,
    ])
    await until(async () => (await b.get('x'))?.a !== undefined)
    for (let i = 0; i < 3; i++) expect(await b.get('x')).to.have.property('a')
    await a.close()
    await b.close()
  })

  it('never makes the store call functions that another role created', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `do $$ begin if not exists (select from pg_roles where rolname = 'mallory') then create role mallory login password 'pw'; end if; end $$;
       grant create on schema public to mallory;
       create table session (id text not null primary key, expiry timestamp not null, session json);
       create table stolen (who text, what text); grant all on stolen to mallory;
       insert into session select sid, now() + interval '1 hour', '{"n": 1}' from unnest(array['koa:sess:raw', 'koa:sess:unread']) sid`,
    )
    const planted = (name: string, args: string, result: string) =>
      `create function public.${name}(${args}) returns ${result} language plpgsql as
       $f$ begin insert into public.stolen values (current_user, '${name}'); return null; end $f$;`
    await sql(
      at(url, { user: 'mallory', password: 'pw' }),
      planted('convert_to', 'text, text', 'bytea') +
        planted('convert_to', 'text, unknown_text', 'bytea').replace('unknown_text', 'varchar') +
        planted('col_description', 'oid, smallint', 'text') +
        planted('format_type', 'oid, text', 'text') +
        planted('koa_pg_store_session', '', 'text'),
    )
    const raw = new PgStore(url, { hashIds: false, cache: false })
    expect(await raw.get('koa:sess:raw')).to.deep.equal({ n: 1 })
    await raw.set('koa:sess:raw', { n: 2 })
    await sql(url, `update session set session = '{"n": 3}'`)
    await raw.close()
    const hashed = new PgStore(url, { cache: false })
    expect(await hashed.get('koa:sess:raw')).to.deep.equal({ n: 3 })
    await until(async () => (await sql(url, `select from session where id like 'koa:%'`)).length === 0)
    await hashed.close()
    expect(await sql(url, 'select * from stolen')).to.deep.equal([])
  })

  it('is upgraded except for a column that a view depends on', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `create table session (id text not null primary key, expiry timestamp not null, session json); create view ends as select expiry from session`,
    )
    const store = new PgStore(url, { hashIds: false })
    const warnings: string[] = []
    store.on('warning', (error) => warnings.push(error.message))
    await store.set('koa:sess:x', { n: 1 })
    expect(await store.get('koa:sess:x')).to.deep.equal({ n: 1 })
    expect((await store.stats()).triggers).to.equal(true)
    expect(warnings).to.deep.equal([
      `"public"."session" is used as it is, without timestamptz for expiry: at a quiet time, run psql -v schema=public -v table=session -f node_modules/koa-pg-store/sql/004-expiry.sql`,
    ])
    await store.close()
  })
})
