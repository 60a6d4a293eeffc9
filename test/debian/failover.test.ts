// A primary and a standby: nobody is signed out or stays signed in, whichever of them the connections lead to.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { DatabaseError, PgStore } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { startProxy } from '../helpers/proxy.js'
import { at, sql } from '../helpers/server.js'
import { withStandby } from '../helpers/standby.js'
import { until } from '../helpers/until.js'

const maxStaleness = 1_000

/** Counts what reads return, by whether it is what they should. */
async function readFor(
  ms: number,
  store: PgStore,
  expected: Record<string, boolean>,
): Promise<{ signedOut: number; signedIn: number; right: number; errors: Set<string> }> {
  const result = { signedOut: 0, signedIn: 0, right: 0, errors: new Set<string>() }
  for (const end = performance.now() + ms; performance.now() < end; await sleep(1))
    for (const [sid, exists] of Object.entries(expected))
      try {
        const session = await store.get(sid)
        if (exists === (session !== undefined)) result.right++
        else if (exists) result.signedOut++
        else result.signedIn++
      } catch (error) {
        expect(error).to.be.instanceOf(DatabaseError)
        result.errors.add((error as Error).message)
      }
  return result
}

describe('a standby that lags', () => {
  it('is never read from, by a pool or through a query function', () =>
    withStandby(0, async ({ primary, standby }) => {
      const proxy = await startProxy(primary.port)
      const url = at(primary.url, { port: proxy.port })
      const pool = new pg.Pool({ connectionString: url })
      pool.on('error', () => undefined)
      const stores = [
        await trusted(url, { cache: { maxStaleness } }),
        new PgStore((text, values) => pool.query(text, values), { listen: url, cache: { maxStaleness } }),
      ]
      for (const store of stores) store.on('warning', () => undefined)
      const direct = new PgStore(primary.url)
      await direct.set('destroyed', { n: 1 })
      const onStandby = 'select from session where session is not null'
      await until(async () => (await sql(standby.url, onStandby)).length === 1)
      await sql(standby.url, 'select pg_wal_replay_pause()')
      const paused = `select from pg_get_wal_replay_pause_state() as state where state = 'paused'`
      await until(async () => (await sql(standby.url, paused)).length === 1)
      await direct.destroy('destroyed')
      await direct.set('live', { n: 1 })
      const expected = { live: true, destroyed: false }
      for (const store of stores) for (const sid of Object.keys(expected)) await store.get(sid)
      // As after a change of DNS that goes wrong.
      proxy.leadTo(standby.port)
      const others = `datname = 'postgres' and backend_type = 'client backend' and pid <> pg_backend_pid()`
      await sql(primary.url, `select pg_terminate_backend(pid) from pg_stat_activity where ${others}`)
      for (const store of stores) {
        const { signedOut, signedIn, errors } = await readFor(2 * maxStaleness, store, expected)
        expect({ signedOut, signedIn }).to.deep.equal({ signedOut: 0, signedIn: 0 })
        expect([...errors].join('\n')).to.match(
          /the connection leads to a standby, which may lack the latest/,
        )
        expect((await store.health()).healthy, 'healthy').to.equal(false)
      }
      proxy.leadTo(primary.port)
      await pool.end()
      const [store] = stores as [PgStore]
      await until(async () => (await readFor(1, store, expected)).right > 0)
      const { signedOut, signedIn, errors } = await readFor(200, store, expected)
      expect({ signedOut, signedIn, errors: errors.size }).to.deep.equal({
        signedOut: 0,
        signedIn: 0,
        errors: 0,
      })
      await Promise.all([...stores, direct].map((each) => each.close()))
      await proxy.close()
    }))
})

describe('a failover while the old primary lives on', () => {
  const kept = `datname = 'postgres' and backend_type = 'client backend' and pid <> pg_backend_pid()`
  const lost = {
    'its listener': `application_name like '%listener'`,
    'a connection of its pool': `pid = (select pid from pg_stat_activity where ${kept} and application_name not like '%listener' limit 1)`,
  }
  for (const [what, condition] of Object.entries(lost))
    it(`is followed by an instance that loses ${what}, and its other connections are not used again`, () =>
      withStandby(0, async ({ primary, standby }) => {
        const proxy = await startProxy(primary.port)
        const here = await trusted(at(primary.url, { port: proxy.port }), { cache: { maxStaleness } })
        here.on('warning', () => undefined)
        const useAll = (): Promise<unknown> =>
          Promise.allSettled(Array.from({ length: 10 }, () => here.count()))
        await here.set('live', { n: 1 })
        await here.set('destroyed', { n: 1 })
        await useAll()
        const onStandby = 'select from session where session is not null'
        await until(async () => (await sql(standby.url, onStandby)).length === 2)
        proxy.leadTo(standby.port)
        await sql(standby.url, 'select pg_promote()')
        const there = new PgStore(standby.url)
        await there.destroy('destroyed')
        await there.set('live', { n: 2 })
        await there.set('new', { n: 1 })
        const trust = new Promise<void>((resolve) => here.once('trust', () => resolve()))
        await sql(
          primary.url,
          `select pg_terminate_backend(pid) from pg_stat_activity where ${kept} and ${condition}`,
        )
        // Which connection a call gets is left to the pool.
        let isTrusted = false
        void trust.then(() => {
          isTrusted = true
        })
        while (!isTrusted) await useAll()
        const readAll = async (): Promise<void> => {
          for (let n = 0; n < 30; n++) {
            await useAll()
            for (const fresh of [false, true]) {
              const read = (sid: string) => here.get(sid, { fresh }).then((session) => session?.n)
              const sessions = await Promise.all(['live', 'destroyed', 'new'].map(read))
              expect(sessions).to.deep.equal([2, undefined, 1])
            }
          }
        }
        await readAll()
        // New connections lead to the old primary again. Those that are open are used, the others refused.
        proxy.leadTo(primary.port)
        const { errors, ...read } = await readFor(maxStaleness, here, {
          live: true,
          destroyed: false,
          new: true,
        })
        expect(read).to.include({ signedOut: 0, signedIn: 0 })
        expect((await here.get('live').catch(() => ({ n: 2 })))?.n).to.equal(2)
        for (const error of errors) expect(error).to.match(/leads to a former primary/)
        proxy.leadTo(standby.port)
        await until(() =>
          readAll().then(
            () => true,
            () => false,
          ),
        )
        await Promise.all([here.close(), there.close()])
        await proxy.close()
      }))
})
