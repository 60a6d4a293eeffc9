// With a synchronous standby that lags, changes are acknowledged only once it has them, and survive a failover to it.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore as Store } from '../../lib/index.js'
import { flushLines, withoutLines } from '../helpers/faulty-library.js'
import { storedId } from '../helpers/fixture.js'
import { rejection } from '../helpers/rejection.js'
import { sql } from '../helpers/server.js'
import { type Cluster, withStandby } from '../helpers/standby.js'
import { until } from '../helpers/until.js'

const bin = process.env.TEST_POSTGRES_BIN ?? ''
const lagMs = 200

/** Runs with a primary and a standby, without whose answer no commit of the primary is complete. */
function withSynchronousStandby(run: (cluster: Cluster) => Promise<void>): Promise<void> {
  return withStandby(lagMs, async (cluster) => {
    const { url } = cluster.primary
    // The default of every connection from now on, so it has to wait until the standby is there.
    await sql(url, `alter system set synchronous_standby_names = 'standby'`)
    await sql(url, 'alter system set synchronous_commit = remote_apply')
    await sql(url, 'select pg_reload_conf()')
    const states = 'select sync_state from pg_stat_replication'
    await until(async () => (await sql(url, states))[0]?.sync_state === 'sync')
    await run(cluster)
  })
}

interface Changes {
  /** The last acknowledged number of each session. */
  readonly set: Map<string, number>
  readonly destroyed: Set<string>
  /** Acknowledged changes that the standby didn't have yet. */
  readonly early: string[]
}

/** Sets and destroys sessions from several callers until a call fails, and looks for each change on the standby. */
async function changeAll(store: Store, standby: pg.Pool, until: () => boolean): Promise<Changes> {
  const changes: Changes = { set: new Map(), destroyed: new Set(), early: [] }
  const find = async (sid: string): Promise<{ n: number } | null | undefined> =>
    (await standby.query('select session from session where id = $1', [storedId(sid)])).rows[0]?.session
  const change = async (caller: number): Promise<void> => {
    for (let n = 1; !until(); n++) {
      const sid = `s${caller}-${n % 3}`
      await store.set(sid, { n })
      changes.set.set(sid, n)
      if (((await find(sid))?.n ?? 0) < n) changes.early.push(`set ${sid}`)
      const doomed = `doomed-${caller}-${n}`
      await store.set(doomed, { n })
      await store.destroy(doomed)
      changes.destroyed.add(doomed)
      if ((await find(doomed)) !== null) changes.early.push(`destroy ${doomed}`)
    }
  }
  const settled = await Promise.allSettled(Array.from({ length: 6 }, (_, caller) => change(caller)))
  for (const each of settled) if (each.status === 'rejected' && !until()) throw each.reason
  return changes
}

describe('a synchronous standby that lags', () => {
  before(() => {
    expect(bin, 'TEST_POSTGRES_BIN').to.not.equal('')
  })

  it('has each change when it is acknowledged, and all of them when it is promoted', () =>
    withSynchronousStandby(async ({ primary, standby }) => {
      const store = new Store(primary.url)
      store.on('warning', () => undefined)
      await store.setup()
      const pool = new pg.Pool({ connectionString: standby.url })
      let isOver = false
      const changing = changeAll(store, pool, () => isOver)
      await Promise.race([sleep(4_000), changing])
      isOver = true
      await primary.kill()
      const { set, destroyed, early } = await changing
      await store.close()
      await pool.end()
      await sql(standby.url, 'select pg_promote()')
      const promoted = new Store(standby.url)
      const lost: string[] = []
      for (const [sid, n] of set)
        if (((await promoted.get<{ n: number }>(sid))?.n ?? 0) < n) lost.push(`set ${sid}`)
      for (const sid of destroyed) if ((await promoted.get(sid)) !== undefined) lost.push(`destroy ${sid}`)
      await promoted.close()
      expect({ early, lost }).to.deep.equal({ early: [], lost: [] })
      expect(set.size).to.be.at.least(6)
      expect(destroyed.size).to.be.at.least(6)
    }))

  it('does not have each change when it is acknowledged without the flush', () =>
    withoutLines(flushLines, (library) =>
      withSynchronousStandby(async ({ primary, standby }) => {
        const { PgStore } = (await import(library)) as { PgStore: typeof Store }
        const store = new PgStore(primary.url)
        const pool = new pg.Pool({ connectionString: standby.url })
        const end = performance.now() + 2_000
        const { early } = await changeAll(store, pool, () => performance.now() > end)
        expect(early).to.not.have.length(0)
        await store.close()
        await pool.end()
      }),
    ))

  it('that is stopped keeps every change waiting, and none is acknowledged', () =>
    withSynchronousStandby(async ({ primary, standby }) => {
      const store = new Store({ connectionString: primary.url, query_timeout: 1_500 }, { cache: false })
      await store.set('a', { n: 1 })
      await store.set('b', { n: 1 })
      await standby.kill()
      const errors = await Promise.all(
        [store.set('a', { n: 2 }), store.set('b', { n: 2 }), store.destroy('a')].map(rejection),
      )
      for (const error of errors) expect(error).to.have.property('code', 'ERR_SESSION_TIMEOUT')
      await standby.start()
      await until(async () =>
        store.set('a', { n: 3 }).then(
          () => true,
          () => false,
        ),
      )
      await store.close()
    }))
})
