import { randomBytes } from 'node:crypto'
import { expect } from 'chai'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { citusUrl, distributedTable, dropTables, fewShardsUrl, onCluster } from '../helpers/citus.js'
import { run } from '../helpers/command.js'
import { trusted } from '../helpers/instance.js'
import { rejection } from '../helpers/rejection.js'
import { until } from '../helpers/until.js'
import { run as runHistory } from '../history/run.js'

const minute = 60_000

describe('in a cluster of Citus', () => {
  const stores: PgStore[] = []
  const command = (schema: string, ...args: string[]) => run(citusUrl(), ...args, '--schema', schema)

  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close()
  })
  after(dropTables)

  /** Opens stores on one distributed table, each with a cache that is trusted. */
  async function open(
    count: number,
    options: PgStoreOptions = {},
  ): Promise<{ schema: string; stores: PgStore[] }> {
    const found = await distributedTable(options)
    const opened = await Promise.all(Array.from({ length: count }, () => trusted(citusUrl(), found)))
    stores.push(...opened)
    return { schema: found.schema, stores: opened }
  }

  it('instances are notified of saves, destroys and merges of each other', async () => {
    const [a, b] = (await open(2)).stores as [PgStore, PgStore]
    const sids = Array.from({ length: 100 }, (_, n) => `many-${n}`)
    await Promise.all(sids.map((sid) => a.set(sid, { sid, n: 0 }, minute)))
    const loaded = await Promise.all(sids.map((sid) => b.get(sid)))
    expect(loaded).to.deep.equal(sids.map((sid) => ({ sid, n: 0 })))
    await Promise.all(
      sids.map(async (sid) => a.set(sid, Object.assign((await a.get(sid)) ?? {}, { n: 1 }), minute)),
    )
    await until(async () =>
      (await Promise.all(sids.map((sid) => b.get(sid)))).every((session) => session?.n === 1),
    )
    // Both change a session that they have loaded.
    const [mine, theirs] = await Promise.all([a.get('many-0'), b.get('many-0', { fresh: true })])
    await a.set('many-0', { ...mine, a: 1 }, minute)
    await Promise.all([
      a.set('many-1', Object.assign((await a.get('many-1')) ?? {}, { a: 1 }), minute),
      b.set('many-0', Object.assign(theirs ?? {}, { b: 1 }), minute),
    ])
    await until(
      async () =>
        JSON.stringify(await a.get('many-0')) === JSON.stringify({ sid: 'many-0', n: 1, a: 1, b: 1 }) ||
        (await a.get('many-0'))?.b === 1,
    )
    await Promise.all(sids.map((sid) => a.destroy(sid)))
    await until(async () =>
      (await Promise.all(sids.map((sid) => b.get(sid)))).every((session) => session === undefined),
    )
  })

  it('a session’s row is changed by one task, without a two-phase commit', async () => {
    const { schema, stores } = await open(1, { touch: { interval: 0 } })
    const [store] = stores as [PgStore]
    // Two-phase commits are recorded before they are made.
    const transactions = () => onCluster(`select * from pg_dist_transaction`)
    const before = await transactions()
    const calls = Array.from({ length: 60 }, async (_, n) => {
      await store.set(`s${n}`, { userId: 'ann', n }, minute)
      await store.set(`s${n}`, Object.assign((await store.get(`s${n}`)) ?? {}, { more: true }), minute)
      await store.touch(`s${n}`, 2 * minute)
      if (n % 3 === 0) await store.destroy(`s${n}`)
    })
    await Promise.all(calls)
    await store.destroySessionsOf('ann')
    expect(await transactions()).to.deep.equal(before)
    const plan = await onCluster<{ 'QUERY PLAN': string }>(
      `explain update ${schema}.session set session = null where id = 'a'`,
    )
    expect(plan.map((row) => row['QUERY PLAN']).join('\n')).to.match(/Task Count: 1\b/)
  })

  it('users have no more sessions than they may, and lose those that are ended', async () => {
    const { stores } = await open(2, { maxSessionsPerUser: 3 })
    const [a, b] = stores as [PgStore, PgStore]
    const sids = await Promise.all(
      Array.from({ length: 20 }, (_, n) => (n % 2 ? a : b).create({ userId: 'ann', n }, { ttl: minute })),
    )
    const found = await a.sessionsOf('ann')
    expect(found).to.have.length(3)
    for (const store of [a, b])
      await until(
        async () => (await Promise.all(sids.map((sid) => store.get(sid)))).filter(Boolean).length === 3,
      )
    expect(await a.deleteAttribute('ann', 'n')).to.equal(3)
    expect(await a.revoke(found[0]?.handle ?? '')).to.equal(true)
    expect(await b.destroySessionsOf('ann', { except: found[1]?.handle ?? '' })).to.equal(1)
    expect(await a.destroyAll()).to.equal(1)
    expect(await a.count()).to.equal(0)
  })

  it('a sweep deletes what has expired, with and without onExpired', async () => {
    for (const onExpired of [undefined, () => undefined]) {
      const { schema, stores } = await open(1, {
        cleanup: { cron: '0 0 1 1 *', ...(onExpired && { onExpired }) },
      })
      const [store] = stores as [PgStore]
      await Promise.all(Array.from({ length: 200 }, (_, n) => store.set(`s${n}`, { n }, minute)))
      await onCluster(
        `update ${schema}.session set expiry = now() - interval '1 s' where session::jsonb->>'n' < '5'`,
      )
      const [expired] = await onCluster<{ n: number }>(
        `select count(*)::int as n from ${schema}.session where expiry < now()`,
      )
      expect(await store.sweep()).to.include({ deleted: expired?.n })
      expect(await store.count()).to.equal(200 - (expired?.n ?? 0))
    }
  })

  it('the command line works: migrate, stats, list, revoke, sweep, doctor', async () => {
    const { schema, stores } = await open(1)
    const [store] = stores as [PgStore]
    await Promise.all(
      Array.from({ length: 30 }, (_, n) =>
        store.set(`s${n}`, { userId: 'ann', text: 'x'.repeat(5_000) }, minute),
      ),
    )
    expect((await command(schema, 'migrate')).out).to.match(/is ready, distributed by Citus/)
    const stats = JSON.parse((await command(schema, 'stats', '--json')).out)
    expect(stats).to.deep.include({ active: 30, expired: 0, users: 1 })
    expect(stats.bytes.table, 'the shards’ size').to.be.above(100_000)
    const doctor = await command(schema, 'doctor')
    expect(doctor.errors).to.equal('')
    expect(doctor.out)
      .to.match(/shards: \d+ on .*:\d+, \d+ on /)
      .and.match(/worker clocks: at most/)
    expect(doctor.out)
      .to.match(/bloat: .* live rows, [^0]/)
      .and.match(/The store works/)
    expect(doctor.status).to.equal(0)
    const listed = await command(schema, 'list', '--user', 'ann', '--json')
    expect(listed.status, listed.errors).to.equal(0)
    const said = await command(schema, 'revoke', '--user', 'ann', '--yes')
    expect(said, said.errors).to.include({ status: 0 })
    await until(async () => (await store.get('s1')) === undefined)
    expect((await command(schema, 'sweep')).status).to.equal(0)
  })

  it('a worker is refused', async () => {
    const [worker] = await onCluster<{ name: string; port: number }>(
      `select node_name as name, node_port::int as port from citus_get_active_worker_nodes() limit 1`,
    )
    const url = new URL(citusUrl())
    url.hostname = worker?.name ?? ''
    url.port = String(worker?.port)
    const store = new PgStore(url.href)
    stores.push(store)
    expect((await rejection(store.setup())).message).to.match(/worker of a Citus cluster/)
  })

  it('a table is distributed while a store uses it: nothing is lost, and the store goes on', async () => {
    const schema = `test_${randomBytes(4).toString('hex')}`
    const store = new PgStore(citusUrl(), { schema })
    stores.push(store)
    store.on('warning', () => undefined)
    const sids = Array.from({ length: 200 }, (_, n) => `s${n}`)
    await Promise.all(sids.map((sid) => store.set(sid, { sid }, minute)))
    const acknowledged = new Map<string, number>()
    let isDone = false
    const callers = sids.slice(0, 8).map(async (sid) => {
      for (let n = 1; !isDone; n++) {
        const session = await store.get(sid).catch(() => undefined)
        if (session === undefined) continue
        await store.set(sid, Object.assign(session, { n }), minute).then(
          () => acknowledged.set(sid, n),
          () => undefined,
        )
      }
    })
    const said = await run(fewShardsUrl(), 'migrate', '--distribute', '--schema', schema)
    expect(said, said.errors).to.include({ status: 0 })
    const before = new Map(acknowledged)
    await until(
      () => [...acknowledged].every(([sid, n]) => n > (before.get(sid) ?? 0)) && acknowledged.size === 8,
    )
    isDone = true
    await Promise.all(callers)
    for (const sid of sids) {
      const session = await store.get(sid, { fresh: true })
      expect(session).to.include({ sid })
      expect(session?.n ?? 0).to.be.at.least(acknowledged.get(sid) ?? 0)
    }
    const [row] = await onCluster(
      `select partmethod from pg_dist_partition where logicalrelid = '${schema}.session'::regclass`,
    )
    expect(row).to.deep.equal({ partmethod: 'h' })
    await onCluster(`drop schema ${schema} cascade`)
  })

  it('a reference table works too', async () => {
    const schema = `test_${randomBytes(4).toString('hex')}`
    await onCluster(`create schema ${schema}`)
    await onCluster(
      `create table ${schema}.session (id text primary key, expiry timestamptz not null, session json, user_id text,
        created_at timestamptz not null default now(), last_access timestamptz not null default now(), version bigint not null)`,
    )
    await onCluster(`comment on column ${schema}.session.id is 'SHA-256 of the session id'`)
    await onCluster(`select create_reference_table('${schema}.session')`)
    const store = new PgStore(citusUrl(), { schema, cache: false })
    stores.push(store)
    await Promise.all(Array.from({ length: 20 }, (_, n) => store.set(`s${n}`, { n }, minute)))
    await Promise.all(Array.from({ length: 20 }, (_, n) => store.set(`s${n}`, { n: n + 1 }, minute)))
    expect(await store.get('s7')).to.deep.equal({ n: 8 })
    await store.destroy('s7')
    expect(await store.get('s7')).to.equal(undefined)
    expect(await store.count()).to.equal(19)
    await store.close()
    await onCluster(`drop schema ${schema} cascade`)
  })

  for (const [what, more] of [
    ['without trouble', {}],
    ['while listeners are terminated and stalled and processes stopped', { trouble: true }],
  ] as const)
    it(`the history of several processes has no fault ${what}`, async () => {
      await onCluster('drop table if exists public.session')
      await distributedTable({}, 'public')
      const seconds = Number(process.env.TEST_SECONDS ?? 5)
      const { faults, errors, events, hits } = await runHistory({
        url: citusUrl(),
        seconds,
        seed: 20_261_121,
        hasTriggers: false,
        ...more,
      })
      expect({ faults: faults.slice(0, 3), errors: 'trouble' in more ? [] : errors }).to.deep.equal({
        faults: [],
        errors: [],
      })
      expect(events).to.be.above(100)
      expect(hits).to.be.above(10)
    }).timeout(300_000)
})
