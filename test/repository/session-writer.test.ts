import { once } from 'node:events'
import { expect } from 'chai'
import pg from 'pg'
import {
  type Conflict,
  ConflictError,
  PgStore,
  type PgStoreOptions,
  SessionTooLargeError,
} from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

type Attributes = Record<string, unknown>

describe('a save that meets another save of the session', () => {
  let url: string
  const cleanups: (() => Promise<unknown>)[] = []

  before(async () => {
    url = await freshDatabase()
  })

  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  })

  async function open(options: PgStoreOptions = {}): Promise<PgStore> {
    const store = new PgStore(url, options)
    cleanups.push(() => store.close())
    const trusted = options.cache === false ? undefined : once(store, 'trust')
    await store.setup()
    await trusted
    return store
  }

  async function load(store: PgStore, sid: string): Promise<Attributes> {
    const session = await store.get(sid)
    if (session === undefined) throw new Error('no such session')
    return session
  }

  /** A store on one connection; before each of its next changes, while there are any to overtake, another one is made. */
  async function overtaken() {
    const client = new pg.Client(url)
    await client.connect()
    cleanups.push(() => client.end())
    let left = 0
    const store = new PgStore(
      async (text, values) => {
        if (text.includes('update "public"."session" as t set session = coalesce') && left-- > 0)
          await client.query('update session set version = version + 1 where id = $1', [values?.[0]])
        return client.query(text, values)
      },
      { cache: false },
    )
    cleanups.push(() => store.close())
    await store.setup()
    return {
      store,
      overtake(times: number) {
        left = times
      },
    }
  }

  /** A store that counts its statements; it is notified of changes as any other. */
  async function counting(options: PgStoreOptions) {
    const pool = new pg.Pool({ connectionString: url })
    cleanups.push(() => pool.end())
    const statements: string[] = []
    const store = new PgStore(
      (text, values) => {
        // A flush of the log isn't counted: concurrent changes share it.
        if (!text.includes('pg_logical_emit_message')) statements.push(text)
        return pool.query(text, values)
      },
      { listen: url, ...options },
    )
    cleanups.push(() => store.close())
    const trusted = options.cache === false ? undefined : once(store, 'trust')
    await store.setup()
    await trusted
    return { store, run: () => statements.splice(0).length }
  }

  function row(sid: string) {
    return sql<{ xmin: string; version: string; session: Attributes }>(
      url,
      `select xmin::text, version, session from session where id = 'sha256:' || rtrim(translate(encode(sha256($1), 'base64'), '+/', '-_'), '=')`,
      [Buffer.from(sid)],
    ).then(([row]) => row)
  }

  for (const cache of [{}, false] as const)
    describe(cache ? 'with a cache' : 'without a cache', () => {
      let here: PgStore
      let there: PgStore
      let sid: string
      const conflicts: Conflict[] = []

      beforeEach(async () => {
        here = await open({ cache })
        there = await open({ cache })
        conflicts.length = 0
        for (const store of [here, there]) store.on('conflict', (conflict) => conflicts.push(conflict))
        sid = await here.create({ name: 'ann', visits: 1, gone: true })
      })

      for (const elsewhere of [true, false])
        it(`keeps the changes of both, ${elsewhere ? 'on two instances' : 'on one'}`, async () => {
          const other = elsewhere ? there : here
          const [mine, theirs] = [await load(here, sid), await load(other, sid)]
          mine.cart = ['book']
          delete mine.gone
          theirs.locale = 'de'
          theirs.visits = 2
          await here.set(sid, mine)
          await other.set(sid, theirs)
          const both = { name: 'ann', visits: 2, cart: ['book'], locale: 'de' }
          expect(await other.get(sid)).to.deep.equal(both)
          expect(await here.get(sid, { fresh: true })).to.deep.equal(both)
          expect(conflicts).to.deep.equal([{ outcome: 'merged', overwritten: [] }])
          expect((await other.stats()).conflicts).to.equal(1)
          if (elsewhere) expect((await here.stats()).conflicts).to.equal(0)
        })

      it('saves the later value of an attribute that both changed, and keeps the other attributes', async () => {
        const [mine, theirs] = [await load(here, sid), await load(there, sid)]
        Object.assign(mine, { visits: 2, a: 1 })
        Object.assign(theirs, { visits: 3, b: 1 })
        await there.set(sid, theirs)
        await here.set(sid, mine)
        const now = { name: 'ann', visits: 2, gone: true, a: 1, b: 1 }
        expect(await there.get(sid, { fresh: true })).to.deep.equal(now)
        expect(conflicts).to.deep.equal([{ outcome: 'merged', overwritten: ['visits'] }])
      })

      it('removes nothing when an object is saved again that lacks attributes of other requests', async () => {
        const [mine, theirs] = [await load(here, sid), await load(there, sid)]
        theirs.b = 1
        theirs.visits = 5
        await there.set(sid, theirs)
        for (let a = 1; a <= 3; a++) {
          mine.a = a
          await here.set(sid, mine)
          expect(mine).not.to.have.property('b')
          const now = { name: 'ann', visits: 5, gone: true, a, b: 1 }
          expect(await here.get(sid)).to.deep.equal(now)
          expect((await row(sid))?.session).to.deep.equal(now)
        }
        // Only the first save met a conflict.
        expect(conflicts).to.deep.equal([{ outcome: 'merged', overwritten: [] }])
        // An attribute that it hasn't changed has the other request's value; one that it removes is removed.
        delete mine.gone
        await here.set(sid, mine)
        expect((await row(sid))?.session).to.deep.equal({ name: 'ann', visits: 5, a: 3, b: 1 })
      })

      it('finds no conflict when one object is saved repeatedly', async () => {
        const mine = await load(here, sid)
        for (const a of [1, 2, 1]) {
          mine.a = a
          await here.set(sid, mine)
          expect((await row(sid))?.session).to.deep.equal(mine)
        }
        const made: Attributes = { a: 1 }
        await here.set('new', made)
        delete made.a
        made.b = 1
        await here.set('new', made)
        expect((await row('new'))?.session).to.deep.equal({ b: 1 })
        expect(conflicts).to.deep.equal([])
      })

      it('saves the last state of an object whose saves overlap', async () => {
        const mine = await load(here, sid)
        mine.flash = 'saved'
        mine.visits = 2
        const first = here.set(sid, mine)
        delete mine.flash
        mine.visits = 1
        const second = here.set(sid, mine)
        mine.last = true
        await Promise.all([first, second, here.set(sid, mine)])
        expect((await row(sid))?.session).to.deep.equal({ name: 'ann', visits: 1, gone: true, last: true })
        expect(conflicts).to.deep.equal([])
      })

      it('keeps 64 attributes that 64 callers add at once, on one instance and on two', async () => {
        for (const stores of [[here], [here, there]]) {
          const sid = await here.create({ name: 'ann' })
          const names = Array.from({ length: 64 }, (_, n) => `a${n}`)
          const at = (n: number) => stores[n % stores.length] as PgStore
          const sessions = await Promise.all(names.map((_, n) => load(at(n), sid)))
          await Promise.all(
            names.map((name, n) => at(n).set(sid, Object.assign(sessions[n] ?? {}, { [name]: n }))),
          )
          const expected = Object.fromEntries(names.map((name, n) => [name, n]))
          expect((await row(sid))?.session).to.deep.equal({ name: 'ann', ...expected })
          for (const store of stores)
            expect(await store.get(sid, { fresh: true })).to.deep.equal({ name: 'ann', ...expected })
        }
      })

      it('remembers what was loaded for koa-session’s context', async () => {
        const [mine, theirs] = [{}, {}]
        await here.get(sid, 1_000, { ctx: mine })
        await there.get(sid, 1_000, { ctx: theirs })
        await there.set(sid, { name: 'ann', visits: 2, gone: true }, 60_000, { ctx: theirs })
        await here.set(sid, { name: 'ann', visits: 1, a: 1 }, 60_000, { ctx: mine })
        expect((await row(sid))?.session).to.deep.equal({ name: 'ann', visits: 2, a: 1 })
        // And what was saved, for the request's next save.
        await here.set(sid, { name: 'ann', visits: 1, a: 2, b: 1 }, 60_000, { ctx: mine })
        expect((await row(sid))?.session).to.deep.equal({ name: 'ann', visits: 2, a: 2, b: 1 })
        expect([mine, theirs]).to.deep.equal([{}, {}])
      })

      it('replaces the session by an object that was not loaded', async () => {
        await load(here, sid)
        const theirs = await load(there, sid)
        await there.set(sid, Object.assign(theirs, { b: 1 }))
        await here.set(sid, { name: 'bob' })
        expect((await row(sid))?.session).to.deep.equal({ name: 'bob' })
        const loaded = await load(here, sid)
        await there.set(sid, { name: 'eve', c: 1 })
        await here.set(sid, { ...loaded, a: 1 })
        expect((await row(sid))?.session).to.deep.equal({ name: 'bob', a: 1 })
        expect(conflicts).to.deep.equal([])
      })

      it('remembers the merge base of an object that was saved unchanged', async () => {
        const mine: Attributes = { name: 'ann', visits: 1, gone: true }
        await load(here, sid)
        await here.set(sid, mine)
        await there.set(sid, Object.assign(await load(there, sid), { b: 1 }))
        await here.set(sid, Object.assign(mine, { a: 1 }))
        expect((await row(sid))?.session).to.deep.equal({ name: 'ann', visits: 1, gone: true, a: 1, b: 1 })
      })

      it('merges nothing into a session under another id', async () => {
        const mine = await load(here, sid)
        await here.set('another', { b: 1 })
        await here.set('another', Object.assign(mine, { a: 1 }))
        expect((await row('another'))?.session).to.deep.equal({ name: 'ann', visits: 1, gone: true, a: 1 })
        // As koa-session's regenerate does: the context belongs to the old session.
        const ctx = {}
        await here.get(sid, 1_000, { ctx })
        await here.set('a third', { name: 'ann' }, 60_000, { ctx })
        expect((await row('a third'))?.session).to.deep.equal({ name: 'ann' })
        expect(conflicts).to.deep.equal([])
      })

      it('treats an object of another store as new', async () => {
        await sql(url, 'drop schema if exists elsewhere cascade')
        const elsewhere = await open({ cache, schema: 'elsewhere' })
        const mine = await load(here, sid)
        const ctx = {}
        await here.get(sid, 1_000, { ctx })
        await elsewhere.set(sid, mine)
        expect(await elsewhere.get(sid)).to.deep.equal(mine)
        await elsewhere.set('copied', { name: 'bob' }, 60_000, { ctx })
        expect(await elsewhere.get('copied')).to.deep.equal({ name: 'bob' })
      })

      it('accepts frozen sessions', async () => {
        const frozen = Object.freeze({ name: 'ann' })
        await here.set('frozen', frozen)
        await here.set('frozen', frozen)
        const loaded = Object.freeze(await load(here, 'frozen'))
        await here.set('frozen', Object.freeze({ ...loaded, a: 1 }))
        await here.set('frozen', Object.preventExtensions({ ...loaded, a: 2 }))
        expect((await row('frozen'))?.session).to.deep.equal({ name: 'ann', a: 2 })
      })

      it('only touches an unchanged session, even if another request changed it', async () => {
        const [mine, theirs] = [await load(here, sid), await load(there, sid)]
        const before = await row(sid)
        for (let n = 0; n < 3; n++) await here.set(sid, mine)
        expect(await row(sid)).to.deep.equal(before)
        await there.set(sid, Object.assign(theirs, { b: 1 }))
        const changed = await row(sid)
        await here.set(sid, mine)
        // The other change may have shortened its life, so the touch isn't deferred.
        expect(await row(sid)).to.deep.equal({ ...changed, xmin: (await row(sid))?.xmin })
        expect(conflicts).to.deep.equal([])
      })

      it('with "reject", writes nothing and throws a ConflictError', async () => {
        const strict = await open({ cache, concurrency: 'reject' })
        strict.on('conflict', (conflict) => conflicts.push(conflict))
        const mine = await load(strict, sid)
        await there.set(sid, Object.assign(await load(there, sid), { b: 1 }))
        const before = await row(sid)
        const error = await rejection(strict.set(sid, Object.assign(mine, { a: 1 })))
        expect(error).to.be.instanceOf(ConflictError)
        expect(error).to.include({ name: 'ConflictError', code: 'ERR_SESSION_CONFLICT' })
        expect(error.message).not.to.include(sid)
        expect(await row(sid)).to.deep.equal(before)
        expect(conflicts).to.deep.equal([{ outcome: 'rejected', overwritten: [] }])
        expect((await strict.stats()).conflicts).to.equal(1)
        // Again, until the session is reloaded.
        expect(await rejection(strict.set(sid, Object.assign(mine, { a: 2 })))).to.be.instanceOf(
          ConflictError,
        )
        const again = Object.assign((await strict.get(sid, { fresh: true })) ?? {}, { a: 2 })
        const first = strict.set(sid, again)
        await Promise.all([first, strict.set(sid, Object.assign(again, { a: 3 }))])
        expect((await row(sid))?.session).to.include({ a: 3, b: 1 })
      })

      it('with "last-write", replaces what other requests saved', async () => {
        const last = await open({ cache, concurrency: 'last-write' })
        const mine = await load(last, sid)
        await there.set(sid, Object.assign(await load(there, sid), { b: 1 }))
        await last.set(sid, Object.assign(mine, { a: 1 }))
        expect((await row(sid))?.session).to.deep.equal({ name: 'ann', visits: 1, gone: true, a: 1 })
        expect((await last.stats()).conflicts).to.equal(0)
      })

      it('is measured after the merge', async () => {
        const [small, smallest] = [
          await open({ cache, maxBytes: 100 }),
          await open({ cache, maxAttributeBytes: 30 }),
        ]
        const [mine, attribute] = [await load(small, sid), await load(smallest, sid)]
        await there.set(sid, Object.assign(await load(there, sid), { theirs: 'é'.repeat(20) }))
        const before = await row(sid)
        expect(
          await rejection(small.set(sid, Object.assign(mine, { mine: 'x'.repeat(20) }))),
        ).to.be.instanceOf(SessionTooLargeError)
        expect(await rejection(smallest.set(sid, Object.assign(attribute, { a: 1 })))).to.include({
          name: 'SessionTooLargeError',
          attribute: 'theirs',
        })
        expect(await row(sid)).to.deep.equal(before)
      })

      it('fails alone when its merged session can’t be stored, and the other saves of its batch are made once', async () => {
        const sids = await Promise.all([1, 2, 3].map((n) => here.create({ n })))
        await sql(
          url,
          'alter table session add constraint small check (length(session::text) < 60) not valid',
        )
        cleanups.push(() => sql(url, 'alter table session drop constraint small'))
        const sessions = await Promise.all(sids.map((sid) => load(here, sid)))
        const [, big = ''] = sids
        await there.set(big, Object.assign(await load(there, big), { theirs: 'x'.repeat(30) }))
        const results = await Promise.allSettled(
          sids.map((sid, n) => here.set(sid, Object.assign(sessions[n] ?? {}, { mine: 'y'.repeat(30) }))),
        )
        expect(results.map(({ status }) => status)).to.deep.equal(['fulfilled', 'rejected', 'fulfilled'])
        expect(conflicts).to.have.length(1)
        expect((await row(big))?.session).to.have.property('theirs')
      })

      it('costs one statement without a conflict, and three with one', async () => {
        const { store, run } = await counting({ cache })
        const mine = await load(store, sid)
        run()
        for (const a of [1, 2]) {
          await store.set(sid, Object.assign(mine, { a }))
          expect(run()).to.equal(1)
        }
        await store.set(sid, mine)
        expect(run()).to.equal(0)
        // A change made here needn't be read: it is in the cache.
        const [one, other] = [await load(store, sid), await load(store, sid)]
        run()
        await store.set(sid, Object.assign(one, { b: 1 }))
        await store.set(sid, Object.assign(other, { c: 1 }))
        expect(run()).to.equal(cache ? 2 : 4)
        await store.set(sid, Object.assign(other, { c: 2 }))
        expect(run()).to.equal(1)
        expect((await row(sid))?.session).to.include({ a: 2, b: 1, c: 2 })
        // Many concurrent saves are one statement, or three.
        const sids = await Promise.all(Array.from({ length: 50 }, (_, n) => store.create({ n })))
        const sessions = await Promise.all(sids.map((sid) => load(store, sid)))
        const save = () =>
          Promise.all(
            sids.map((sid, n) => store.set(sid, Object.assign(sessions[n] ?? {}, { d: Math.random() }))),
          )
        run()
        await save()
        expect(run()).to.equal(1)
        await sql(url, `update session set session = '{"e": 1}', version = version + 1`)
        await save()
        expect(run()).to.be.within(2, 3)
      })
    })

  it('is repeated while others overtake it, up to 100 times', async () => {
    const { store, overtake } = await overtaken()
    const sid = await store.create({ n: 1 })
    const loaded = await load(store, sid)
    overtake(99)
    await store.set(sid, Object.assign(loaded, { n: 2 }))
    expect(await store.get(sid)).to.deep.equal({ n: 2 })
    overtake(100)
    const error = await rejection(store.set(sid, Object.assign(loaded, { n: 3 })))
    expect(error).to.be.instanceOf(ConflictError)
    expect(error.message).to.equal('the session was changed 100 times while it was being saved')
    expect(await store.get(sid)).to.deep.equal({ n: 2 })
  })

  it('works on a koa-pg-session table, which has no versions', async () => {
    await sql(
      url,
      'drop schema if exists old cascade; create schema old; create table old.session (id text not null primary key, expiry timestamp not null, session json)',
    )
    const store = await open({ schema: 'old', create: false, cache: false, hashIds: false })
    await store.set('sid', { name: 'ann' })
    const [mine, theirs] = [await load(store, 'sid'), await load(store, 'sid')]
    await store.set('sid', Object.assign(mine, { a: 1 }))
    await store.set('sid', Object.assign(mine, { a: 2 }))
    await store.set('sid', Object.assign(theirs, { b: 1 }))
    expect(await store.get('sid')).to.deep.equal({ name: 'ann', b: 1 })
    expect((await store.stats()).conflicts).to.equal(0)
    await sql(url, 'delete from old.session')
    await store.set('sid', Object.assign(mine, { a: 3 }))
    await store.set('sid', { name: 'bob' })
    expect(await store.get('sid')).to.equal(undefined)
  })
})
