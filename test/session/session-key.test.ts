import { inspect } from 'node:util'
import { type } from 'arktype'
import { expect } from 'chai'
import * as v from 'valibot'
import * as z from 'zod'
import {
  AttributeError,
  CachedStore,
  MemoryStore,
  PgStore,
  type Session,
  sessionKey,
} from '../../lib/index.js'
import { freshDatabase } from '../helpers/server.js'

const minute = 60_000

/** A session as the next request has it. */
function nextRequest(session: object): Session {
  return JSON.parse(JSON.stringify(session)) as Session
}

/** The error that a call throws. */
function thrown(call: () => unknown): AttributeError {
  try {
    call()
  } catch (error) {
    expect(error).to.be.instanceOf(AttributeError)
    return error as AttributeError
  }
  throw new Error('it did not throw')
}

describe('sessionKey', () => {
  const kinds = {
    zod: sessionKey('user', z.object({ id: z.number(), name: z.string().optional() })),
    valibot: sessionKey('user', v.object({ id: v.number(), name: v.optional(v.string()) })),
    arktype: sessionKey('user', type({ id: 'number', 'name?': 'string' })),
    'no schema': sessionKey<{ id: number; name?: string | undefined }>('user'),
  }
  for (const [kind, user] of Object.entries(kinds)) {
    it(`sets, gets, updates and deletes an attribute (${kind})`, () => {
      const session = { cart: [7] }
      expect(user.get(session)).to.equal(undefined)
      user.set(session, { id: 1 })
      expect(session).to.deep.equal({ cart: [7], user: { id: 1 } })
      const next = nextRequest(session)
      expect(user.get(next)).to.deep.equal({ id: 1 })
      expect(user.update(next, (known) => ({ ...known, id: 1, name: 'ann' }))).to.deep.equal({
        id: 1,
        name: 'ann',
      })
      expect(user.get(nextRequest(next))).to.deep.equal({ id: 1, name: 'ann' })
      user.delete(next)
      expect(next).to.deep.equal({ cart: [7] })
    })

    if (kind !== 'no schema')
      it(`checks it on the way in and out, and names it and not its content (${kind})`, () => {
        const session = { user: { id: 1 } }
        const wrong = { id: 'Xyzzy-Xyzzy', name: ['Xyzzy-Xyzzy'] } as unknown as { id: number }
        const calls = [
          () => user.set(session, wrong),
          () => user.update(session, () => wrong),
          () => user.get({ user: wrong }),
        ]
        for (const call of calls) {
          const error = thrown(call)
          expect(error.attribute).to.equal('user')
          expect(error.message).to.match(
            /^session attribute "user": what (was to be set|is stored) is not what its schema allows$/,
          )
          expect(inspect(error, { showHidden: true, depth: 9 })).not.to.include('Xyzzy')
        }
        expect(session).to.deep.equal({ user: { id: 1 } })
      })
  }

  it('answers its default where there is no value, to each caller its own', () => {
    const cart = sessionKey('cart', z.array(z.number()), { default: [] })
    const session = {}
    cart.get(session).push(1)
    expect(cart.get(session)).to.deep.equal([])
    expect(session).to.deep.equal({})
    cart.update(session, (list) => [...list, 2])
    expect(cart.get(session)).to.deep.equal([2])
    expect(() => sessionKey('cart', z.array(z.number()), { default: ['a'] as unknown as number[] })).to.throw(
      AttributeError,
      'session attribute "cart": the default is not what its schema allows',
    )
  })

  it('hands out and takes in no shared object', () => {
    const cart = sessionKey<number[]>('cart')
    const session = {}
    const mine = [1]
    cart.set(session, mine)
    mine.push(2)
    cart.get(session)?.push(3)
    expect(cart.get(session)).to.deep.equal([1])
  })

  it('answers what the schema makes of the value, and saves the value', () => {
    const since = sessionKey(
      'since',
      z.iso.datetime().transform((text) => new Date(text)),
    )
    const session = {}
    since.set(session, '2026-01-01T00:00:00Z')
    expect(session).to.deep.equal({ since: '2026-01-01T00:00:00Z' })
    expect(since.get(nextRequest(session))).to.deep.equal(new Date('2026-01-01T00:00:00Z'))
  })

  it('refuses what would not be the same when it comes back from JSON', () => {
    expect(thrown(() => sessionKey('since', z.date()).set({}, new Date())).message).to.match(
      /not what its schema/,
    )
    for (const value of [undefined, 10n, () => 1, Symbol('s')])
      expect(thrown(() => sessionKey('any').set({}, value)).message).to.equal(
        'session attribute "any": what was to be set is nothing that JSON can hold',
      )
  })

  it('refuses a schema that checks asynchronously', async () => {
    const unhandled: unknown[] = []
    const note = (error: unknown) => unhandled.push(error)
    process.on('unhandledRejection', note)
    const failing = { version: 1, vendor: 'test', validate: () => Promise.reject(new Error('late')) } as const
    const schemas = [z.string().refine(async () => true), { '~standard': failing }]
    for (const schema of schemas) {
      const slow = sessionKey('slow', schema as (typeof schemas)[0])
      for (const call of [() => slow.set({}, 'a'), () => slow.get({ slow: 'a' })])
        expect(thrown(call).message).to.equal(
          'session attribute "slow": its schema checks asynchronously, and a key can’t wait for it',
        )
    }
    // And nobody has to catch what it says later.
    await new Promise(setImmediate)
    process.off('unhandledRejection', note)
    expect(unhandled).to.deep.equal([])
  })

  it('knows a session that was signed out, and one that is still to be awaited', () => {
    const visits = sessionKey('visits', z.number(), { default: 0 })
    for (const none of [null, undefined]) {
      expect(visits.get(none)).to.equal(0)
      visits.delete(none)
      expect(thrown(() => visits.set(none, 1)).message).to.equal(
        'session attribute "visits": there is no session to set it in',
      )
    }
    for (const call of [() => visits.get(Promise.resolve({})), () => visits.set(Promise.resolve({}), 1)])
      expect(thrown(call).message).to.match(/await it first/)
  })

  it('takes an attribute for missing that every object has', () => {
    expect(sessionKey('constructor').get({})).to.equal(undefined)
    expect(sessionKey('toString').get({})).to.equal(undefined)
  })

  for (const [args, message] of [
    [[1], 'name must be a string; received 1'],
    [[''], 'name must not be empty or begin with "_"; received "" (a string)'],
    [['__proto__'], 'name must not be empty or begin with "_"; received "__proto__" (a string)'],
    [['a', {}], "schema must be a Standard Schema, such as zod's; received an object"],
    [['a', undefined, { ttl: -1 }], 'option "ttl" must be a number of milliseconds above 0; received -1'],
    [['a', undefined, { now: 1 }], 'option "now" must be a function; received 1'],
    [['a', undefined, { maxAge: 1 }], 'option "maxAge" is unknown; known options: default, ttl, now'],
  ] as const)
    it(`refuses ${JSON.stringify(args)} by name`, () => {
      expect(() => sessionKey(...(args as unknown as Parameters<typeof sessionKey>))).to.throw(message)
    })
})

