// What other roles have created on the search path never runs, and is never read, in place of PostgreSQL's own: functions and
// operators that suit the types of the arguments as well or better, types, and views with the names of catalogs.
import { expect } from 'chai'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { run } from '../helpers/command.js'
import { recordingClient } from '../helpers/recording-client.js'
import { at, freshDatabase, sql } from '../helpers/server.js'

/** For each type of a parameter of PostgreSQL's functions, the types for which an overload would suit an argument as well or better. */
const relatedTypes = `
  select t.oid as declared, related
  from pg_type t cross join lateral unnest(case
    when t.typname in ('any', 'anyelement', 'anynonarray', 'anycompatible', 'anycompatiblenonarray')
      then array['text', 'varchar', 'int4', 'int8', 'float8', 'numeric', 'timestamptz', 'timestamp', 'json', 'jsonb', 'bool', 'name', 'oid', 'regclass']
    when t.typname in ('anyarray', 'anycompatiblearray') then array['text[]', 'varchar[]', 'int8[]', 'float8[]', 'int2vector', 'tid[]']
    when t.typname in ('text', 'name', 'varchar', 'bpchar') then array['text', 'varchar', 'name']
    when t.typname in ('int2', 'int4', 'int8', 'float4', 'float8', 'numeric') then array['int4', 'int8', 'float8', 'numeric', 'int2']
    when t.typname in ('timestamptz', 'timestamp', 'date') then array['timestamptz', 'timestamp']
    when t.typname in ('json', 'jsonb') then array['json', 'jsonb']
    when t.typname in ('oid', 'regclass', 'regproc', 'regrole', 'regtype') then array['oid', 'regclass', 'regtype', 'regrole']
    else array[t.typname::text] end) as related
  where t.typnamespace = 'pg_catalog'::regnamespace`

/** Creates, in the schema public, a hostile one of each of these functions, operators and catalogs, and types. */
function hostile(words: string[], operators: string[]): string {
  const list = (values: string[]): string =>
    `array[${values.map((value) => `'${value}'`).join(', ')}]::text[]`
  return `do $do$ declare f record; begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    create temp table related on commit drop as ${relatedTypes};
    for f in
      select distinct p.proname, s.args from pg_proc p
      cross join lateral (
        select case p.pronargs
          when 0 then array['']
          when 1 then (select array_agg(related) from related where declared = p.proargtypes[0])
          when 2 then (select array_agg(a.related || ', ' || b.related) from related a, related b where a.declared = p.proargtypes[0] and b.declared = p.proargtypes[1])
          when 3 then (select array_agg(a.related || ', ' || b.related || ', ' || c.related) from related a, related b, related c
            where a.declared = p.proargtypes[0] and b.declared = p.proargtypes[1] and c.declared = p.proargtypes[2])
        end as all_args) x
      cross join lateral unnest(x.all_args) as s (args)
      where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind in ('f', 'a', 'w') and p.proname = any(${list(words)})
    loop
      begin
        execute format('create function public.%I(%s) returns text language plpgsql as $f$ begin raise exception ''hostile function %s(%s)''; end $f$', f.proname, f.args, f.proname, f.args);
      exception when others then null; end;
    end loop;
    for f in
      select distinct o.oprname, l.related as l, r.related as r from pg_operator o
      join related l on l.declared = o.oprleft join related r on r.declared = o.oprright
      where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprname = any(${list(operators)})
    loop
      begin
        execute format('create or replace function public.hostile_operator(%s, %s) returns bool language plpgsql as $f$ begin raise exception ''hostile operator ${'%%'}'', %L; end $f$',
          f.l, f.r, f.l || ' ' || f.oprname || ' ' || f.r);
        execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.hostile_operator)', f.oprname, f.l, f.r);
      exception when others then null; end;
    end loop;
    for f in select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace and relname = any(${list(words)}) loop
      execute format('create view public.%I as select 1 as hostile', f.relname);
    end loop;
    for f in select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace
      and typname in ('text', 'json', 'jsonb', 'int4', 'int8', 'float8', 'timestamptz', 'bool', 'name', 'oid', 'tid', 'regclass')
    loop
      execute format('create domain public.%1$I as pg_catalog.%1$I check (false)', f.typname);
    end loop;
  end $do$`
}

const tables: Record<string, string | undefined> = {
  'its own table': undefined,
  'a table of koa-pg-session':
    'create table session (id text primary key, expiry timestamp not null, session json)',
  'a table with varchar columns': `create table session (id varchar(60) primary key, expiry timestamptz not null, session jsonb,
    user_id varchar(60), created_at timestamptz not null default now(), last_access timestamptz not null default now(),
    version bigint not null default 0)`,
}

const optionSets = [
  {},
  { cache: false, idleTimeout: 3_600_000, maxLifetime: 7_200_000, maxSessionsPerUser: 3 },
] as const

