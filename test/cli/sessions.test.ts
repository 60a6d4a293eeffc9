// list, revoke and migrate --reencrypt, in child processes.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import pg from 'pg'
import { encrypted, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { channelOf } from '../../lib/notifications/payload.js'
import { Command, run } from '../helpers/command.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const index = new URL('../../lib/index.js', import.meta.url).href
const opened: PgStore[] = []
afterEach(async () => {
  for (const store of opened.splice(0)) await store.close()
})

async function open(options: PgStoreOptions = {}, url?: string): Promise<{ url: string; store: PgStore }> {
  const at = url ?? (await freshDatabase())
  const store = new PgStore(at, { cleanup: false, ...options })
  opened.push(store)
  await store.setup()
  return { url: at, store }
}

interface Listed {
  handle: string
  userId: string | null
  createdAt: string
  lastAccessedAt: string
  expiresInMs: number
  bytes: number
}
const json = async (url: string, ...args: string[]): Promise<Listed[]> => {
  const said = await run(url, 'list', '--json', ...args)
  expect(said.status, said.errors).to.equal(0)
  return said.out
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Listed)
}

describe('koa-pg-store list', () => {
  it('prints handles, users, times and sizes, and never an id or the content of a session', async () => {
    const { url, store } = await open()
    await store.set('koa:sess:OpenSesame-1', { userId: 'ann', card: '4111-1111' }, 3_600_000)
    await store.set('koa:sess:OpenSesame-2', { card: '4111-1111' })
    await store.set('destroyed', { userId: 'ann' })
    await store.destroy('destroyed')
    const [ann] = await store.sessionsOf('ann')
    const all = await json(url)
    expect(all).to.have.length(2)
    const [first] = await json(url, '--user', 'ann')
    expect(first?.handle).to.equal(ann?.handle)
    expect(first?.userId).to.equal('ann')
    expect(first?.createdAt).to.equal(ann?.createdAt?.toISOString())
    expect(first?.expiresInMs).to.be.within(1, 3_600_000)
    expect(first?.bytes).to.equal(JSON.stringify({ userId: 'ann', card: '4111-1111' }).length)
    const said = await run(url, 'list')
    expect(said).to.include({ status: 0, errors: '' })
    for (const line of said.out.trim().split('\n'))
      expect(line).to.match(/^[\w-]{43}\t(ann)?\t\d{4}-[\d-]+T[\d:.]+Z\t\d{4}-[\d-]+T[\d:.]+Z\t\d+\t\d+$/)
    expect(said.out + JSON.stringify(all)).not.to.match(/OpenSesame|4111|sha256/)
  })

  it('sorts a user’s sessions by last use, up to the limit, and says that there are more', async () => {
    const { url } = await open()
    await sql(
      url,
      `insert into session (id, expiry, session, version, user_id, last_access)
       select 's-' || i, now() + interval '1 hour', json_build_object('n', repeat('x', i)), 1, 'u' || i % 2, now() - i * interval '1 second'
       from generate_series(1, 250) i`,
    )
    const sizes = (await json(url, '--user', 'u1', '--limit', '3')).map(({ bytes }) => bytes)
    expect(sizes).to.deep.equal([1, 3, 5].map((i) => i + '{"n" : ""}'.length))
    const said = await run(url, 'list')
    expect(said.out.trim().split('\n')).to.have.length(100)
    expect(said.errors).to.equal('There are more than 100 sessions: see --limit\n')
    expect(await json(url, '--limit', '250')).to.have.length(250)
    expect(await run(url, 'list', '--user', 'nobody')).to.deep.equal({
      status: 0,
      out: '',
      errors: 'No active sessions of this user in "public"."session".\n',
    })
  })

  it('needs no key for an encrypted table, and lists a table of koa-pg-session', async () => {
    const { url, store } = await open({ codec: encrypted({ keys: [{ id: '1', key: randomBytes(32) }] }) })
    await store.set('x', { userId: 'ann' })
    expect((await json(url, '--user', 'ann')).map(({ userId }) => userId)).to.deep.equal(['ann'])
    const old = await freshDatabase()
    await sql(
      old,
      `create table session (id text primary key, expiry timestamp not null, session json);
       insert into session values ('koa:sess:OpenSesame', now() + interval '1 hour', '{}')`,
    )
    const [one] = await json(old)
    expect(one).to.include({ userId: null, createdAt: null, lastAccessedAt: null, bytes: 2 })
    const said = await run(old, 'list', '--user', 'ann')
    expect(said.status).to.equal(1)
    expect(said.errors).to.match(/has no column user_id.*run migrate/)
  })

  it('replaces control characters in a user’s id', async () => {
    const { url, store } = await open()
    await store.set('x', { userId: 'a\tb\n\u001b[2J' })
    expect((await run(url, 'list')).out).to.match(/^[\w-]{43}\ta\ufffdb\ufffd\ufffd\[2J\t[^\n]*\n$/)
  })

  it('exits with status 0 and no error when its output is closed', async () => {
    const { url } = await open()
    await sql(
      url,
      `insert into session (id, expiry, session, version) select 's-' || i, now() + interval '1 hour', '{}', 1 from generate_series(1, 20000) i`,
    )
    const command = new Command(['list', '--limit', '20000'], { DATABASE_URL: url })
    command.child.stdout?.once('data', () => command.child.stdout?.destroy())
    expect(await command.ended).to.include({ status: 0, errors: '' })
  })
})

describe('koa-pg-store revoke', () => {
  for (const hashIds of [true, false])
    it(`destroys the session with a handle, in the caches of running stores too (hashIds: ${hashIds})`, async () => {
      const { url, store } = await open({ hashIds })
      await until(async () => {
        const { cache } = await store.stats()
        return cache !== false && cache.trusted
      })
      const sids = Array.from({ length: 3 }, (_, n) => `sid-${n}`)
      for (const sid of sids) await store.set(sid, { sid, userId: 'ann' })
      const existing = async (): Promise<boolean[]> =>
        Promise.all(sids.map(async (sid) => (await store.get(sid)) !== undefined))
      expect(await existing()).to.deep.equal([true, true, true])
      const list = await store.sessionsOf('ann')
      const handle = list.find(({ session }) => session?.sid === 'sid-1')?.handle ?? ''
      const hits = async (): Promise<number> => Reflect.get((await store.stats()).cache as object, 'hits')
      const before = await hits()
      await existing()
      expect(await hits()).to.equal(before + 3)
      expect(await run(url, 'revoke', handle)).to.deep.equal({
        status: 0,
        out: '1 session destroyed.\n',
        errors: '',
      })
      await until(async () => (await existing())[1] === false)
      expect(await existing()).to.deep.equal([true, false, true])
      // Nothing brings it back.
      await store.set('sid-1', { sid: 'sid-1' })
      expect(await store.get('sid-1', { fresh: true })).to.equal(undefined)
      const again = await run(url, 'revoke', handle)
      expect(again.status).to.equal(1)
      expect(again.errors).to.equal(
        'koa-pg-store: there is no session with this handle in "public"."session"\n',
      )
    })

  it('accepts a handle that begins with a hyphen', async () => {
    const { url } = await open()
    const handles = ['-'.padEnd(43, 'a'), '-'.padEnd(43, 'b'), '--'.padEnd(43, 'c')]
    for (const handle of handles)
      await sql(
        url,
        `insert into session (id, expiry, session, version, user_id) values ($1, now() + interval '1 hour', '{}', 1, 'ann')`,
        [`sha256:${handle}`],
      )
    expect(await run(url, 'revoke', handles[0] ?? '')).to.include({ status: 0, errors: '' })
    const said = await run(url, 'revoke', '--user', 'ann', '--except', handles[2] ?? '', '--json')
    expect(said).to.deep.equal({ status: 0, out: '{"destroyed":1}\n', errors: '' })
    expect((await json(url)).map(({ handle }) => handle)).to.deep.equal([handles[2]])
    expect((await run(url, 'revoke', handles[2] ?? '')).status).to.equal(0)
  })

  it('destroys a user’s sessions except one; none, if there is no such session', async () => {
    const { url, store } = await open()
    for (const sid of ['a', 'b', 'c']) await store.set(sid, { sid, userId: 42 })
    await store.set('d', { userId: 'bob' })
    const [kept] = await store.sessionsOf(42)
    const wrong = await run(url, 'revoke', '--user', '42', '--except', 'A'.repeat(43))
    expect(wrong.status).to.equal(1)
    expect(wrong.errors).to.match(/no session with the handle given by --except; nothing was changed/)
    expect(await store.count()).to.equal(4)
    const args = ['revoke', '--user', '42', '--except', kept?.handle ?? '']
    expect((await run(url, ...args)).out).to.equal('2 sessions destroyed.\n')
    expect((await store.sessionsOf(42)).map(({ handle }) => handle)).to.deep.equal([kept?.handle])
    expect((await run(url, 'revoke', '--user', '42')).out).to.equal('1 session destroyed.\n')
    expect((await run(url, 'revoke', '--user', '42')).out).to.equal('0 sessions destroyed.\n')
    expect(await store.count()).to.equal(1)
  })

  it('destroys all sessions with --all --yes, and keeps the record of the last sweep', async () => {
    const { url, store } = await open()
    await store.sweep()
    for (let n = 0; n < 300; n++) await store.create({ n })
    expect(await run(url, 'revoke', '--all', '--yes')).to.deep.equal({
      status: 0,
      out: '300 sessions destroyed.\n',
      errors: '',
    })
    expect(await store.count()).to.equal(0)
    expect(JSON.parse((await run(url, 'stats', '--json')).out).lastSweep).to.include({ deleted: 0 })
  })

  it('refuses what is not a handle, without repeating a session id given by mistake', async () => {
    const { url, store } = await open()
    await store.set('koa:sess:OpenSesame', {})
    for (const args of [['koa:sess:OpenSesame'], ['--user', 'a', '--except', 'koa:sess:OpenSesame']]) {
      const said = await run(url, 'revoke', ...args)
      expect(said.status).to.equal(2)
      expect(said.errors).to.match(/must be one that koa-pg-store list prints, of 43 characters/)
      expect(said.errors).not.to.include('OpenSesame')
    }
  })
})

describe('koa-pg-store migrate --reencrypt', () => {
  const [old, current] = [
    { id: '2024', key: randomBytes(32).toString('base64') },
    { id: '2026', key: randomBytes(32).toString('base64') },
  ]
  let folder: string
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'koa-pg-store-'))
  })
  after(() => rmSync(folder, { recursive: true }))

  /** Writes a module of the application, and returns its path. */
  const writeModule = (code: string): string => {
    writeFileSync(join(folder, 'codec.mjs'), `import { compressed, encrypted } from '${index}'\n${code}\n`)
    return './codec.mjs'
  }
  const reencrypt = (url: string, path: string, ...more: string[]) =>
    new Command(['migrate', '--reencrypt', path, ...more], { DATABASE_URL: url }, folder).ended
  const bothKeys = (): string =>
    writeModule(`export default encrypted({ keys: ${JSON.stringify([current, old])} })`)
  const rows = (url: string) =>
    sql<{ session: string }>(
      url,
      `select id, session::text, expiry, last_access, created_at, version, user_id from session order by id`,
    )
  const withKey = async (url: string, id: string): Promise<number> =>
    (await rows(url)).filter(({ session }) => session?.includes(`"${id}"`)).length

  it('re-encrypts what another key has encrypted, and changes nothing else; caches and saves stay valid', async () => {
    const { url, store } = await open({ codec: encrypted({ keys: [old] }) })
    for (let n = 0; n < 250; n++) await store.set(`sid-${n}`, { n, userId: 'ann' })
    await store.set('expired', { n: -1 })
    await sql(
      url,
      `update session set expiry = now() - interval '1 second', version = version + 1 where user_id is null`,
    )
    const { store: newer } = await open(
      { codec: encrypted({ keys: [current, old] }), concurrency: 'reject' },
      url,
    )
    await newer.set('sid-0', { n: 0, userId: 'ann' })
    const session = (await newer.get('sid-7')) as Record<string, unknown>
    const listener = new pg.Client(url)
    await listener.connect()
    const notifications: string[] = []
    listener.on('notification', ({ payload = '' }) => {
      if (!payload.startsWith('heartbeat ')) notifications.push(payload)
    })
    await listener.query(`listen ${channelOf({ schema: 'public', table: 'session' })}`)
    const before = await rows(url)
    const said = await reencrypt(url, bothKeys())
    expect(said).to.deep.equal({
      status: 0,
      out: '"public"."session" is ready.\n250 of 251 sessions were re-encrypted with the first key.\n',
      errors: '',
    })
    const after = await rows(url)
    const rest = (list: { session: string }[]) => list.map(({ session: _, ...row }) => row)
    expect(rest(after)).to.deep.equal(rest(before))
    expect(await withKey(url, '2026')).to.equal(251)
    expect(await withKey(url, '2024')).to.equal(0)
    // A save of what was loaded before meets no conflict.
    await newer.set('sid-7', Object.assign(session, { mine: 1 }))
    expect(await newer.get('sid-7', { fresh: true })).to.deep.equal({ n: 7, userId: 'ann', mine: 1 })
    // Only that save has sent a notification.
    await until(() => notifications.length > 0)
    expect(notifications).to.have.length(1)
    await listener.end()
    const again = JSON.parse((await reencrypt(url, bothKeys(), '--json')).out)
    expect(again.reencrypted).to.deep.equal({
      sessions: 251,
      written: 0,
      undecoded: 0,
      unwritten: 0,
      causes: [],
    })
    const { store: last } = await open({ codec: encrypted({ keys: [current] }) }, url)
    for (let n = 1; n < 7; n++) expect(await last.get(`sid-${n}`)).to.deep.equal({ n, userId: 'ann' })
  })

  it('keeps a save that commits while it waits for the row', async () => {
    const { url, store } = await open({ codec: encrypted({ keys: [old] }) })
    await store.set('x', { n: 1 })
    await store.set('y', { n: 1 })
    // Makes the save wait between its update and its commit.
    await sql(
      url,
      `create function hold() returns trigger language plpgsql as 'begin
         if new.version > old.version then
           while not exists (select from gate) loop perform pg_sleep(0.02); end loop;
         end if; return null; end';
       create table gate ();
       create trigger hold after update on session for each row execute function hold()`,
    )
    // By a query function: a pool's connection would cancel a save that waits, and try it again.
    const pool = new pg.Pool({ connectionString: url })
    const newer = new PgStore((text, values) => pool.query<Record<string, unknown>>(text, values), {
      cleanup: false,
      codec: encrypted({ keys: [old] }),
      cache: false,
    })
    opened.push(newer)
    await newer.setup()
    const save = newer.set('x', { n: 2 }).then(() => undefined)
    await until(
      async () => (await sql(url, `select from pg_stat_activity where wait_event = 'PgSleep'`)).length > 0,
    )
    const reencrypting = reencrypt(url, bothKeys())
    await until(
      async () =>
        (
          await sql(
            url,
            `select from pg_stat_activity where wait_event_type = 'Lock' and query like 'update%' and datname = current_database()`,
          )
        ).length > 0,
    )
    await sql(url, 'insert into gate default values')
    await save
    const said = await reencrypting
    expect(said).to.include({ status: 0, errors: '' })
    expect(said.out).to.match(/^2 of 2 sessions/m)
    expect(await withKey(url, '2026')).to.equal(2)
    const { store: last } = await open({ codec: encrypted({ keys: [current] }) }, url)
    expect(await last.get('x')).to.deep.equal({ n: 2 })
    await pool.end()
  })

  it('names the missing key, counts what can’t be decoded, and leaves it unchanged, with status 1', async () => {
    const lost = { id: '2022', key: randomBytes(32) }
    const { url, store } = await open({ codec: encrypted({ keys: [lost] }) })
    for (const sid of ['a', 'b']) await store.set(sid, { sid })
    const { store: newer } = await open({ codec: encrypted({ keys: [old] }) }, url)
    await newer.set('c', { sid: 'c' })
    const said = await reencrypt(url, bothKeys())
    expect(said.status).to.equal(1)
    expect(said.out).to.match(/^1 of 3 sessions were re-encrypted/m)
    expect(said.errors).to.match(/^2 could not be decoded and were left unchanged: .*needs the key "2022"/)
    expect(await store.get('a', { fresh: true })).to.deep.equal({ sid: 'a' })
    expect(await withKey(url, '2022')).to.equal(2)
  })

  it('encrypts plain sessions with allowPlain, and accepts a list of codecs', async () => {
    const { url, store } = await open({})
    await store.set('x', { text: 'x'.repeat(5_000) })
    const keys = JSON.stringify([current])
    const refused = await reencrypt(url, writeModule(`export default encrypted({ keys: ${keys} })`))
    expect(refused.errors).to.match(/1 could not be decoded.*is not encrypted.*allowPlain/)
    const path = writeModule(`export default [compressed(), encrypted({ keys: ${keys}, allowPlain: true })]`)
    expect((await reencrypt(url, path)).out).to.match(/^1 of 1 sessions/m)
    expect((await rows(url))[0]?.session.length).to.be.below(500)
  })

  it('reports what is wrong with the module', async () => {
    const { url } = await open()
    const missing = await reencrypt(url, './nowhere.mjs')
    expect(missing.status).to.equal(1)
    expect(missing.errors).to.match(/--reencrypt: \.\/nowhere\.mjs can’t be loaded: Cannot find module/)
    const empty = await reencrypt(url, writeModule('export const codec = 1'))
    expect(empty.status).to.equal(2)
    expect(empty.errors).to.match(
      /codec\.mjs: the default export must have the methods encode and decode; received undefined/,
    )
  })
})
