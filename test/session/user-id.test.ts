import { expect } from 'chai'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** As MongoDB's: an object that is text in JSON. */
class ObjectId {
  readonly #hex: string
  constructor(hex: string) {
    this.#hex = hex
  }
  toJSON(): string {
    return this.#hex
  }
}

describe('whose a session is', () => {
  let url: string
  before(async () => {
    url = await freshDatabase()
  })

  /** What the table says of a session that is saved. */
  async function saved(session: object, options: PgStoreOptions = {}): Promise<unknown> {
    await using store = new PgStore(url, { ...options, cache: false })
    await store.setup()
    await sql(url, 'truncate session')
    await store.set('a', session)
    const [row] = await sql(url, 'select user_id from session')
    return row?.user_id
  }

  const id = new ObjectId('507f1f77bcf86cd799439011')
  const guesses: [string, object, string | null][] = [
    ['userId', { userId: 'ann' }, 'ann'],
    ['user.id', { user: { id: 'ann', name: 'Ann' } }, 'ann'],
    ['passport.user, as koa-passport keeps it', { passport: { user: 'ann' } }, 'ann'],
    ['the first of them', { passport: { user: 'c' }, user: { id: 'b' }, userId: 'a' }, 'a'],
    ['a number', { userId: 7 }, '7'],
    ['nought', { user: { id: 0 } }, '0'],
    ['an ObjectId', { userId: id }, '507f1f77bcf86cd799439011'],
    ['an ObjectId in user.id', { user: { id } }, '507f1f77bcf86cd799439011'],
    ['an ObjectId in passport.user', { passport: { user: id } }, '507f1f77bcf86cd799439011'],
    ['nobody of an empty session', {}, null],
    ['nobody where user is a name', { user: 'ann' }, null],
    ['the next where the first can’t be one', { userId: {}, user: { id: 8 } }, '8'],
    ['nobody of an object', { passport: { user: { id: 1 } } }, null],
    ['nobody of true', { userId: true }, null],
    ['nobody of null', { userId: null, user: null, passport: null }, null],
    ['nobody of an empty string', { userId: '' }, null],
    ['nobody of NaN', { userId: Number.NaN }, null],
    ['somebody whose name is NaN', { userId: 'NaN' }, 'NaN'],
    ['nobody of a list', { userId: ['ann'] }, null],
    ['nobody of what PostgreSQL can’t hold', { userId: 'a\0b', user: { id: 'half \ud800' } }, null],
    ['nobody of a text that no index can hold', { userId: 'x'.repeat(513) }, null],
    ['somebody of 512 characters', { userId: 'ä'.repeat(512) }, 'ä'.repeat(512)],
  ]
  for (const [what, session, right] of guesses)
    it(`is ${what}`, async () => {
      expect(await saved(session)).to.equal(right)
    })

  it('is what the option userId answers, in place of all guesses', async () => {
    const userId = (session: Record<string, unknown>) => session.owner as string
    expect(await saved({ owner: 'ann', userId: 'bob' }, { userId })).to.equal('ann')
    expect(await saved({ userId: 'bob' }, { userId })).to.equal(null)
    for (const nobody of [undefined, null, ''])
      expect(await saved({}, { userId: () => nobody })).to.equal(null)
    expect(await saved({}, { userId: () => 42 })).to.equal('42')
  })

  const answers: [string, unknown, RegExp][] = [
    ['an object', { id: 1 }, /must be a string or a finite number; received an object/],
    ['a promise', Promise.resolve('ann'), /must be a string or a finite number; received an object/],
    ['true', true, /received true/],
    ['false', false, /received false/],
    ['NaN', Number.NaN, /received NaN/],
    ['infinity', Number.POSITIVE_INFINITY, /received Infinity/],
    ['a BigInt', 7n, /received 7/],
    ['a NUL', 'a\0', /1 to 512 characters that PostgreSQL can hold; received "a\\u0000"/],
    ['513 characters', 'x'.repeat(513), /1 to 512 characters that PostgreSQL can hold; received "xxx/],
  ]
  for (const [what, answer, why] of answers)
    it(`can't be ${what}: a save whose option userId answers that is rejected, and nothing written`, async () => {
      await using store = new PgStore(url, { userId: () => answer as string, table: 'wrong' })
      await store.setup()
      const error = await rejection(store.set('a', { a: 1 }))
      expect(error.message).to.match(/^what the option "userId" answers must/)
      expect(error.message).to.match(why)
      expect(error).to.be.instanceOf(typeof answer === 'string' ? RangeError : TypeError)
      expect(await sql(url, 'select from wrong')).to.deep.equal([])
    })

  it('is not known where the option userId throws: the save rejects with that error, and nothing is written', async () => {
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

  it('follows the session: sign in, sign out, sign in as another', async () => {
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
    // Another object in its place.
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

  it('is a string or a number wherever a user is asked for', async () => {
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
      /^except must be a string/,
    )
  })
})
