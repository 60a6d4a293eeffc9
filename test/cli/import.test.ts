// koa-pg-store import from tables and JSON lines, and export, in child processes.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import KeyvPostgres from '@keyv/postgres'
import { expect } from 'chai'
import connectPgSimple from 'connect-pg-simple'
import expressSession from 'express-session'
import Keyv from 'keyv'
import pg from 'pg'
import { encrypted } from '../../lib/index.js'
import { digestOf } from '../../lib/session/session-id.js'
import { Command, run } from '../helpers/command.js'
import { Fixture, storedId } from '../helpers/fixture.js'
import { freshDatabase, sql } from '../helpers/server.js'

const fixture = new Fixture()
let folder = ''

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'koa-pg-store-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

function write(name: string, text: string): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const lines = (...values: unknown[]): string => values.map((value) => `${JSON.stringify(value)}\n`).join('')

async function importJson(...args: string[]): Promise<Record<string, unknown>> {
  const { out, errors } = await run(fixture.url, 'import', '--json', ...args)
  expect(out, errors).to.not.equal('')
  return JSON.parse(out)
}

describe('koa-pg-store import from a table of connect-pg-simple', () => {
  const createPgSimple = connectPgSimple(expressSession as never)

  /** Saves sessions as connect-pg-simple does, which creates its table `session`. */
  async function fill(url: string, ids: readonly string[]): Promise<void> {
    const pool = new pg.Pool({ connectionString: url })
    const store = new createPgSimple({ pool, createTableIfMissing: true, pruneSessionInterval: false })
    const cookie = { originalMaxAge: 600_000, expires: new Date(Date.now() + 600_000), path: '/' }
    const set = (id: string) =>
      new Promise<void>((resolve, reject) =>
        store.set(id, { cookie, userId: id }, (error) => (error ? reject(error) : resolve())),
      )
    for (const id of ids) await set(id)
    await pool.end()
  }

  it('keeps ids, expiries and users, in whatever time zone', async () => {
    const { database } = new pg.Client(fixture.url)
    await sql(fixture.url, `alter database ${database} set timezone = 'Asia/Kathmandu'`)
    await fill(fixture.url, ['a', 'b'])
    const counts = await importJson('--format', 'connect-pg-simple', '--table', 'koa_session')
    expect(counts).to.include({ imported: 2, invalid: 0 })
    const store = await fixture.makeStore({ table: 'koa_session' })
    expect(await store.get('a')).to.deep.equal({
      cookie: { path: '/', overwrite: true, signed: true, maxAge: 600_000 },
      userId: 'a',
    })
    expect(await store.sessionsOf('b')).to.have.length(1)
    for (const { ttlSeconds } of await fixture.rows('koa_session')) expect(ttlSeconds).to.be.within(500, 605)
  })

  it('reads another database, in steps, and deletes with --move what it has imported', async () => {
    const other = await freshDatabase()
    await fill(other, ['a'])
    await sql(
      other,
      `insert into session select 'n-' || n, '{"cookie":{}}', now() + interval '1 hour' from generate_series(1, 1500) n`,
    )
    await sql(
      other,
      `insert into session values ('expired', '{}', now() - interval '1 s'), ('broken', '[]', now() + interval '1 h')`,
    )
    const counts = await importJson('--from', other, '--format', 'connect-pg-simple', '--move')
    expect(counts).to.include({ read: 1503, imported: 1501, expired: 1, invalid: 1 })
    expect(await sql(other, 'select sid from session order by sid')).to.deep.equal([
      { sid: 'broken' },
      { sid: 'expired' },
    ])
    const store = await fixture.makeStore()
    expect(await store.count()).to.equal(1501)
  })
})

describe('koa-pg-store import from a table of keyv', () => {
  it('keeps keys, values and expiries', async () => {
    const keyv = new Keyv({ store: new KeyvPostgres({ uri: fixture.url }), namespace: 'keyv' })
    await keyv.set('koa:sess:1', { text: ':colon', visits: 1 }, 600_000)
    await keyv.set('koa:sess:2', { visits: 2 })
    await keyv.set('koa:sess:3', { visits: 3 }, 1)
    await keyv.disconnect()
    await sql(fixture.url, `insert into keyv values ('other:x', '{"value":{}}')`)
    const counts = await importJson('--format', 'keyv', '--ttl', '5000000')
    expect(counts).to.include({ read: 3, imported: 2, expired: 1, invalid: 0 })
    const store = await fixture.makeStore()
    expect(await store.get('koa:sess:1')).to.deep.equal({ text: ':colon', visits: 1 })
    const ttls = new Map((await fixture.rows()).map(({ id, ttlSeconds }) => [id, ttlSeconds]))
    expect(ttls.get(storedId('koa:sess:1'))).to.be.within(500, 605)
    expect(ttls.get(storedId('koa:sess:2'))).to.be.within(4900, 5005)
  })
})

