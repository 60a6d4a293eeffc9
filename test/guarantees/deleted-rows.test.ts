// A session whose row is deleted in psql stays deleted, whatever a request does with it afterwards.
import { once } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

type Attributes = Record<string, unknown>

interface LoadedSession {
  store: PgStore
  sid: string
  session: Attributes
}

const save = ({ store, sid, session }: LoadedSession) =>
  store.set(sid, Object.assign(session, { late: true }))

/** Calls that a request may make after it has loaded the session. */
const calls: Record<string, (loaded: LoadedSession) => PromiseLike<unknown>> = {
  'a save': save,
  'a save that has to be merged': save,
  'a save of another object in its place': ({ store, sid }) => store.set(sid, { name: 'ann', late: true }),
  'a save with koa-session’s context': async ({ store, sid }) => {
    const ctx = {}
    await store.get(sid, 60_000, { ctx })
    await store.set(sid, { name: 'ann', late: true }, 60_000, { ctx })
  },
  'a touch': ({ store, sid }) => store.touch(sid, 7 * 24 * 3_600_000),
}

describe('a row that is deleted in psql', () => {
  let url: string
  const cleanups: (() => Promise<unknown>)[] = []

  beforeEach(async () => {
    url = await freshDatabase()
  })

  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  })

  async function open(options: PgStoreOptions): Promise<PgStore> {
    const store = new PgStore(url, options)
    cleanups.push(() => store.close())
    const trusted = options.cache === false ? undefined : once(store, 'trust')
    await store.setup()
    await trusted
    return store
  }

  for (const [what, call] of Object.entries(calls))
    for (const cache of [{}, false] as const)
      it(`stays deleted when ${what} waits for it, here and on another instance${cache ? '' : ', without a cache'}`, async () => {
        const stores = await Promise.all([1, 2].map(() => open({ cache, touch: { interval: 0 } })))
        const [here] = stores as [PgStore]
        const sids = await Promise.all([1, 2, 3].map(() => here.create({ name: 'ann' })))
        const loaded: LoadedSession[] = []
        for (const store of stores)
          for (const sid of sids) loaded.push({ store, sid, session: (await store.get(sid)) ?? {} })
        if (what.endsWith('merged'))
          await sql(url, `update session set session = '{"name": "ann", "other": true}'`)
        const client = new pg.Client(url)
        await client.connect()
        cleanups.push(() => client.end())
        await client.query('begin')
        await client.query('delete from session')
        const pending = Promise.allSettled(loaded.map(call))
        const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
        await until(async () => (await sql(url, waiting)).length >= stores.length)
        await client.query('commit')
        for (const { status } of await pending) expect(status).to.equal('fulfilled')
        expect(await sql(url, 'select from session')).to.deep.equal([])
        for (const store of stores)
          for (const sid of sids) await until(async () => (await store.get(sid)) === undefined)
        // Again, now that both instances know of the deletion.
        await Promise.all(loaded.map(call))
        expect(await sql(url, 'select from session')).to.deep.equal([])
      })

  it('stays deleted when a buffered touch is written', async () => {
    const store = await open({})
    const sid = await store.create({ name: 'ann' }, { ttl: 3_600_000 })
    await store.get(sid)
    await store.touch(sid, 7_200_000)
    await sql(url, 'delete from session')
    await store.close()
    expect(await sql(url, 'select from session')).to.deep.equal([])
  })

  it('stays deleted for a minute under an id that was loaded, since a request may still use the old session', async () => {
    const store = await open({})
    const sid = await store.create({ name: 'ann' })
    await store.get(sid)
    await sql(url, 'delete from session')
    await until(async () => (await store.get(sid)) === undefined)
    await store.set(sid, { name: 'ann' })
    expect(await sql(url, 'select from session')).to.deep.equal([])
  })

  it('is not merged into the next session under its id', async () => {
    const store = await open({ cache: false })
    const session = { name: 'ann', a: 1 }
    await store.set('sid', session)
    await sql(url, 'delete from session')
    expect(await store.get('sid')).to.equal(undefined)
    await store.set('sid', { name: 'bob' })
    expect(await store.get('sid')).to.deep.equal({ name: 'bob' })
  })
})
