// Statements that a deadlock with other software has undone, or that waited for a row which moved to another partition.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { retryConflicts } from '../../lib/postgres/retry.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const failure = (code: string): Error => Object.assign(new Error(code), { code })

describe('a statement that another transaction has undone', () => {
  it('is repeated, but not for ever, and not after another error', async () => {
    for (const [code, isRepeated] of [
      ['40001', true],
      ['40P01', true],
      ['23505', false],
    ] as const) {
      let count = 0
      const work = async (): Promise<never> => {
        count++
        throw failure(code)
      }
      expect((await rejection(retryConflicts(work))).message).to.equal(code)
      if (isRepeated) expect(count).to.be.above(5)
      else expect(count).to.equal(1)
    }
  })

  it('is repeated after a deadlock with an update in psql', async () => {
    const url = await freshDatabase()
    // PostgreSQL ends the transaction that looks for a deadlock first: here the store's, if the machine isn't too busy.
    await using store = new PgStore(
      { connectionString: url, options: '-c deadlock_timeout=200ms' },
      { cache: false },
    )
    for (const sid of ['a', 'b']) await store.set(sid, { userId: 'ann', sid })
    const ids = (await sql(url, 'select id from session order by id')).map(({ id }) => id)
    const client = new pg.Client(url)
    await client.connect()
    const update = 'update session set last_access = now() where id = $1'
    await client.query('begin')
    await client.query(update, [ids[1]])
    const destroyed = store.destroySessionsOf('ann')
    await until(
      async () =>
        (
          await sql(
            url,
            `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
          )
        ).length === 1,
    )
    await client.query(update, [ids[0]]).catch(() => undefined)
    await client.query('commit')
    expect(await destroyed).to.equal(2)
    expect(await store.count()).to.equal(0)
    await client.end()
  })

  it('finds a row that has moved to another partition while it waited', async () => {
    const url = await freshDatabase()
    await sql(
      url,
      `create table session (id text primary key, expiry timestamptz not null, session json) partition by list (id);
       create table session_raw partition of session for values in ('koa:sess:1');
       create table session_rest partition of session default`,
    )
    await using old = new PgStore(url, { hashIds: false, cache: false })
    await old.set('koa:sess:1', { n: 1 })
    await using store = new PgStore(url, { cache: false, create: false })
    const session = (await store.get('koa:sess:1')) ?? expect.fail()
    for (const change of [
      () => store.set('koa:sess:1', Object.assign(session, { n: 2 })),
      () => store.destroy('koa:sess:1'),
    ]) {
      await sql(url, `update session set id = 'koa:sess:1' where session is not null and expiry > now()`)
      const client = new pg.Client(url)
      await client.connect()
      await client.query('begin')
      await client.query(
        `update session set id = 'sha256:' || rtrim(translate(encode(sha256('koa:sess:1'), 'base64'), '+/', '-_'), '=') where id = 'koa:sess:1'`,
      )
      const changed = change()
      await until(
        async () =>
          (
            await sql(
              url,
              `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
            )
          ).length === 1,
      )
      await client.query('commit')
      await client.end()
      await changed
    }
    expect(await store.get('koa:sess:1')).to.equal(undefined)
    expect(await store.count()).to.equal(0)
  })
})
