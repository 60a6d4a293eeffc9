// The search for the users of sessions that were saved under another option `userId`, in the background and by command.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { connect } from '../../lib/postgres/connect.js'
import type { Connection } from '../../lib/postgres/connection.js'
import { UserFill, type UserFillOptions } from '../../lib/repository/user-fill.js'
import { ensureTable } from '../../lib/schema/migrate.js'
import { digestOf } from '../../lib/session/session-id.js'
import { readOptions } from '../../lib/stores/options.js'
import { run } from '../helpers/command.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const count = 250

/** The option after the change. */
const userId = ({ mail }: Record<string, unknown>): string => mail as string

describe('the search for users', () => {
  let url: string
  const closing: (() => Promise<unknown>)[] = []

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close()
  })

  beforeEach(async () => {
    url = await freshDatabase()
    await using old = new PgStore(url, { cache: false })
    await Promise.all(
      Array.from({ length: count }, (_, n) => old.set(`s${n}`, { userId: n, mail: `mail ${n % 2}` })),
    )
    await old.set('anonymous', { n: 1 })
  })

  /** Returns a search of a new process, with the statements that it runs. */
  async function fill(options: Partial<UserFillOptions> = {}) {
    const settings = readOptions({ userId })
    const real = connect(url, { warn: () => undefined })
    closing.push(() => real.end())
    const table = await ensureTable(real, settings, () => undefined)
    const texts: string[] = []
    const connection: Connection = Object.assign(Object.create(real) as Connection, {
      query: (...args: Parameters<Connection['query']>) => {
        texts.push(String(args[0]))
        return real.query(...args)
      },
    })
    const { signal } = new AbortController()
    const given = { connection, table, settings, signal, pauseMs: 0, repeatMs: 1, ...options }
    const warnings: string[] = []
    const search = new UserFill(given)
    return {
      texts,
      warnings,
      updates: () => texts.filter((text) => text.startsWith('update')).length,
      runOnce: () => search.runOnce(() => undefined),
      run: () => search.run({ warn: ({ message }) => warnings.push(message), end: () => undefined }),
    }
  }

  const usersOf = async () => {
    const rows = await sql(
      url,
      'select user_id, count(*)::int from session where session is not null and expiry > now() group by 1 order by 1',
    )
    return Object.fromEntries(rows.map(({ user_id, count }) => [user_id, count]))
  }
  const found = { 'mail 0': count / 2, 'mail 1': count / 2, null: 1 }

  it('finds those that were saved under another option, twice, and then no more', async () => {
    const first = await fill()
    await first.run()
    expect(await usersOf()).to.deep.equal(found)
    expect(first.texts.filter((text) => text.includes('limit 100'))).to.have.length(6)
    const second = await fill()
    await second.run()
    expect(second.texts).to.have.length(1)
    expect([...first.warnings, ...second.warnings]).to.deep.equal([])
    const other = await fill({ settings: readOptions({}) })
    await other.run()
    expect(Object.keys(await usersOf())).to.have.length(count + 1)
  })

  it('changes neither versions nor caches, and no session’s content', async () => {
    await using store = await trusted(url, { userId })
    const session = await store.get('s1')
    const before = await sql(url, 'select id, version, session, expiry from session order by id')
    const misses = async () => Reflect.get(Object((await store.stats()).cache), 'misses') as number
    const missed = await misses()
    await (await fill()).run()
    expect(await usersOf()).to.deep.equal(found)
    const after = await sql(
      url,
      'select id, version, session, expiry from session where expiry > now() order by id',
    )
    expect(after).to.deep.equal(before)
    expect(await store.get('s1')).to.deep.equal(session)
    expect(await misses()).to.equal(missed)
    expect(await store.destroySessionsOf('mail 1')).to.equal(count / 2)
  })

  it('is made by one process at a time, and goes on in another where one has stopped', async () => {
    const stop = new AbortController()
    const one = await fill({ signal: stop.signal, pauseMs: 600_000 })
    const running = one.run()
    await until(() => one.updates() === 1)
    await until(
      async () => (await sql(url, `select from session where session::text like '{"option%'`)).length === 1,
    )
    const waits = new AbortController()
    const two = await fill({ signal: waits.signal })
    const waiting = two.run()
    await until(() => two.texts.length === 1)
    expect(two.updates()).to.equal(0)
    stop.abort()
    waits.abort()
    await Promise.all([running, waiting])
    await sql(
      url,
      `update session set expiry = expiry - interval '61 s' where session::text like '{"option%'`,
    )
    const three = await fill()
    await three.run()
    // The first batch of the first pass was done.
    expect(three.updates()).to.equal(2)
    expect(await usersOf()).to.deep.equal(found)
  })

  it('leaves the search to a process with another option that was started later', async () => {
    const one = await fill({ repeatMs: 200 })
    const running = one.run()
    await until(
      async () =>
        (await sql(url, `select from session where session::text like '%"passes":1%'`)).length === 1,
    )
    await (await fill({ settings: readOptions({}) })).runOnce()
    await running
    expect(Object.keys(await usersOf())).to.have.length(count + 1)
  })

  it('waits for no lock, and finds the user of a locked session afterwards', async () => {
    const client = new pg.Client(url)
    await client.connect()
    closing.push(() => client.end())
    await client.query('begin; update session set last_access = now()')
    const search = await fill()
    const running = search.run()
    await until(() => search.updates() === 2)
    await client.query('commit')
    await running
    expect(await usersOf()).to.deep.equal(found)
    expect(search.warnings).to.deep.equal([])
  })

  it('takes a raw row and a newer one under its digest for two sessions', async () => {
    await sql(url, 'truncate session')
    await sql(url, `comment on column session.id is 'session id'`)
    const insert = `insert into session (id, expiry, session, version) values ($1, now() + '1 hour', json_build_object('mail', $2::text), 1)`
    await sql(url, insert, ['koa:sess:1', 'old'])
    await sql(url, insert, [`sha256:${digestOf('koa:sess:1')}`, 'new'])
    await (await fill()).run()
    expect(await usersOf()).to.deep.equal({ new: 1, old: 1 })
  })

  it('warns once of a failure, and tries again', async () => {
    const stop = new AbortController()
    const search = await fill({ signal: stop.signal })
    await sql(url, 'alter table session rename column user_id to other')
    const running = search.run()
    await until(() => search.warnings.length === 1)
    expect(search.warnings[0]).to.match(
      /^the users of existing sessions can't be found yet, trying again: .*user_id/,
    )
    stop.abort()
    await running
  })

  it('can be made at once by migrate --find-users, with the options of the application', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'koa-pg-store-'))
    closing.push(async () => rmSync(folder, { recursive: true }))
    const config = join(folder, 'session-options.mjs')
    writeFileSync(config, `export default { userId: ({ mail }) => mail }`)
    expect((await run(url, 'doctor')).out).to.include('will search earlier sessions for users')
    const { status, out, errors } = await run(url, 'migrate', '--find-users', '--config', config)
    expect(status, errors).to.equal(0)
    expect(out).to.include(`The users of ${count} sessions were found.`)
    expect(await usersOf()).to.deep.equal(found)
    expect((await run(url, 'doctor')).out).to.include(
      `${count} of ${count + 1} active sessions belong to a user; all earlier sessions were searched for users`,
    )
  })
})
