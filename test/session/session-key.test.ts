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

/** Returns a session as the next request loads it. */
function nextRequest(session: object): Session {
  return JSON.parse(JSON.stringify(session)) as Session
}

/** Returns the error that a call throws. */
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
      expect(user.update(next, (current) => ({ ...current, id: 1, name: 'ann' }))).to.deep.equal({
        id: 1,
        name: 'ann',
      })
      expect(user.get(nextRequest(next))).to.deep.equal({ id: 1, name: 'ann' })
      user.delete(next)
      expect(next).to.deep.equal({ cart: [7] })
    })

    if (kind !== 'no schema')
      it(`checks the value when it is set and read, and quotes none of it (${kind})`, () => {
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
            /^session attribute "user": the (new|stored) value doesn't match its schema$/,
          )
          expect(inspect(error, { showHidden: true, depth: 9 })).not.to.include('Xyzzy')
        }
        expect(session).to.deep.equal({ user: { id: 1 } })
      })
  }

  it('refuses a name that the middleware’s session has an accessor or method of', () => {
    class Session {
      get length(): number {
        return 0
      }
      set maxAge(_: number) {
        throw new Error('not reached')
      }
      save(): void {}
    }
    const session = new Session()
    for (const name of ['length', 'maxAge', 'save']) {
      const key = sessionKey<number>(name)
      expect(() => key.set(session, 1)).to.throw(
        AttributeError,
        'the session has an accessor or method of this name',
      )
      expect(key.get(session)).to.equal(undefined)
    }
    expect(Object.keys(session)).to.deep.equal([])
    const plain = {}
    sessionKey<number>('length').set(plain, 1)
    expect(plain).to.deep.equal({ length: 1 })
  })

  it('returns its default if there is no value, a new object at each call', () => {
    const cart = sessionKey('cart', z.array(z.number()), { default: [] })
    const session = {}
    cart.get(session).push(1)
    expect(cart.get(session)).to.deep.equal([])
    expect(session).to.deep.equal({})
    cart.update(session, (list) => [...list, 2])
    expect(cart.get(session)).to.deep.equal([2])
    expect(() => sessionKey('cart', z.array(z.number()), { default: ['a'] as unknown as number[] })).to.throw(
      AttributeError,
      'session attribute "cart": the default doesn\'t match its schema',
    )
  })

  it('copies values that it is given and returns', () => {
    const cart = sessionKey<number[]>('cart')
    const session = {}
    const list = [1]
    cart.set(session, list)
    list.push(2)
    cart.get(session)?.push(3)
    expect(cart.get(session)).to.deep.equal([1])
  })

  it('returns what the schema makes of the value, and saves the value', () => {
    const since = sessionKey(
      'since',
      z.iso.datetime().transform((text) => new Date(text)),
    )
    const session = {}
    since.set(session, '2026-01-01T00:00:00Z')
    expect(session).to.deep.equal({ since: '2026-01-01T00:00:00Z' })
    expect(since.get(nextRequest(session))).to.deep.equal(new Date('2026-01-01T00:00:00Z'))
  })

  it('refuses a value that JSON can’t hold or would change', () => {
    expect(thrown(() => sessionKey('since', z.date()).set({}, new Date())).message).to.match(
      /doesn't match its schema$/,
    )
    for (const value of [undefined, 10n, () => 1, Symbol('s')])
      expect(thrown(() => sessionKey('any').set({}, value)).message).to.equal(
        'session attribute "any": the new value can\'t be stored as JSON',
      )
  })

  it('refuses a schema that validates asynchronously', async () => {
    const unhandled: unknown[] = []
    const record = (error: unknown) => unhandled.push(error)
    process.on('unhandledRejection', record)
    const failing = { version: 1, vendor: 'test', validate: () => Promise.reject(new Error('late')) } as const
    const schemas = [z.string().refine(async () => true), { '~standard': failing }]
    for (const schema of schemas) {
      const slow = sessionKey('slow', schema as (typeof schemas)[0])
      for (const call of [() => slow.set({}, 'a'), () => slow.get({ slow: 'a' })])
        expect(thrown(call).message).to.equal(
          'session attribute "slow": its schema validates asynchronously, which session keys don\'t support',
        )
    }
    // Its later rejection is handled.
    await new Promise(setImmediate)
    process.off('unhandledRejection', record)
    expect(unhandled).to.deep.equal([])
  })

  it('accepts a session that is null or undefined where it only reads, and refuses a promise', () => {
    const visits = sessionKey('visits', z.number(), { default: 0 })
    for (const missing of [null, undefined]) {
      expect(visits.get(missing)).to.equal(0)
      visits.delete(missing)
      expect(thrown(() => visits.set(missing, 1)).message).to.equal(
        'session attribute "visits": there is no session to set it in',
      )
    }
    for (const call of [() => visits.get(Promise.resolve({})), () => visits.set(Promise.resolve({}), 1)])
      expect(thrown(call).message).to.match(/await it first/)
  })

  it('ignores properties that every object inherits', () => {
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
    it(`refuses ${JSON.stringify(args)}, naming the argument`, () => {
      expect(() => sessionKey(...(args as unknown as Parameters<typeof sessionKey>))).to.throw(message)
    })
})

describe('an attribute with a ttl', () => {
  let time = Date.now()
  const now = () => time
  const stepUp = sessionKey('stepUp', z.boolean(), { default: false, ttl: 5 * minute, now })

  it('expires its ttl after it was last set', () => {
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

  it('can’t be mistaken for its value by code that does not use the key', () => {
    const session: Session = {}
    stepUp.set(session, true)
    expect(session.stepUp).to.deep.equal({ '~value': true, '~expires': time + 5 * minute })
    expect(session.stepUp).not.to.equal(true)
    // A key without the ttl recognizes its form.
    expect(sessionKey('stepUp', z.boolean(), { now }).get(session)).to.equal(true)
  })

  it('can be read if it was saved before it had a ttl', () => {
    expect(stepUp.get({ stepUp: true })).to.equal(true)
  })

  for (const [name, make] of [
    ['MemoryStore', () => new MemoryStore()],
    ['PgStore', async () => new PgStore(await freshDatabase())],
    ['PgStore without a cache', async () => new PgStore(await freshDatabase(), { cache: false })],
    ['CachedStore', () => new CachedStore(new MemoryStore(), new MemoryStore())],
  ] as const)
    it(`is neither returned nor saved by a ${name} once it has expired`, async () => {
      const store = await make()
      // Sets up the table first: on a busy machine that could take longer than the ttl.
      await store.set('first', {}, minute)
      const short = sessionKey('short', z.boolean(), { ttl: 1_500 })
      const session: Session = { user: 'ann' }
      short.set(session, true)
      await store.set('a', session, minute)
      const found = (await store.get('a')) as Session
      expect(found).to.have.property('short')
      // Nothing but the clock removes it: the session is unchanged in the store and its cache.
      const { '~expires': expiresAt } = found.short as { '~expires': number }
      while (Date.now() <= expiresAt) await new Promise((resolve) => setTimeout(resolve, 5))
      expect(short.get(found)).to.equal(undefined)
      expect(await store.get('a')).to.deep.equal({ user: 'ann' })
      // A session object that still has it is saved without it, and isn't modified by that.
      await store.set('b', found, minute)
      expect(found).to.have.property('short')
      expect(await store.get('b')).to.deep.equal({ user: 'ann' })
      if (store instanceof PgStore) await store.close()
    })
})