describe('koa-pg-store import from JSON lines', () => {
  it('takes ids, ttls and times', async () => {
    const expiresAt = new Date(Date.now() + 600_000).toISOString()
    const file = write(
      'sessions.jsonl',
      `${lines({ sid: 'a', ttl: 600_000, session: { n: 1 } }, { sid: 'b', expiresAt, session: { n: 2 } })}\n` +
        lines(
          { sid: 'c', session: { _expire: Date.now() + 600_000, _maxAge: 86_400_000 } },
          { sid: 'd', session: {} },
        ),
    )
    expect(await importJson('--from', file)).to.include({ read: 4, imported: 4 })
    const ttls = new Map((await fixture.rows()).map(({ id, ttlSeconds }) => [id, ttlSeconds]))
    for (const id of ['a', 'b', 'c']) expect(ttls.get(storedId(id)), id).to.be.within(500, 611)
    expect(ttls.get(storedId('d'))).to.be.within(86_000, 86_400)
  })

  it('says which lines it can’t import, quotes nothing of them, and imports the others', async () => {
    const file = write(
      'sessions.jsonl',
      `{"OpenSesame\n${lines(
        { session: { OpenSesame: 1 } },
        { sid: 'a', session: ['OpenSesame'] },
        { sid: 'b', session: {}, expiresAt: 'OpenSesame' },
        { sid: 'good', session: {} },
        { sid: 'c', session: { OpenSesame: 'x'.repeat(1024 * 1024) } },
      )}`,
    )
    const { status, out, errors } = await run(fixture.url, 'import', '--from', file)
    expect(status).to.equal(1)
    expect(out).to.equal('1 session was imported into "public"."session".\n')
    expect(errors).to.match(/^5 could not be imported: line 1: it is not JSON; line 2: it has neither "sid"/)
    expect(errors).to.include('line 3: it is not a JSON object; line 4: its "expiresAt" is not a time')
    expect(errors).to.include('line 6: the session is 1048')
    expect(errors).to.not.include('OpenSesame')
  })

  it('leaves one row alone that the database refuses, and imports the rest of its batch', async () => {
    await fixture.makeStore()
    await sql(fixture.url, `alter table session add check (session::text !~ 'bad')`)
    const file = write(
      'sessions.jsonl',
      lines({ sid: 'a', session: { x: 'bad' } }, { sid: 'b', session: {} }),
    )
    expect(await importJson('--from', file)).to.include({ imported: 1, invalid: 1 })
  })

  it('doesn’t import a session that the table has under its raw id', async () => {
    const raw = await fixture.makeStore({ hashIds: false })
    await raw.set('a', { n: 'new' })
    const file = write('sessions.jsonl', lines({ sid: 'a', session: { n: 'old' } }))
    const config = write('options.mjs', 'export default { hashIds: true }')
    for (const more of [
      [],
      ['--dry-run'],
      ['--raw-ids'],
      ['--config', config],
      ['--config', config, '--dry-run'],
    ])
      expect(await importJson('--from', file, ...more)).to.include({ imported: 0, existing: 1 })
  })

  it('imports raw ids where koa-pg-session may use the table, and digests elsewhere, without an option', async () => {
    const file = write('sessions.jsonl', lines({ sid: 'a', session: { n: 1 } }))
    const ids = async () => (await sql(fixture.url, 'select id from session')).map(({ id }) => id)
    await sql(
      fixture.url,
      'create table session (id text primary key, expiry timestamp not null, session json)',
    )
    expect(await importJson('--from', file)).to.include({ imported: 1 })
    expect(await ids()).to.deep.equal(['a'])
    await sql(fixture.url, 'drop table session')
    await fixture.makeStore({ hashIds: false })
    expect(await importJson('--from', file)).to.include({ imported: 1 })
    expect(await ids()).to.deep.equal(['a'])
    await run(fixture.url, 'migrate', '--to-hashed-ids')
    await sql(fixture.url, 'delete from session')
    expect(await importJson('--from', file)).to.include({ imported: 1 })
    expect(await ids()).to.deep.equal([`sha256:${digestOf('a')}`])
  })

  it('changes nothing with --dry-run', async () => {
    await fixture.makeStore()
    const file = write('sessions.jsonl', lines({ sid: 'a', session: {} }))
    const { out } = await run(fixture.url, 'import', '--from', file, '--dry-run')
    expect(out).to.equal('1 session would be imported into "public"."session".\n')
    expect(await fixture.rows()).to.deep.equal([])
  })

  it('refuses what it can’t do before it opens anything', async () => {
    const refused = async (...args: string[]): Promise<string> => {
      const { status, errors } = await run('postgres://127.0.0.1:1/x', 'import', ...args)
      expect(status, errors).to.equal(2)
      return errors
    }
    expect(await refused()).to.include('from where? Give --from')
    expect(await refused('--from', 'redis://localhost', '--format', 'keyv')).to.include(
      '--format must be koa-redis or connect-redis for this source; received "keyv"',
    )
    expect(await refused('--from', 'postgres://localhost/x')).to.include(
      '--format must be connect-pg-simple or keyv for this source; received none',
    )
    expect(await refused('--from', write('x', ''), '--move')).to.include('--move needs Redis or a table')
    expect(await refused('--from', 'x', '--dry-run', '--move')).to.include('contradict each other')
  })

  it('says where a Redis can’t be reached, within seconds', async () => {
    const { status, errors } = await run(fixture.url, 'import', '--from', 'redis://127.0.0.1:1')
    expect(status).to.equal(1)
    expect(errors).to.match(/^koa-pg-store: can't connect to Redis: .*ECONNREFUSED/)
  })
})

describe('koa-pg-store export', () => {
  const key = randomBytes(32).toString('hex')
  const index = new URL('../../lib/index.js', import.meta.url).href
  const config = () =>
    write(
      'options.mjs',
      `import { encrypted } from ${JSON.stringify(index)}
       export default { codec: encrypted({ keys: [{ id: '1', key: '${key}' }] }) }`,
    )

  it('prints what import reads: ids, times and users stay, also from and to an encrypted table', async () => {
    const codec = encrypted({ keys: [{ id: '1', key }] })
    const store = await fixture.makeStore({ codec })
    await store.set('a', { userId: 'ann', n: 1 }, 600_000)
    await store.set('b', { n: 2 })
    await store.set('destroyed', { n: 3 })
    await store.destroy('destroyed')
    await sql(
      fixture.url,
      `update session set created_at = created_at - interval '1 day' where user_id = 'ann'`,
    )
    const [ann] = await store.sessionsOf('ann')
    const { out, status, errors } = await run(fixture.url, 'export', '--config', config())
    expect(status, errors).to.equal(0)
    const exported = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(exported).to.have.length(2)
    expect(exported.find(({ userId }) => userId === 'ann')).to.deep.equal({
      handle: ann?.handle,
      userId: 'ann',
      createdAt: ann?.createdAt?.toISOString(),
      lastAccessedAt: ann?.lastAccessedAt?.toISOString(),
      expiresAt: ann?.expiresAt.toISOString(),
      session: { userId: 'ann', n: 1 },
    })
    const file = write('sessions.jsonl', out)
    expect(await importJson('--from', file, '--table', 'copy', '--config', config())).to.include({
      imported: 2,
    })
    const copy = await fixture.makeStore({ codec, table: 'copy' })
    expect(await copy.get('a')).to.deep.equal({ userId: 'ann', n: 1 })
    expect(await copy.get('b')).to.deep.equal({ n: 2 })
    expect(await copy.sessionsOf('ann')).to.deep.equal([ann])
    const [row] = await sql<{ session: object }>(fixture.url, 'select session from copy')
    expect(row?.session).to.have.property('~aes256gcm')
  })

  it('prints with --user the sessions of one person', async () => {
    const store = await fixture.makeStore()
    await store.set('a', { userId: 'ann' })
    await store.set('b', { userId: 'bob' })
    const { out } = await run(fixture.url, 'export', '--user', 'ann')
    expect(JSON.parse(out).session).to.deep.equal({ userId: 'ann' })
    expect(out).to.not.include(storedId('a'))
  })

  it('has a module for --config that migrate --reencrypt takes too', async () => {
    const store = await fixture.makeStore({ codec: encrypted({ keys: [{ id: '1', key }] }) })
    await store.set('a', { n: 1 })
    const { out, errors } = await run(fixture.url, 'migrate', '--reencrypt', config())
    expect(out, errors).to.include('0 of 1 sessions were re-encrypted with the first key.')
  })

  it('doesn’t print what a codec has encrypted as a session', async () => {
    const store = await fixture.makeStore({ codec: encrypted({ keys: [{ id: '1', key }] }) })
    await store.set('a', { n: 1 })
    const { out, status, errors } = await run(fixture.url, 'export')
    expect(out).to.equal('')
    expect(status).to.equal(1)
    expect(errors).to.match(/^1 could not be decoded: .*--config/)
  })
})

describe('koa-pg-store --config', () => {
  const marker = () => join(folder, 'expired.json')

  it('takes connection, table, limits and hooks from the application’s module, for all commands', async () => {
    const store = await fixture.makeStore({ table: 'other', idleTimeout: 60_000 })
    await store.set('idle', { userId: 'ann', n: 1 })
    await store.set('active', { userId: 'ann' })
    await sql(
      fixture.url,
      `update other set last_access = now() - interval '2 minutes' where id = '${storedId('idle')}'`,
    )
    const module = write(
      'options.mjs',
      `import { writeFileSync } from 'node:fs'
       export default {
         connection: ${JSON.stringify(fixture.url)}, table: 'other', create: false, idleTimeout: 60_000,
         cleanup: { cron: false, onExpired: ({ session }) => writeFileSync(${JSON.stringify(marker())}, JSON.stringify(session)) },
       }
       setInterval(() => {}, 1000)`,
    )
    const command = async (...args: string[]): Promise<string> => {
      const { out, status, errors } = await run(undefined, ...args, '--config', module)
      expect(status, errors).to.equal(0)
      return out
    }
    expect((await command('list')).trim().split('\n')).to.have.length(1)
    expect(JSON.parse(await command('stats', '--json'))).to.include({ active: 1, expired: 1 })
    expect((await command('export')).trim().split('\n')).to.have.length(1)
    expect(await command('migrate')).to.include('"public"."other" is ready')
    expect(await command('doctor')).to.include('The store works')
    expect(await command('sweep')).to.include('1 deleted')
    expect(JSON.parse(readFileSync(marker(), 'utf8'))).to.deep.equal({ userId: 'ann', n: 1 })
    expect(await command('revoke', '--user', 'ann')).to.equal('1 session destroyed.\n')
    expect(await command('list', '--table', 'other')).to.equal('')
  })

  it('says what is wrong with the module', async () => {
    const refused = async (text: string): Promise<string> => {
      const { status, errors } = await run(undefined, 'list', '--config', write('options.mjs', text))
      expect(status).to.be.within(1, 2)
      return errors
    }
    expect(await refused('export default 7')).to.match(
      /the default export of .* must be an object .* received 7/,
    )
    expect(await refused('export default { get() {} }')).to.include('received a store')
    expect(await refused('export default { tabel: "x" }')).to.include('option "tabel" is unknown')
    expect(await refused('export default { connection: () => [] }')).to.include('received a function')
    expect(await refused('export default { connection: "postgres://h/d?service=app" }')).to.include(
      'names a service',
    )
    expect(await refused('throw new Error("no key")')).to.include('can’t be loaded: no key')
    expect(await refused('export default { connection: "mysql://x" }')).to.include('mysql://')
  })
})

describe('a service of libpq', () => {
  it('is refused, as it would be ignored', async () => {
    const list = (env: NodeJS.ProcessEnv) => new Command(['list'], env).ended
    const { status, errors } = await list({ PGSERVICE: 'app', PGHOST: 'localhost' })
    expect(status).to.equal(2)
    expect(errors).to.include('PGSERVICE is set; service files are not read: set DATABASE_URL=')
    expect((await list({ DATABASE_URL: `${fixture.url}?service=app` })).errors).to.include('names a service')

    await fixture.makeStore()
    expect((await list({ PGSERVICE: 'app', DATABASE_URL: fixture.url })).status).to.equal(0)
  })
})
