import { expect } from 'chai'
import type pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { CitusStatements } from '../../lib/repository/citus-statements.js'
import { SessionStatements } from '../../lib/repository/session-statements.js'
import { hashText, shardOf } from '../../lib/schema/shards.js'
import { run } from '../helpers/command.js'
import { brokenRules, mutableFunctions, pretendCitus } from '../helpers/pretended-citus.js'
import { recordingClient } from '../helpers/recording-client.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { contract, type MakeStore } from '../stores/contract.js'

/** What stores on distributed tables send, in all these tests. */
const { Client, texts } = recordingClient()

/** Resolves with a database whose table is distributed, as far as a store can see. */
async function distributed(...args: string[]): Promise<string> {
  const url = await freshDatabase()
  await pretendCitus(url)
  const said = await run(url, 'migrate', '--distribute', ...args)
  expect(said).to.deep.include({ status: 0, errors: '' })
  return url
}

const open = (url: string, options: PgStoreOptions = {}): PgStore =>
  new PgStore({ connectionString: url, Client } satisfies pg.PoolConfig, options)

const make =
  (options: PgStoreOptions, ...args: string[]): MakeStore =>
  async ({ ttl }) => {
    const store = open(await distributed(...args), { ...options, ttl })
    await store.setup()
    return { store, close: () => store.close() }
  }

describe('the statements for a table that Citus has distributed', () => {
  contract('PgStore with the statements for Citus', make({ idleTimeout: 7_200_000, maxLifetime: 86_400_000 }))
  contract(
    'PgStore with the statements for Citus, hashIds: false',
    make({ hashIds: false, touch: { interval: 0 } }, '--raw-ids'),
  )

  it('limit, list, change and sweep the sessions of users', async () => {
    const url = await distributed()
    const store = open(url, {
      maxSessionsPerUser: 3,
      cleanup: { cron: '0 0 1 1 *', onExpired: () => undefined },
    })
    for (let n = 0; n < 5; n++) await store.set(`ann-${n}`, { userId: 'ann', n, role: 'admin' }, 60_000)
    expect((await store.sessionsOf('ann')).map(({ session }) => session?.n)).to.have.members([2, 3, 4])
    expect(await store.deleteAttribute('ann', 'role')).to.equal(3)
    expect(await store.get('ann-4')).to.deep.equal({ userId: 'ann', n: 4 })
    expect(await store.destroySessionsOf('ann', { except: 'ann-4' })).to.equal(2)
    await Promise.all(Array.from({ length: 50 }, (_, n) => store.set(`many-${n}`, { n }, 60_000)))
    expect(await store.count()).to.equal(51)
    await sql(url, `update session set expiry = now() - interval '1 s' where session is null`)
    expect(await store.sweep()).to.include({ deleted: 4 })
    expect(await store.destroyAll()).to.equal(51)
    await sql(url, `update session set expiry = now() - interval '1 s'`)
    await store.close()
    const other = open(url)
    expect(await other.sweep()).to.include({ deleted: 51 })
    await other.close()
  })

  it('keep the rules of Citus, each of them', async () => {
    const mutable = await mutableFunctions(await freshDatabase())
    const changes = [...new Set(texts)].filter((text) =>
      /\b(insert into|update|delete from) "public"\."session"/.test(text),
    )
    for (const start of ['insert into', 'update', 'delete from'])
      expect(
        changes.filter((text) => text.startsWith(start)),
        start,
      ).to.have.length.above(1)
    for (const text of changes) expect(brokenRules(text, mutable), text).to.deep.equal([])
  })

  it('would not be taken by Citus if they were those for other tables', async () => {
    const mutable = await mutableFunctions(await freshDatabase())
    const columns = new Set(['id', 'expiry', 'session', 'user_id', 'created_at', 'last_access', 'version'])
    const table = {
      name: '"public"."session"',
      columns,
      hasRawIds: false,
      insertsRawIds: false,
      keepsRawIds: false,
      convertsRawIds: false,
      hasHashedIds: true,
      suitsOldSoftware: false,
      hasTriggers: true,
      isDistributed: false,
      canFlush: true,
      lacksUserIndex: false,
      hasPages: true,
      isLocked: false,
    }
    const limits = { maxLifetime: 1_000, idleTimeout: 1_000 }
    const plain = new SessionStatements(table, limits, 'channel')
    for (const name of [
      'writeOne',
      'writeMany',
      'replaceOne',
      'replaceMany',
      'destroyMany',
      'evict',
      'touch',
    ] as const)
      expect(brokenRules(plain[name], mutable), name).to.not.deep.equal([])
    const { destroyOne } = new CitusStatements(table, limits)
    for (const [text, changed] of [
      ['now() + interval', 't.expiry + interval'],
      ['returning t.id', 'returning now(), t.id'],
      ['expiry = now()', 'expiry = case when true then now() end'],
      ['where t.id = $1', 'where t.user_id = $1'],
    ] as const) {
      expect(destroyOne).to.include(text)
      expect(brokenRules(destroyOne.replace(text, changed), mutable), changed).to.not.deep.equal([])
    }
  })

  it('concern one shard each: sessions are divided as Citus divides them', async () => {
    const url = await freshDatabase()
    const ids = ['', 'a', 'ä€😀'.repeat(9), ...Array.from({ length: 60 }, (_, n) => `${n}`.padEnd(n, 'x'))]
    const rows = await sql<{ hash: number }>(
      url,
      'select hashtext(id) as hash from unnest($1::text[]) as id',
      [ids],
    )
    expect(ids.map(hashText)).to.deep.equal(rows.map(({ hash }) => hash))
    const starts = [-2_147_483_648, -1_000, 0, 1_000]
    const shard = (hash: number): number => starts.findLastIndex((start) => start <= hash)
    expect(ids.map((id) => shardOf(starts, id))).to.deep.equal(ids.map((id) => shard(hashText(id))))
    expect(shardOf([], 'a')).to.equal(0)
  })
})

