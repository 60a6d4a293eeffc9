import { expect } from 'chai'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** Like MongoDB's: an object that becomes a string in JSON. */
class ObjectId {
  readonly #hex: string
  constructor(hex: string) {
    this.#hex = hex
  }
  toJSON(): string {
    return this.#hex
  }
}

describe('the user id of a session', () => {
  let url: string
  before(async () => {
    url = await freshDatabase()
  })

  /** Saves a session and returns the user id in its row. */
  async function saved(session: object, options: PgStoreOptions = {}): Promise<unknown> {
    await using store = new PgStore(url, { ...options, cache: false })
    await store.setup()
    await sql(url, 'truncate session')
    await store.set('a', session)
    const [row] = await sql(url, 'select user_id from session')
    return row?.user_id
  }

  const id = new ObjectId('507f1f77bcf86cd799439011')
  const defaults: [string, object, string | null][] = [
    ['userId', { userId: 'ann' }, 'ann'],
    ['user.id', { user: { id: 'ann', name: 'Ann' } }, 'ann'],
    ['passport.user, as koa-passport sets it', { passport: { user: 'ann' } }, 'ann'],
    ['the first of them', { passport: { user: 'c' }, user: { id: 'b' }, userId: 'a' }, 'a'],
    ['a number', { userId: 7 }, '7'],
    ['zero', { user: { id: 0 } }, '0'],
    ['an ObjectId', { userId: id }, '507f1f77bcf86cd799439011'],
    ['an ObjectId in user.id', { user: { id } }, '507f1f77bcf86cd799439011'],
    ['an ObjectId in passport.user', { passport: { user: id } }, '507f1f77bcf86cd799439011'],
    ['null for an empty session', {}, null],
    ['null if user is a string', { user: 'ann' }, null],
    ['the next one if the first is not usable', { userId: {}, user: { id: 8 } }, '8'],
    ['null for an object', { passport: { user: { id: 1 } } }, null],
    ['null for true', { userId: true }, null],
    ['null for null', { userId: null, user: null, passport: null }, null],
    ['null for an empty string', { userId: '' }, null],
    ['null for the number NaN', { userId: Number.NaN }, null],
    ['the string NaN', { userId: 'NaN' }, 'NaN'],
    ['null for a list', { userId: ['ann'] }, null],
    [
      'null for characters that PostgreSQL can’t store',
      { userId: 'a\0b', user: { id: 'half \ud800' } },
      null,
    ],
    ['null for a text that is too long for the index', { userId: 'x'.repeat(513) }, null],
    ['a text of 512 characters', { userId: 'ä'.repeat(512) }, 'ä'.repeat(512)],
  ]
  for (const [what, session, expected] of defaults)
    it(`is ${what}`, async () => {
      expect(await saved(session)).to.equal(expected)
    })

  it('is what the option userId returns, instead of the defaults', async () => {
    const userId = (session: Record<string, unknown>) => session.owner as string
    expect(await saved({ owner: 'ann', userId: 'bob' }, { userId })).to.equal('ann')
    expect(await saved({ userId: 'bob' }, { userId })).to.equal(null)
    for (const none of [undefined, null, '']) expect(await saved({}, { userId: () => none })).to.equal(null)
    expect(await saved({}, { userId: () => 42 })).to.equal('42')
  })

  const results: [string, unknown, RegExp][] = [
    ['an object', { id: 1 }, /must be a string or a finite number; received an object/],
    ['a promise', Promise.resolve('ann'), /must be a string or a finite number; received an object/],
    ['true', true, /received true/],
    ['false', false, /received false/],
    ['NaN', Number.NaN, /received NaN/],
    ['infinity', Number.POSITIVE_INFINITY, /received Infinity/],
    ['a BigInt', 7n, /received a bigint$/],
    ['a NUL', 'a\0', /1 to 512 characters that PostgreSQL can store; received a string of 2 characters$/],
    [
      '513 characters',
      'x'.repeat(513),
      /1 to 512 characters that PostgreSQL can store; received a string of 513 characters$/,
    ],
  ]
  for (const [what, result, message] of results)
    it(`can't be ${what}: if the option userId returns that, the save rejects and nothing is written`, async () => {
      await using store = new PgStore(url, { userId: () => result as string, table: 'wrong' })
      await store.setup()
      const error = await rejection(store.set('a', { a: 1 }))
      expect(error.message).to.match(/^the result of the option "userId" must/)
      expect(error.message).to.match(message)
      expect(error).to.be.instanceOf(typeof result === 'string' ? RangeError : TypeError)
      expect(await sql(url, 'select from wrong')).to.deep.equal([])
    })

  it('is never guessed if the option userId throws: the save rejects with that error, and nothing is written', async () => {
    await using plain = new PgStore(url, { table: 'thrown' })
    const failure = new Error('no user here')
    const userId = (session: Record<string, unknown>): string => {
      if (session.bad) throw failure
      return 'ann'
    }
    await using store = new PgStore(url, { userId, table: 'thrown' })
    await plain.set('a', { n: 1 })
    expect(await rejection(store.set('a', { bad: true }))).to.equal(failure)
    expect(await rejection(store.create({ bad: true }))).to.equal(failure)
    expect(await plain.get('a', { fresh: true })).to.deep.equal({ n: 1 })
    expect(await store.count()).to.equal(1)
  })

  it('follows the session: sign in, sign out, sign in as another user', async () => {
    await using store = new PgStore(url, { table: 'moves' })
    const owner = async (): Promise<unknown> => (await sql(url, 'select user_id from moves'))[0]?.user_id
    const change = async (changes: object): Promise<void> => {
      const session = (await store.get('a')) ?? {}
      await store.set('a', Object.assign(session, changes))
    }
    await change({ cart: [1] })
    expect(await owner()).to.equal(null)
    await change({ user: { id: 1 } })
    expect(await owner()).to.equal('1')
    expect(await store.sessionsOf(1)).to.have.length(1)
    await change({ user: undefined })
    expect(await owner()).to.equal(null)
    expect(await store.sessionsOf(1)).to.deep.equal([])
    await change({ user: { id: 2 } })
    await change({ user: { id: 3 } })
    expect(await owner()).to.equal('3')
    expect(await store.sessionsOf('2')).to.deep.equal([])
    // Replaced by another object.
    await store.set('a', { userId: 'four' })
    expect(await owner()).to.equal('four')
    // Many at once, in one statement.
    await Promise.all(['a', 'b', 'c', 'd'].map((sid, n) => store.set(sid, n % 2 ? { userId: sid } : { n })))
    expect(await sql(url, 'select user_id from moves order by user_id')).to.deep.equal([
      { user_id: 'b' },
      { user_id: 'd' },
      { user_id: null },
      { user_id: null },
    ])
    await store.destroy('b')
    expect(await store.sessionsOf('b')).to.deep.equal([])
  })

  it('must be a string or a number in all methods that take one', async () => {
    await using store = new PgStore(url)
    for (const method of ['sessionsOf', 'destroySessionsOf', 'deleteAttribute'] as const)
      for (const wrong of [undefined, null, {}, true, Number.NaN, ''] as unknown[] as string[]) {
        const error = await rejection(store[method](wrong, 'name' as never))
        expect(error, `${method}(${wrong})`).to.be.instanceOf(wrong === '' ? RangeError : TypeError)
        expect(error.message).to.match(/^userId must/)
      }
    for (const wrong of [undefined, null, 7] as unknown[] as string[]) {
      expect((await rejection(store.deleteAttribute('ann', wrong))).message).to.match(
        /^name must be a string/,
      )
      expect((await rejection(store.revoke(wrong))).message).to.match(/^handle must be a string/)
    }
    const except = 7 as unknown as string
    expect((await rejection(store.destroySessionsOf('ann', { except }))).message).to.match(
      /^except must be a session id or a Koa context/,
    )
  })
})
