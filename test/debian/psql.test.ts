// Runs the files of sql/ as a DBA does: with the command in the header of each, and the psql of the server's version.
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { delimiter } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { notRecordSql } from '../../lib/schema/table.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const bin = process.env.TEST_POSTGRES_BIN ?? ''
const files = readdirSync(`${root}sql`).filter((name) => name.endsWith('.sql'))

const usedNumbers = new Set<string>()

/** Returns the command in the header of a numbered file. */
function command(number: string): string {
  usedNumbers.add(number)
  const file = files.find((name) => name.startsWith(number)) ?? ''
  const commands = [...readFileSync(`${root}sql/${file}`, 'utf8').matchAll(/^-- +(psql .*)$/gm)]
  const [[, text = ''] = []] = commands
  expect(commands, `commands in ${file}`).to.have.length(1)
  expect(text).to.include(`-f sql/${file}`)
  return text
}

/** Runs a command in a shell whose environment names the database, and returns what psql printed. */
async function psql(url: string, text: string): Promise<string> {
  const { hostname, port, username, password, pathname } = new URL(url)
  const env = {
    PATH: `${bin}${delimiter}${process.env.PATH}`,
    PSQLRC: '/dev/null',
    LC_ALL: 'C',
    PGHOST: hostname,
    PGPORT: port,
    PGUSER: username,
    PGPASSWORD: password,
    PGDATABASE: pathname.slice(1),
  }
  const { stdout, stderr } = await promisify(execFile)('sh', ['-c', text], { cwd: root, env })
  // psql continues after an error and exits with status 0.
  expect(stderr.replaceAll(/^.*NOTICE: .* (does not exist|already exists), skipping\n/gm, '')).to.equal('')
  return stdout
}

/** Returns all properties of the session table, and of what belongs to it. */
async function shape(url: string): Promise<object> {
  const columns = await sql(
    url,
    `select attname as name, format_type(atttypid, atttypmod) as type, attnotnull as needed,
       pg_get_expr(adbin, adrelid) as default, col_description(attrelid, attnum) as comment
     from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
     where attrelid = 'public.session'::regclass and attnum > 0 and not attisdropped order by attnum`,
  )
  const indexes = await sql(url, `select indexdef from pg_indexes where tablename = 'session' order by 1`)
  const relation = await sql(
    url,
    `select relkind, relpersistence, relacl::text, reloptions, obj_description(oid) as comment,
       pg_get_userbyid(relowner) as owner from pg_class where oid = 'public.session'::regclass`,
  )
  const triggers = await sql(
    url,
    `select pg_get_triggerdef(oid) as text, tgenabled from pg_trigger
     where tgrelid = 'public.session'::regclass and not tgisinternal order by 1`,
  )
  const functions = await sql(
    url,
    `select pg_get_functiondef(oid) as text, proacl::text, pg_get_userbyid(proowner) as owner from pg_proc
     where pronamespace = 'public'::regnamespace order by 1`,
  )
  return { columns, indexes, relation, triggers, functions }
}

/** Sets a store up, and returns the properties of its table. */
async function setUp(url: string, options: PgStoreOptions): Promise<object> {
  const store = new PgStore(url, options)
  await store.setup()
  await store.close()
  return shape(url)
}

/** Creates a table as koa-pg-session does, with two sessions. */
async function formerTable(url: string): Promise<void> {
  await sql(
    url,
    `create table session (id text not null, expiry timestamp without time zone not null, session json,
       constraint session_pkey primary key (id));
     insert into session values ('koa:sess:ann', now() + interval '1 day', '{"user":"Ann"}'),
       ('koa:sess:bob', now() + interval '1 day', '{"user":"Bob"}')`,
  )
}