describe('setup in a cluster of Citus', () => {
  it('creates no trigger on a distributed table, and finds nothing to upgrade', async () => {
    const url = await distributed()
    texts.length = 0
    const store = open(url)
    await store.setup()
    await store.close()
    expect(texts.filter((text) => text.startsWith('do '))).to.deep.equal([])
    expect(await sql(url, `select from pg_trigger where tgrelid = 'session'::regclass`)).to.have.length(0)
    const again = await run(url, 'migrate', '--distribute')
    expect(again).to.include({ status: 0, errors: '' })
    expect(again.out).to.match(/^"public"."session" is ready, distributed by Citus\./)
  })

  it('treats a table that isn’t distributed as any other', async () => {
    const url = await freshDatabase()
    await pretendCitus(url)
    texts.length = 0
    const store = open(url)
    await store.set('a', { n: 1 }, 60_000)
    expect(await store.get('a')).to.deep.equal({ n: 1 })
    expect((await store.stats()).triggers).to.equal(true)
    await store.close()
    expect(texts.filter((text) => text.includes('pg_logical_emit_message('))).to.have.length.above(0)
  })

  it('refuses a worker, whose notifications stay there', async () => {
    const url = await freshDatabase()
    await pretendCitus(url, { isWorker: true })
    const store = open(url)
    expect((await rejection(store.setup())).message).to.match(
      /worker of a Citus cluster: connect to the coordinator/,
    )
    expect(await sql(url, `select to_regclass('session') as table`)).to.deep.equal([{ table: null }])
    await store.close()
  })

  it('refuses to distribute a table that may have raw ids, without Citus, and one of koa-pg-session as it is', async () => {
    const url = await freshDatabase()
    expect(await run(url, 'migrate', '--distribute')).to.deep.include({ status: 1 })
    await sql(
      url,
      'drop table session; create table session (id text primary key, expiry timestamptz, session json)',
    )
    await pretendCitus(url)
    const said = await run(url, 'migrate', '--distribute')
    expect(said.status).to.equal(1)
    expect(said.errors).to.match(/may hold raw session ids.* run koa-pg-store migrate --to-hashed-ids first/)
    await sql(
      url,
      `drop table session; create table session (id text primary key, expiry timestamp, session json)`,
    )
    await sql(url, `select create_distributed_table('session', 'id', 'none')`)
    const store = open(url, { create: false })
    const { message } = await rejection(store.setup())
    expect(message).to.match(/Citus has distributed it, and it lacks user_id, .*timestamptz for expiry/)
    expect(message).to.match(/can't be replaced by digests in place: set hashIds: false/)
    await store.close()
  })
})