describe('an attribute with a ttl', () => {
  let time = Date.now()
  const now = () => time
  const stepUp = sessionKey('stepUp', z.boolean(), { default: false, ttl: 5 * minute, now })

  it('ends by itself, counted from when it was last set', () => {
    const session = {}
    stepUp.set(session, true)
    time += 4 * minute
    expect(stepUp.get(nextRequest(session))).to.equal(true)
    stepUp.set(session, true)
    time += 5 * minute - 1
    expect(stepUp.get(nextRequest(session))).to.equal(true)
    time += 1
    expect(stepUp.get(nextRequest(session))).to.equal(false)
  })

  it('is not taken for its value by who does not ask the key', () => {
    const session: Session = {}
    stepUp.set(session, true)
    expect(session.stepUp).to.deep.equal({ '~value': true, '~expires': time + 5 * minute })
    expect(session.stepUp).not.to.equal(true)
    // A key without the ttl knows its form.
    expect(sessionKey('stepUp', z.boolean(), { now }).get(session)).to.equal(true)
  })

  it('is read where it was saved before it had a ttl', () => {
    expect(stepUp.get({ stepUp: true })).to.equal(true)
  })

  for (const [name, make] of [
    ['MemoryStore', () => new MemoryStore()],
    ['PgStore', async () => new PgStore(await freshDatabase())],
    ['PgStore without a cache', async () => new PgStore(await freshDatabase(), { cache: false })],
    ['CachedStore', () => new CachedStore(new MemoryStore(), new MemoryStore())],
  ] as const)
    it(`is gone for every reader of a ${name} once it has expired, and at the next save`, async () => {
      const store = await make()
      // What a busy machine takes to set up the table isn't part of it.
      await store.set('first', {}, minute)
      const short = sessionKey('short', z.boolean(), { ttl: 1_500 })
      const session: Session = { user: 'ann' }
      short.set(session, true)
      await store.set('a', session, minute)
      const found = (await store.get('a')) as Session
      expect(found).to.have.property('short')
      // From memory, and from a store that has forgotten nothing: the clock alone takes it away.
      const { '~expires': end } = found.short as { '~expires': number }
      while (Date.now() <= end) await new Promise((resolve) => setTimeout(resolve, 5))
      expect(short.get(found)).to.equal(undefined)
      expect(await store.get('a')).to.deep.equal({ user: 'ann' })
      // Who still has it saves it no more; and a save leaves the caller's object as it is.
      await store.set('b', found, minute)
      expect(found).to.have.property('short')
      expect(await store.get('b')).to.deep.equal({ user: 'ann' })
      if (store instanceof PgStore) await store.close()
    })
})
