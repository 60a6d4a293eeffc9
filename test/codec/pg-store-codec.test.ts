import { randomBytes } from 'node:crypto'
import { expect } from 'chai'
import { compressed, type DecodeError, encrypted, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const old = { id: '2024', key: randomBytes(32) }
const current = { id: '2026', key: randomBytes(32) }

describe('a store with a codec', () => {
  let url: string
  beforeEach(async () => {
    url = await freshDatabase()
  })

  async function withStore<T>(options: PgStoreOptions, use: (store: PgStore) => Promise<T>): Promise<T> {
    const store = new PgStore(url, options)
    try {
      return await use(store)
    } finally {
      await store.close()
    }
  }

  const column = async (): Promise<string> =>
    (await sql<{ session: string }>(url, 'select session::text from session'))[0]?.session ?? ''

  for (const cache of [undefined, false] as const)
    it(`leaves only the user id and the times readable (cache: ${cache})`, () =>
      withStore({ codec: encrypted({ keys: [current] }), cache }, async (store) => {
        await store.set('x', { userId: 'ann', card: '4111-1111' })
        const [row] = await sql(url, 'select session::text, user_id from session')
        expect(row?.session).not.to.match(/ann|card|4111/)
        expect(row?.user_id).to.equal('ann')
        const session = (await store.get('x')) as Record<string, unknown>
        expect(session).to.deep.equal({ userId: 'ann', card: '4111-1111' })
        // The sessions are merged, not the columns.
        await store.set('x', { ...((await store.get('x')) as object), other: 1 })
        await store.set('x', Object.assign(session, { mine: 2 }))
        const list = await store.sessionsOf('ann')
        expect(list.map((info) => info.session)).to.deep.equal([
          { userId: 'ann', card: '4111-1111', other: 1, mine: 2 },
        ])
        for await (const { session } of store.sessions()) expect(session).to.have.property('mine', 2)
        expect(await store.deleteAttribute('ann', 'card')).to.equal(1)
        expect(await store.get('x', { fresh: true })).to.deep.equal({ userId: 'ann', other: 1, mine: 2 })
      }))

  it('decrypts with an older key, and encrypts with the first', async () => {
    await withStore({ codec: encrypted({ keys: [old] }) }, (store) => store.set('x', { n: 1 }))
    expect(await column()).to.include('2024')
    await withStore({ codec: encrypted({ keys: [current, old] }) }, async (store) => {
      const session = (await store.get('x')) as { n: number }
      expect(session).to.deep.equal({ n: 1 })
      session.n = 2
      await store.set('x', session)
    })
    expect(await column()).to.include('2026')
  })

  it('rejects a session that was changed, was copied or lacks its key, and loses nothing', async () => {
    const codec = encrypted({ keys: [current] })
    const before = await withStore({ codec }, async (store) => {
      await store.set('x', { n: 1 })
      const before = await column()
      await store.set('y', { n: 2 })
      return before
    })
    const refusal = (options: PgStoreOptions, sid: string): Promise<Error> =>
      withStore({ cache: false, ...options }, async (store) => {
        const [error, neighbour] = await Promise.allSettled([store.get(sid), store.get('other')])
        // A read in the same statement succeeds.
        expect(neighbour.status).to.equal('fulfilled')
        return error.status === 'rejected' ? (error.reason as Error) : new Error('it was not rejected')
      })
    const missing = (await refusal({ codec: encrypted({ keys: [old] }) }, 'x')) as DecodeError
    expect(missing).to.include({ name: 'DecodeError', key: '2026' })
    expect(missing.message).to.match(/2026/)
    // Copied to another row.
    const [x, y] = await sql<{ id: string; session: string }>(
      url,
      'select id, session::text from session order by session::text = $1 desc',
      [before],
    )
    await sql(url, 'update session set session = $1 where id = $2', [x?.session, y?.id])
    expect(await refusal({ codec }, 'y')).to.include({ name: 'DecodeError' })
    await sql(url, 'update session set session = $1 where id = $2', [y?.session, y?.id])
    expect(await withStore({ codec }, (store) => store.get('y'))).to.deep.equal({ n: 2 })
    // One character changed.
    const flipped = before.replace(/("data":"...)(.)/, (_, head, c) => `${head}${c === 'A' ? 'B' : 'A'}`)
    await sql(url, 'update session set session = $1 where id = $2', [flipped, x?.id])
    expect(await refusal({ codec }, 'x')).to.include({ name: 'DecodeError' })
    await sql(url, 'update session set session = $1 where id = $2', [before, x?.id])
    expect(await withStore({ codec }, (store) => store.get('x'))).to.deep.equal({ n: 1 })
  })

  it('decrypts a session whose raw id was replaced by its digest', async () => {
    const codec = encrypted({ keys: [current] })
    await withStore({ codec, hashIds: false }, (store) => store.set('x', { n: 1 }))
    await withStore({ codec }, async (store) => expect(await store.get('x')).to.deep.equal({ n: 1 }))
  })

  it('passes sessions of an older key to onExpired and the event; keeps those that it can’t decode, with one warning', async () => {
    const lost = { id: '2022', key: randomBytes(32) }
    for (const [key, count] of [
      [lost, 120],
      [old, 2],
    ] as const)
      await withStore({ codec: encrypted({ keys: [key] }) }, async (store) => {
        for (let n = 0; n < count; n++) await store.set(`${key.id}-${n}`, { key: key.id })
      })
    await sql(url, `update session set expiry = now() - interval '1 second'`)
    const seen: unknown[] = []
    const emitted: unknown[] = []
    const warnings: Error[] = []
    const sweep = (keys: { id: string; key: Buffer }[]) =>
      withStore(
        {
          codec: encrypted({ keys }),
          cleanup: { cron: false, onExpired: ({ session }) => seen.push(session.key) },
        },
        async (store) => {
          store.on('warning', (error) => warnings.push(error))
          store.on('expire', ({ session }) => emitted.push(session.key))
          return (await store.sweep()).deleted
        },
      )
    expect(await sweep([current, old])).to.equal(2)
    expect(seen).to.deep.equal(['2024', '2024'])
    expect(emitted).to.deep.equal(seen)
    expect(warnings.map(({ message }) => message)).to.deep.equal([
      '120 expired sessions can\'t be decoded for onExpired, kept for the next sweep: the session can\'t be decrypted: it needs the key "2022"; configured keys: "2026", "2024"',
    ])
    expect(await sweep([current, lost])).to.equal(120)
    expect(seen).to.have.length(122)
    expect(warnings).to.have.length(1)
  })

  it('takes several, and one that returns promises', () =>
    withStore(
      {
        codec: [
          compressed({ over: 10 }),
          encrypted({ keys: [current] }),
          {
            encode: async (value) => ({ wrapped: value }),
            decode: async (value) => Reflect.get(value, 'wrapped') as object,
          },
        ],
      },
      async (store) => {
        await store.set('x', { text: 'x'.repeat(10_000) })
        expect((await column()).length).to.be.below(1_000)
        expect(await store.get('x', { fresh: true })).to.deep.equal({ text: 'x'.repeat(10_000) })
      },
    ))

  it('rejects only the save that can’t be encoded', () =>
    withStore(
      {
        codec: {
          encode: (value) => {
            if (Reflect.get(value, 'bad')) throw new Error('no')
            return value
          },
          decode: (value) => value,
        },
      },
      async (store) => {
        await store.setup()
        const saves = await Promise.allSettled([
          store.set('a', { n: 1 }),
          store.set('b', { bad: true }),
          store.set('c', { n: 3 }),
        ])
        expect(saves.map(({ status }) => status)).to.deep.equal(['fulfilled', 'rejected', 'fulfilled'])
        expect(await store.get('c')).to.deep.equal({ n: 3 })
      },
    ))

  for (const codec of [
    encrypted({ keys: [current] }),
    compressed({ over: 1 }),
    { name: 'own', encode: () => ({ n: 2 }), decode: () => ({ n: 1 }) },
  ])
    it(`is needed to read or replace what it has encoded: ${codec.name}`, async () => {
      const padding = 'x'.repeat(1_000)
      await withStore({ codec }, (store) => store.set('x', { n: 1, padding }))
      const before = await column()
      for (const concurrency of ['merge', 'last-write'] as const)
        await withStore({ concurrency }, async (store) => {
          const outcomes = await Promise.allSettled([
            store.get('x'),
            store.set('x', { n: 3 }),
            store.set('y', { n: 4 }),
            store.sessionsOf('nobody'),
          ])
          expect(outcomes.map(({ status }) => status)).to.deep.equal([
            'rejected',
            'rejected',
            'fulfilled',
            'fulfilled',
          ])
          for (const outcome of outcomes.slice(0, 2))
            expect(Reflect.get(outcome, 'reason')).to.have.property('name', 'DecodeError')
          await store.destroy('y')
          await sql(url, `delete from session where session is null`)
        })
      expect(await column()).to.equal(before)
    })

  it('warns at its start of stored sessions that it can’t decode, before a request meets one', async () => {
    const url = await freshDatabase()
    const key = randomBytes(32)
    const codec = encrypted({ keys: [{ id: '2026', key }] })
    await using store = new PgStore(url, { codec })
    for (let n = 0; n < 5; n++) await store.set(`s${n}`, { n })
    const expected: [PgStoreOptions, RegExp][] = [
      [
        {},
        /^5 of 5 stored sessions .* it is encrypted, and the option "codec" doesn't have that codec. Codecs and keys/,
      ],
      [
        { codec: encrypted({ keys: [{ id: '2027', key }] }) },
        /needs the key "2026"; configured keys: "2027"/,
      ],
    ]
    for (const [options, message] of expected) {
      await using late = new PgStore(url, options)
      const warnings: string[] = []
      late.on('warning', (warning) => warnings.push(warning.message))
      await late.setup()
      await until(() => warnings.length > 0)
      expect(warnings[0]).to.match(message)
      expect(await late.create({ n: 1 })).to.be.a('string')
    }
    await using plain = new PgStore(await freshDatabase())
    await plain.set('s', { text: '"~aes256gcm"' })
    expect(await plain.get('s')).to.deep.equal({ text: '"~aes256gcm"' })
  })

  it('refuses a codec that lacks a method', () => {
    for (const codec of [{}, null, [compressed({}), 1]])
      expect(() => new PgStore('postgres://x', { codec: codec as never })).to.throw(
        TypeError,
        /option "codec/,
      )
  })
})