/** Makes every kind of call. */
async function exercise(url: string, options: PgStoreOptions, texts?: string[]): Promise<void> {
  const { Client, texts: recorded } = recordingClient()
  const expired: unknown[] = []
  const store = new PgStore(
    { connectionString: url, Client },
    { cleanup: false, touch: { interval: 0 }, ...options },
  )
  const warnings: string[] = []
  store.on('warning', ({ message }) => {
    if (!/" keeps raw session ids/.test(message)) warnings.push(message)
  })
  try {
    await store.setup()
    // An upgrade that fails isn't an error.
    expect(warnings).to.deep.equal([])
    const sids = Array.from({ length: 5 }, (_, n) => `session ${n}`)
    await store.set('one', { n: 1 })
    await Promise.all(sids.map((sid, n) => store.set(sid, { n, userId: 'ann' })))
    const [one] = await Promise.all([
      store.get('one', { fresh: true }),
      ...sids.map((sid) => store.get(sid, { fresh: true })),
    ])
    expect(one).to.deep.equal({ n: 1 })
    await store.set('one', Object.assign(one ?? {}, { m: 1 }))
    const loaded = await Promise.all(sids.map((sid) => store.get(sid)))
    await Promise.all(sids.map((sid, n) => store.set(sid, { ...loaded[n], m: 1 })))
    await Promise.all(
      loaded.map((session, n) => store.set(sids[n] as string, Object.assign(session ?? {}, { k: 1 }))),
    )
    await store.set('one', (await store.get('one')) ?? {}, 10_000)
    await store.touch('one', 90_000_000)
    await store.add('added', { n: 1 })
    await store.create({ userId: 'ann' })
    await store.create({ userId: 'ann' })
    expect(await store.deleteAttribute('ann', 'm')).to.be.at.least(1)
    const list = await store.sessionsOf('ann')
    expect(await store.revoke(list[0]?.handle ?? '')).to.equal(true)
    expect(await store.destroySessionsOf('ann')).to.be.at.least(1)
    let count = 0
    for await (const _ of store.sessions()) count++
    expect(await store.count()).to.equal(count)
    await store.destroy('one')
    await Promise.all(sids.map((sid) => store.destroy(sid)))
    expect(await store.get('one')).to.equal(undefined)
    await store.set('expired', { n: 1 }, 1)
    await store.sweep()
    store.on('expire', (session) => expired.push(session))
    await store.set('expired too', { n: 1 }, 1)
    await store.sweep()
    expect(expired).to.have.length(1)
    await store.set('last', { n: 1 })
    expect(await store.destroyAll()).to.be.at.least(1)
    await store.clearCache()
    await store.stats()
    expect((await store.health()).error).to.equal(undefined)
    expect(warnings).to.deep.equal([])
  } finally {
    await store.close()
    texts?.push(...recorded)
  }
}

/** Every command that needs no other database. */
const commands = [
  ['migrate'],
  ['migrate', '--to-hashed-ids'],
  ['doctor'],
  ['stats'],
  ['list'],
  ['list', '--user', 'ann'],
  ['export'],
  ['sweep'],
  ['revoke', '--user', 'ann', '--yes'],
]

describe('with functions, operators, types and views of other roles on the search path', () => {
  /** Databases to copy, by the name of the table in them. */
  const templates = new Map<string, string>()
  let copies = 0

  before(async () => {
    // Whatever the statements contain exists in a hostile form, too.
    const texts: string[] = []
    for (const create of Object.values(tables))
      for (const options of optionSets) {
        const url = await freshDatabase()
        if (create !== undefined) await sql(url, create)
        await exercise(url, options, texts)
      }
    const all = texts.join('\n')
    const words = [...new Set(all.match(/[a-z_][a-z0-9_]+/g))]
    const operators = new Set(all.replaceAll(/'[^']*'/g, '').match(/[-+*/<>=~!@#%^&|]+/g))
    for (const [name, create] of Object.entries(tables)) {
      const url = await freshDatabase()
      if (create !== undefined) await sql(url, create)
      await sql(url, hostile(words, [...operators]))
      const [found] = await sql(
        url,
        `set search_path = pg_catalog; select count(*)::int as functions, (select count(*)::int from pg_operator where oprnamespace = 'public'::regnamespace) as operators,
           (select count(*)::int from pg_class where relname like 'pg%' and relnamespace = 'public'::regnamespace) as views
         from pg_proc where pronamespace = 'public'::regnamespace`,
      )
      expect(found?.functions).to.be.above(500)
      expect(found?.operators).to.be.above(100)
      expect(found?.views).to.be.above(5)
      templates.set(name, url)
    }
  })

  /** Returns a database with hostile objects, whose search path is this. */
  async function hostileDatabase(table: string, path: string): Promise<string> {
    const template = templates.get(table) as string
    const name = `foreign_${process.pid}_${++copies}`
    const admin = at(template, { database: 'postgres' })
    await sql(admin, `create database ${name} template ${new URL(template).pathname.slice(1)}`)
    await sql(admin, `alter database ${name} set search_path = ${path}`)
    return at(template, { database: name })
  }

  for (const path of ['"$user", public', 'public, pg_catalog'])
    describe(`search_path = ${path}`, () => {
      for (const table of Object.keys(tables))
        for (const options of optionSets)
          it(`uses only PostgreSQL's own: ${table}, ${JSON.stringify(options)}`, async () => {
            await exercise(await hostileDatabase(table, path), options)
          })

      it('uses only PostgreSQL’s own in the command line', async () => {
        const url = await hostileDatabase('its own table', path)
        const store = new PgStore(url, { cleanup: false })
        await Promise.all([1, 2, 3].map((n) => store.set(`session ${n}`, { n, userId: 'ann' })))
        await store.close()
        for (const args of commands) {
          const { status, out, errors } = await run(url, ...args)
          const command = args.join(' ')
          expect(out + errors, command).not.to.include('hostile')
          expect({ command, status, errors }).to.deep.equal({ command, status: 0, errors: '' })
        }
      })
    })
})