describe('a file of sql/', () => {
  before(() => {
    expect(bin, 'TEST_POSTGRES_BIN').to.not.equal('')
  })

  it('is run by the psql of the server that the tests run', async () => {
    const printed = await psql(await freshDatabase(), `psql -A -t -c 'show server_version'`)
    const { stdout: own } = await promisify(execFile)('psql', ['--version'], { env: { PATH: bin } })
    expect(own.trim()).to.equal(`psql (PostgreSQL) ${printed.trim()}`)
  })

  it('001 creates the schema that setup creates', async () => {
    const [byHand, byStore] = [await freshDatabase(), await freshDatabase()]
    const schema = `select nspname, nspacl::text, pg_get_userbyid(nspowner) as owner, obj_description(oid) as comment
      from pg_namespace where nspname = 'public'`
    for (const url of [byHand, byStore]) await sql(url, 'drop schema public')
    await psql(byHand, command('001'))
    await setUp(byStore, {})
    const made = await sql(byHand, schema)
    expect(made).to.have.length(1)
    expect(made).to.deep.equal(await sql(byStore, schema))
  })

  it('002 creates the table that setup creates, 006 its triggers, and 007 its index', async () => {
    const [byHand, byStore] = [await freshDatabase(), await freshDatabase()]
    for (const number of ['002', '006', '007']) await psql(byHand, command(number))
    expect(await shape(byHand)).to.deep.equal(await setUp(byStore, {}))
  })

  it('002 creates the table for raw ids that setup creates, with the variable that its header names', async () => {
    const [byHand, byStore] = [await freshDatabase(), await freshDatabase()]
    const [other = ''] = /-v ids='session id'/.exec(readFileSync(`${root}sql/002-table.sql`, 'utf8')) ?? []
    await psql(byHand, command('002').replace(/-v ids='[^']*'/, other))
    for (const number of ['006', '007']) await psql(byHand, command(number))
    expect(await shape(byHand)).to.deep.equal(await setUp(byStore, { hashIds: false }))
  })

  it('002 creates a table that a role can use with the rights that the header names', async () => {
    const url = await freshDatabase()
    await psql(url, command('002'))
    const [, grant = ''] = /(grant .* to) …;/.exec(readFileSync(`${root}sql/002-table.sql`, 'utf8')) ?? []
    await sql(url, `create role webshop login password 'pw'; ${grant} webshop`)
    const store = new PgStore(at(url, { user: 'webshop', password: 'pw' }))
    const warnings: Error[] = []
    store.on('warning', (warning) => warnings.push(warning))
    await store.set('a', { visits: 1 })
    expect(await store.get('a')).to.deep.equal({ visits: 1 })
    await store.destroy('a')
    await store.close()
    await sql(url, 'drop owned by webshop; drop role webshop')
    expect(warnings).to.deep.equal([])
  })

  it('003, 004, 006, 007 and 008 upgrade a table of koa-pg-session as setup does', async () => {
    const [byHand, byStore] = [await freshDatabase(), await freshDatabase()]
    for (const url of [byHand, byStore]) await formerTable(url)
    for (const number of ['003', '004', '006', '007', '008']) await psql(byHand, command(number))
    // A store with hashIds: false records that it uses the table.
    await sql(byHand, `comment on column session.id is 'session id'`)
    expect(await shape(byHand)).to.deep.equal(await setUp(byStore, { hashIds: false }))
    const rows = 'select id, session, user_id, version from session order by id'
    expect(await sql(byHand, rows)).to.deep.equal(await sql(byStore, rows))
  })

  it('004, 006 and 007 don’t change a table that setup created', async () => {
    const url = await freshDatabase()
    const made = await setUp(url, {})
    for (const number of ['004', '006', '006', '007']) await psql(url, command(number))
    expect(await shape(url)).to.deep.equal(made)
  })

  it('004 changes no expiry, whatever the TimeZone of the server is', async () => {
    const url = await freshDatabase()
    const name = new URL(url).pathname.slice(1)
    await sql(url, `alter database ${name} set timezone to 'America/St_Johns'`)
    await formerTable(url)
    await psql(url, command('004'))
    const [row] = await sql(
      url,
      `select bool_and(expiry between now() + interval '23 hours 59 minutes' and now() + interval '1 day') as same from session`,
    )
    expect(row).to.deep.equal({ same: true })
  })

  it('005 hashes ids as the store does, and returns their number', async () => {
    const [byHand, byStore] = [await freshDatabase(), await freshDatabase()]
    for (const url of [byHand, byStore]) await formerTable(url)
    const ids = `select id from session where ${notRecordSql()} order by id`
    expect(await psql(byHand, command('005'))).to.match(/^ *found *\n-+\n *2\n\(1 row\)/)
    expect(await psql(byHand, command('005'))).to.match(/^ *found *\n-+\n *0\n\(1 row\)/)
    await sql(byStore, `comment on column session.id is 'session id'`)
    const store = new PgStore(byStore)
    expect(await store.get('koa:sess:ann')).to.deep.equal({ user: 'Ann' })
    await until(async () => (await sql(byStore, `${ids} limit 1`))[0]?.id !== 'koa:sess:bob')
    await until(async () => (await sql(byStore, `select from session where id like 'koa:%'`)).length === 0)
    await store.close()
    const hashed = await sql(byHand, ids)
    expect(hashed).to.have.length(2)
    expect(hashed).to.deep.equal(await sql(byStore, ids))
    const later = new PgStore(byHand)
    expect(await later.get('koa:sess:bob')).to.deep.equal({ user: 'Bob' })
    await later.close()
  })

  it('007 can be run concurrently as its header says, and the store needs no other index', async () => {
    const url = await freshDatabase()
    await psql(url, command('002'))
    const [, text = ''] =
      /(create index if not exists .*);/.exec(readFileSync(`${root}sql/007-users.sql`, 'utf8')) ?? []
    const [, advice = ''] =
      /run `(create index concurrently)`/.exec(readFileSync(`${root}sql/007-users.sql`, 'utf8')) ?? []
    const [, variables = ''] = /(-v .*) -f/.exec(command('007')) ?? []
    await psql(url, `echo '${text.replace('create index', advice)}' | psql ${variables}`)
    const index = `select indexdef from pg_indexes where indexname = 'session_user_id'`
    const made = await sql(url, index)
    expect(made).to.have.length(1)
    await setUp(url, {})
    expect(await sql(url, index)).to.deep.equal(made)
    expect(await sql(url, `select from pg_indexes where tablename = 'session'`)).to.have.length(2)
  })

  it('is named by the error of a store that may not create the table, which works once the file was run', async () => {
    const url = await freshDatabase()
    await sql(url, 'drop schema public')
    const store = new PgStore(url, { create: false })
    for (const number of ['001', '002']) {
      const { message } = await rejection(store.setup())
      const match = new RegExp(`run (psql .*-f node_modules/koa-pg-store/sql/${number}\\S+\\.sql)`).exec(
        message,
      )
      // The path is that of an installed package; here it is the root folder.
      const advice = match?.[1]?.replace('node_modules/koa-pg-store/', '') ?? ''
      expect(advice, message).to.equal(command(number))
      await psql(url, advice)
    }
    await store.set('a', { visits: 1 })
    expect(await store.get('a')).to.deep.equal({ visits: 1 })
    await store.close()
  })

  it('is run by a test above, for every number', () => {
    // 009 needs Citus: test/citus/cluster.test.ts runs its statements by migrate --distribute.
    const numbers = files.map((name) => name.slice(0, 3)).filter((number) => number !== '009')
    expect([...usedNumbers].sort()).to.deep.equal(numbers)
  })
})
