import { expect } from 'chai'
import fc from 'fast-check'
import { PgStore, SessionTooLargeError } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

describe('PgStore', () => {
  let url: string
  let store: PgStore

  before(async () => {
    url = await freshDatabase()
    store = new PgStore(url)
  })
  after(() => store.close())

  it('returns what was set, and undefined for what was not', async () => {
    await store.set('a', { user: 'ann', cart: [1, 2] }, 60_000)
    expect(await store.get('a')).to.deep.equal({ user: 'ann', cart: [1, 2] })
    expect(await store.get('missing')).to.equal(undefined)
  })

  it('replaces an existing session', async () => {
    await store.set('replaced', { a: 1 })
    await store.set('replaced', { b: 2 })
    expect(await store.get('replaced')).to.deep.equal({ b: 2 })
  })

  it('leaves a tombstone of a destroyed session, which no save or touch brings back', async () => {
    const sid = await store.create({ user: 'bob' })
    await store.destroy(sid)
    expect(await store.get(sid)).to.equal(undefined)
    await store.set(sid, { user: 'bob' }, 60_000)
    await store.touch(sid, 60_000)
    expect(await store.get(sid)).to.equal(undefined)
    const [row] = await sql(
      url,
      `select session, user_id, expiry <= now() + '1 hour' as soon from session order by version desc limit 1`,
    )
    expect(row).to.deep.equal({ session: null, user_id: null, soon: true })
  })

  it('writes no row for the destroy of a missing session', async () => {
    const before = await sql(url, 'select count(*) from session')
    await store.destroy('never was')
    expect(await sql(url, 'select count(*) from session')).to.deep.equal(before)
  })

  it('creates sessions under ids of 192 random bits', async () => {
    const ids = await Promise.all(Array.from({ length: 50 }, () => store.create({ n: 1 }, { ttl: 60_000 })))
    expect(new Set(ids).size).to.equal(50)
    for (const id of ids) expect(Buffer.from(id, 'base64url')).to.have.length(24)
    expect(await store.get(ids[0] as string)).to.deep.equal({ n: 1 })
  })

  it('counts active sessions, neither destroyed nor expired ones', async () => {
    const other = new PgStore(url, { table: 'counted' })
    expect(await other.count()).to.equal(0)
    await other.set('active', {}, 60_000)
    await other.set('expired', {}, 0)
    await other.set('destroyed', {}, 60_000)
    await other.destroy('destroyed')
    expect(await other.count()).to.equal(1)
    await other.close()
  })

  it('moves the expiry by touch, never earlier, and leaves the session unchanged', async () => {
    const store = new PgStore(url, { touch: { interval: 0 } })
    await store.set('touched', { a: 1 }, 60_000)
    const remaining = async () => {
      const rows = await sql<{ seconds: number }>(
        url,
        `select extract(epoch from expiry - now())::float8 as seconds from session where session->>'a' = '1' and session->>'t' = 'x'`,
      )
      return rows[0]?.seconds as number
    }
    await store.set('touched', { a: 1, t: 'x' }, 60_000)
    await store.touch('touched', 600_000)
    expect(await remaining()).to.be.within(500, 600)
    await store.touch('touched', 1_000)
    expect(await remaining()).to.be.within(500, 600)
    expect(await store.get('touched')).to.deep.equal({ a: 1, t: 'x' })
    await store.touch('missing', 60_000)
    expect(await store.get('missing')).to.equal(undefined)
    await store.close()
  })

  it('does not revive an expired session by touch', async () => {
    await store.set('gone', { a: 1 }, 0)
    await store.touch('gone', 60_000)
    expect(await store.get('gone')).to.equal(undefined)
  })

  it('returns an object of the caller’s own, and keeps no reference to the one it was given', async () => {
    const mine = { list: [1] }
    const saved = store.set('own', mine)
    mine.list.push(2)
    await saved
    const first = await store.get<typeof mine>('own')
    expect(first).to.deep.equal({ list: [1] })
    first?.list.push(3)
    expect(await store.get('own')).to.deep.equal({ list: [1] })
  })

  it('restores any JSON value as JSON does', async () => {
    const awkward = fc.constantFrom(
      '\u0000',
      '\ud800',
      'a\udc00b',
      '__proto__',
      '\u2028',
      '',
      '\\u0000',
      "'",
      '"',
      '$1',
      '😀',
    )
    const value = fc.jsonValue({ maxDepth: 6, stringUnit: 'binary' })
    const key = fc.oneof(fc.string({ unit: 'binary' }), awkward)
    const session = fc.dictionary(key, fc.oneof(value, awkward, fc.double(), fc.date()), {
      noNullPrototype: true,
    })
    let n = 0
    await fc.assert(
      fc.asyncProperty(session, async (data) => {
        const sid = `fuzz ${n++}`
        await store.set(sid, data)
        expect(await store.get(sid)).to.deep.equal(JSON.parse(JSON.stringify(data)))
      }),
      { numRuns: 500 },
    )
  })

  it('keeps an own __proto__ apart from the prototype', async () => {
    const session = JSON.parse('{"__proto__": {"admin": true}, "a": 1}') as object
    await store.set('proto', session)
    const back = (await store.get('proto')) as object
    expect(Object.keys(back)).to.deep.equal(['__proto__', 'a'])
    expect(Reflect.get({}, 'admin')).to.equal(undefined)
    expect(Object.getPrototypeOf(back)).to.equal(Object.prototype)
  })

  it('accepts nesting as deep as PostgreSQL does, and rejects deeper, leaving the stored session unchanged', async () => {
    const nested = (depth: number): object => {
      let value: unknown = 1
      for (let i = 0; i < depth; i++) value = i % 2 ? [value] : { a: value }
      return { value }
    }
    await store.set('deep', nested(1_000))
    expect(await store.get('deep')).to.deep.equal(nested(1_000))
    const error = await rejection(store.set('deep', nested(1_000_000)))
    expect(error).to.be.instanceOf(Error)
    expect(await store.get('deep')).to.deep.equal(nested(1_000))
  })

  it('rejects a session that JSON cannot hold, naming the attribute, and leaves the stored one unchanged', async () => {
    await store.set('kept', { ok: true })
    const circle: Record<string, unknown> = {}
    circle.self = circle
    const cases: [unknown, RegExp][] = [
      [{ ok: 1, big: 10n }, /session attribute "big" can't be stored as JSON: .*BigInt/],
      [{ circle }, /session attribute "circle" can't be stored as JSON: .*circular/],
      [
        {
          get getter(): never {
            throw new Error('it is broken')
          },
        },
        /session attribute "getter" can't be stored as JSON: it is broken/,
      ],
      [() => {}, /session must be an object; received function/],
      [undefined, /session must be an object; received undefined/],
      [null, /session must be an object; received null/],
      [[1], /session must be an object; received an array/],
      ['text', /session must be an object; received string/],
      [{ toJSON: () => 'text' }, /session must be a JSON object; its toJSON/],
      [{ toJSON: () => undefined }, /session must be a JSON object; its toJSON/],
    ]
    for (const [session, message] of cases) {
      const error = await rejection(store.set('kept', session as object))
      expect(error).to.be.instanceOf(TypeError)
      expect(error.message).to.match(message)
    }
    expect(await store.get('kept')).to.deep.equal({ ok: true })
  })

  it('rejects a session larger than maxBytes, in bytes of UTF-8, and leaves the stored one unchanged', async () => {
    const small = new PgStore(url, { maxBytes: 20 })
    await small.set('kept small', { a: '12345678901' })
    for (const [session, bytes] of [
      [{ a: 'x'.repeat(13) }, 21],
      [{ a: 'é'.repeat(7) }, 22],
    ] as const) {
      const error = (await rejection(small.set('kept small', session))) as SessionTooLargeError
      expect(error).to.be.instanceOf(SessionTooLargeError)
      expect(error).to.include({ bytes, maxBytes: 20, code: 'ERR_SESSION_TOO_LARGE' })
    }
    await small.set('fits', { a: 'é'.repeat(6) })
    expect(await small.get('kept small')).to.deep.equal({ a: '12345678901' })
    await small.close()
  })

  for (const hashIds of [true, false]) {
    it(`accepts any string as an id, with hashIds: ${hashIds}`, async () => {
      const odd = new PgStore(url, { hashIds, table: `odd_${hashIds}` })
      const ids = [
        `'; drop table session; --`,
        '"',
        '\\',
        '$1',
        '%',
        ' ',
        '😀',
        'é',
        'koa:sess:x',
        'x'.repeat(1_000),
      ]
      for (const [n, id] of ids.entries()) await odd.set(id, { n })
      for (const [n, id] of ids.entries()) expect(await odd.get(id), id).to.deep.equal({ n })
      for (const id of ids) await odd.destroy(id)
      expect(await odd.count()).to.equal(0)
      const impossible = ['a\0b', 'a\ud800b', 'x'.repeat(10_000), `sha256:${'A'.repeat(43)}`]
      for (const id of impossible) {
        expect(await odd.get(id)).to.equal(undefined)
        await odd.touch(id)
        await odd.destroy(id)
        if (hashIds) await odd.set(id, { fine: true })
        else expect((await rejection(odd.set(id, {}))).message).to.match(/session id must have at most 1024/)
      }
      for (const id of ['', undefined, null, 7, {}]) {
        const error = await rejection(odd.get(id as string))
        expect(error).to.be.instanceOf(TypeError)
        expect(error.message).to.match(/^session id must/)
      }
      await odd.close()
    })
  }

  it('returns promises that generators may yield and delegate to', async () => {
    function* delegating(): Generator<unknown, unknown, unknown> {
      yield* store.set('yielded', { y: 1 })
      const session = yield* store.get('yielded')
      yield* store.destroy('yielded')
      return session
    }
    const run = delegating()
    let step = run.next()
    while (!step.done) {
      expect(step.value).to.be.instanceOf(Promise)
      step = run.next(await step.value)
    }
    expect(step.value).to.deep.equal({ y: 1 })
    expect(await store.get('yielded')).to.equal(undefined)
  })

  it('reveals nothing of its connection when it is printed', async () => {
    const { inspect } = await import('node:util')
    const password = new URL(url).password
    expect(inspect(store, { depth: 9, showHidden: true })).not.to.include(password)
    expect(JSON.stringify(store)).not.to.include(password)
  })

  it('rejects calls after close, which may be called twice', async () => {
    const closed = new PgStore(url)
    const pending = closed.set('in progress', { a: 1 })
    await Promise.all([closed.close(), closed.close()])
    await pending
    expect(await store.get('in progress')).to.deep.equal({ a: 1 })
    for (const call of [
      closed.get('a'),
      closed.set('a', {}),
      closed.destroy('a'),
      closed.touch('a'),
      closed.count(),
      closed.setup(),
    ])
      expect((await rejection(call)).message).to.match(/the session store is closed/)
    await closed.close()
    const disposed = new PgStore(url)
    await disposed[Symbol.asyncDispose]()
    expect((await rejection(disposed.get('a'))).message).to.match(/closed/)
  })
})
