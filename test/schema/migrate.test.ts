import { expect } from 'chai'
import pg from 'pg'
import { PgStore, SetupError } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import type { Call, Outcome } from '../helpers/programs/calls.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const columnsOf = (url: string, table: string) =>
  sql<{ name: string; type: string; default: string | null; needed: boolean }>(
    url,
    `select attname as name, format_type(atttypid, atttypmod) as type, attnotnull as needed, pg_get_expr(adbin, adrelid) as default
     from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
     where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`,
    [table],
  )

/** Creates a role with a password, and returns its connection string. */
async function role(url: string, name: string, grants: string): Promise<string> {
  await sql(
    url,
    `do $$ begin if not exists (select from pg_roles where rolname = '${name}') then create role ${name} login password 'pw'; end if; end $$; ${grants}`,
  )
  return at(url, { user: name, password: 'pw' })
}

describe('setup', () => {
  it('creates the table once, with these columns, and emits connect', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url)
    let connects = 0
    store.on('connect', () => connects++)
    await Promise.all([store.setup(), store.setup(), store.get('x')])
    await store.setup()
    expect(connects).to.equal(1)
    expect(await columnsOf(url, 'session')).to.deep.equal([
      { name: 'id', type: 'text', default: null, needed: true },
      { name: 'expiry', type: 'timestamp with time zone', default: null, needed: true },
      { name: 'session', type: 'json', default: null, needed: false },
      { name: 'user_id', type: 'text', default: null, needed: false },
      { name: 'created_at', type: 'timestamp with time zone', default: 'now()', needed: true },
      { name: 'last_access', type: 'timestamp with time zone', default: 'now()', needed: true },
      { name: 'version', type: 'bigint', default: null, needed: true },
    ])
    await store.close()
  })

  it('creates a schema and a table of any name', async () => {
    const url = await freshDatabase()
    for (const name of ['Üser "quoted"', "a'b", '$do$', '\\', ':"table"', 'select']) {
      const store = new PgStore(url, { schema: name, table: name })
      await store.set('a', { name })
      expect(await store.get('a')).to.deep.equal({ name })
      await store.close()
    }
  })

  it('works if another process creates the table after the snapshot of the statement that looks for it', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    pool.on('error', () => undefined)
    const early = await pool.connect()
    await early.query('begin isolation level repeatable read; select from pg_class limit 1')
    const other = new PgStore(url)
    await other.setup()
    let calls = 0
    const store = new PgStore(
      async (text, values) => {
        calls++
        if (calls > 1) return pool.query(text, values)
        const { rows } = await early.query(text, values)
        await early.query('commit')
        early.release()
        return rows
      },
      { cache: false },
    )
    await store.setup()
    expect(calls).to.be.above(1)
    await Promise.all([store.close(), other.close()])
    await pool.end()
  })

  it('works for 20 processes at once on an empty database', async function () {
    this.timeout(120_000)
    const url = await freshDatabase()
    const children = Array.from({ length: 20 }, () =>
      start('calls.js', [url, JSON.stringify({ schema: 'together' })]),
    )
    try {
      await Promise.all(children.map((child) => new Promise((resolve) => child.once('spawn', resolve))))
      const outcomes = children.map((child) => message<Outcome>(child))
      const call: Call = ['create', { n: 1 }]
      for (const child of children) child.send(call)
      for (const outcome of await Promise.all(outcomes)) expect(outcome).to.have.property('value')
      expect(await sql(url, 'select count(*)::int as n from together.session')).to.deep.equal([{ n: 20 }])
    } finally {
      for (const child of children) child.kill()
    }
  })

  it('needs only the rights to select, insert, update and delete on an existing table', async () => {
    const url = await freshDatabase()
    const owner = new PgStore(url)
    await owner.set('a', { a: 1 })
    await owner.close()
    const limited = await role(url, 'dml_only', 'grant select, insert, update, delete on session to dml_only')
    for (const create of [true, false]) {
      const store = new PgStore(limited, { create })
      store.on('warning', (error) => expect.fail(error.message))
      expect(await store.get('a')).to.deep.equal({ a: 1 })
      const sid = await store.create({ b: 2 })
      await store.touch(sid)
      await store.destroy(sid)
      expect(await store.count()).to.equal(1)
      await store.close()
    }
  })

  it('names the rights that are missing, and works as soon as they are granted', async () => {
    const url = await freshDatabase()
    const owner = new PgStore(url)
    await owner.set('a', { a: 1 })
    await owner.close()
    const limited = await role(url, 'reader', 'grant select on session to reader')
    const store = new PgStore(limited)
    const error = await rejection(store.get('a'))
    expect(error).to.be.instanceOf(SetupError)
    expect(error.message).to.equal(
      `"public"."session" can't be used: run grant insert, update, delete on "public"."session" to "reader"`,
    )
    await sql(url, 'grant insert, update, delete on "public"."session" to "reader"')
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    await store.close()
  })

  it('says what to run if it may not create the table, and works as soon as that was run', async () => {
    const url = await freshDatabase()
    const limited = await role(url, 'no_create', 'revoke create on schema public from public')
    const store = new PgStore(limited)
    const error = await rejection(store.setup())
    expect(error).to.be.instanceOf(SetupError)
    expect(error.message).to.match(
      /permission denied for schema public: run as the owner: .*psql .*sql\/002-table.sql/,
    )
    expect((error.cause as { code?: string }).code).to.equal('42501')
    const owner = new PgStore(url)
    await owner.setup()
    await owner.close()
    await sql(url, 'grant select, insert, update, delete on session to no_create')
    await store.set('a', { a: 1 })
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    await store.close()
  })

  it('names a wrong password or a missing database, and works soon after that is fixed', async () => {
    const url = await freshDatabase()
    const asRole = await role(url, 'wrong_password', 'grant create on schema public to wrong_password')
    await sql(url, `alter role wrong_password password 'other'`)
    const store = new PgStore(asRole)
    const refused = await rejection(store.get('a'))
    expect(refused).to.be.instanceOf(SetupError)
    expect(refused.message).to.match(
      /password authentication failed for user "wrong_password": check user and password/,
    )
    await sql(url, `alter role wrong_password password 'pw'`)
    // Further attempts to connect are made after a pause.
    const isServed = (call: PromiseLike<unknown>): Promise<boolean> =>
      Promise.resolve(call).then(
        () => true,
        () => false,
      )
    await until(() => isServed(store.get('a')))
    expect(await store.get('a')).to.equal(undefined)
    await store.close()

    const noDatabase = new PgStore(at(url, { database: 'not_there_yet' }))
    const missing = await rejection(noDatabase.setup())
    expect(missing).to.be.instanceOf(SetupError)
    expect(missing.message).to.match(/database "not_there_yet" does not exist: create the database/)
    await sql(url, 'create database not_there_yet')
    await until(() => isServed(noDatabase.set('a', { a: 1 })))
    expect(await noDatabase.get('a')).to.deep.equal({ a: 1 })
    await noDatabase.close()
    await sql(url, 'drop database not_there_yet')
  })

  it('refuses a server that is too old', async () => {
    const url = await freshDatabase()
    const pool = new pg.Pool({ connectionString: url })
    // The only thing that is simulated: PostgreSQL 12.
    const store = new PgStore(async (text, values) => {
      const { rows } = await pool.query<Record<string, unknown>>(text, values)
      return rows.map(({ state, ...row }) =>
        typeof state === 'string'
          ? { state: state.replace(/"serverVersion" : \d+/, '"serverVersion" : 120022') }
          : row,
      )
    })
    expect((await rejection(store.setup())).message).to.equal(
      'PostgreSQL is version 12; koa-pg-store needs 13 or newer',
    )
    await pool.end()
  })

  const unusable: [string, string, RegExp][] = [
    [
      'another program’s table',
      'create table session (sid text primary key, sess json, expire timestamp)',
      /lacks id, expiry, session \(it has sid, sess, expire\).*choose another name with the option "table"/,
    ],
    [
      'a column of another type',
      'create table session (id text primary key, expiry bigint not null, session json)',
      /column expiry is bigint, and must be timestamp with time zone/,
    ],
    [
      'an id that is not unique',
      'create table session (id text, expiry timestamptz, session json)',
      /id isn't unique: run alter table "public"."session" add primary key \(id\)/,
    ],
    [
      'a further column without a default',
      'create table session (id text primary key, expiry timestamptz, session json, tenant int not null)',
      /column tenant must have a default or allow null/,
    ],
  ]
  for (const [what, create, message] of unusable)
    for (const option of [true, false])
      it(`refuses ${what}, with create: ${option}, and does not change it`, async () => {
        const url = await freshDatabase()
        await sql(url, create)
        const before = await columnsOf(url, 'session')
        const store = new PgStore(url, { create: option })
        const error = await rejection(store.setup())
        expect(error).to.be.instanceOf(SetupError)
        expect(error.message).to.match(message)
        if (what === 'another program’s table') expect(await columnsOf(url, 'session')).to.deep.equal(before)
        await store.close()
      })

  it('says what is missing with create: false', async () => {
    const url = await freshDatabase()
    const noTable = new PgStore(url, { create: false })
    expect((await rejection(noTable.setup())).message).to.match(
      /doesn't exist: run psql -v schema=public -v table=session -v ids='SHA-256 of the session id' -f node_modules\/koa-pg-store\/sql\/002-table.sql/,
    )
    await noTable.close()
    const noSchema = new PgStore(url, { create: false, schema: 'nowhere' })
    expect((await rejection(noSchema.setup())).message).to.match(
      /schema "nowhere" is missing: run psql -v schema=nowhere -f node_modules\/koa-pg-store\/sql\/001-schema.sql/,
    )
    await noSchema.close()
  })

  it('sets up again after the table was dropped, or moved away and back', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url, { cache: false })
    await store.set('a', { a: 1 })
    await sql(url, 'drop table session')
    expect((await rejection(store.get('a'))).message).to.match(/relation "public.session" does not exist/)
    await store.set('a', { a: 2 })
    expect(await store.get('a')).to.deep.equal({ a: 2 })
    await store.close()
  })

  it('makes a request wait for setup no longer than for a connection', async () => {
    const url = await freshDatabase()
    const holder = new pg.Client(url)
    await holder.connect()
    await holder.query(`select pg_advisory_lock(hashtext('koa-pg-store'), hashtext('setup'))`)
    const store = new PgStore({ connectionString: url, connectionTimeoutMillis: 300 })
    const error = await rejection(store.get('a'))
    expect(error.message).to.match(/not ready within 300 ms/)
    // setup() itself waits for the lock, for a limited time too.
    expect((await rejection(store.setup())).message).to.match(/lock timeout.*another connection holds a lock/)
    await holder.end()
    await store.setup()
    expect(await store.get('a')).to.equal(undefined)
    await store.close()
  })
})
