import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { deflateSync } from 'node:zlib'
import { expect } from 'chai'
import fc from 'fast-check'
import { chain, fromColumn, readCodec, toColumn } from '../../lib/codec/codec.js'
import { type Codec, compressed, DecodeError, encrypted } from '../../lib/index.js'
import { rejection } from '../helpers/rejection.js'

const context = { id: 'sha256:the-digest-of-a-session-id' }
const other = { id: 'sha256:the-digest-of-another' }
const session = { user: 'ann', content: 'Xyzzy-inside-the-session' }

const newKey = (id: string) => ({ id, key: randomBytes(32) })

async function write(codec: Codec, value: object, where = context): Promise<string> {
  return toColumn(codec, JSON.stringify(value), where)
}

async function read(codec: Codec, column: string, where = context): Promise<unknown> {
  return JSON.parse(await fromColumn(codec, column, where))
}

/** The error of a read: a DecodeError, which has nothing of a session or a key in it. */
async function refusal(codec: Codec, column: string, where = context): Promise<DecodeError> {
  const error = await rejection(read(codec, column, where))
  expect(error).to.be.instanceOf(DecodeError)
  expect(inspect(error, { showHidden: true, depth: 9 })).not.to.match(/Xyzzy|the-digest/)
  return error as DecodeError
}

describe('encrypted', () => {
  const [first, second, third] = [newKey('2024'), newKey('2025'), newKey('2026')]

  it('keeps a session as JSON that says only which key opens it, each time anew', async () => {
    const codec = encrypted({ keys: [first] })
    const columns = [await write(codec, session), await write(codec, session)]
    for (const column of columns) {
      expect(column).not.to.match(/ann|user|Xyzzy|content/)
      const { data, ...rest } = JSON.parse(column) as { data: string }
      expect(rest).to.deep.equal({ '~aes256gcm': '2024' })
      expect(Buffer.from(data, 'base64url').toString('latin1')).not.to.match(/ann|Xyzzy/)
      expect(await read(codec, column)).to.deep.equal(session)
    }
    const nonces = columns.map((column) => (JSON.parse(column) as { data: string }).data.slice(0, 16))
    expect(new Set(nonces).size).to.equal(2)
  })

  it('gives any JSON object back', async () => {
    const codec = encrypted({ keys: [first] })
    const value = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ stringUnit: 'binary' }), {
      noNullPrototype: true,
    })
    await fc.assert(
      fc.asyncProperty(value, async (data) => {
        const json = JSON.stringify(data)
        expect(await fromColumn(codec, await write(codec, data), context)).to.equal(
          JSON.stringify(JSON.parse(json)),
        )
      }),
      { numRuns: 200 },
    )
  })

  it('reads what an old key wrote, while the new one writes', async () => {
    const old = await write(encrypted({ keys: [first] }), session)
    const rotated = encrypted({ keys: [second, first] })
    expect(await read(rotated, old)).to.deep.equal(session)
    expect(JSON.parse(await write(rotated, session))['~aes256gcm']).to.equal('2025')
    expect(await read(encrypted({ keys: [second] }), await write(rotated, session))).to.deep.equal(session)
  })

  it('names the key that is missing, and those that are there', async () => {
    const column = await write(encrypted({ keys: [first] }), session)
    const error = await refusal(encrypted({ keys: [third, second] }), column)
    expect(error.message).to.equal(
      'the session can’t be decrypted: it wants the key "2024"; there are "2026", "2025"',
    )
    expect(error.key).to.equal('2024')
    // Nothing is lost: with the key it opens.
    expect(await read(encrypted({ keys: [third, first] }), column)).to.deep.equal(session)
  })

  it('opens nothing in which a bit was flipped, wherever it was', async () => {
    const codec = encrypted({ keys: [first] })
    const column = await write(codec, session)
    const bytes = Buffer.from(column)
    const messages = new Set<string>()
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
      const text = flipped.toString()
      try {
        JSON.parse(text)
      } catch {
        // No column holds it: PostgreSQL refuses what isn't JSON.
        continue
      }
      messages.add((await refusal(codec, text)).message.replace(/"[^"]*"/, '…').replace(/".*"/, '…'))
    }
    expect([...messages].sort()).to.deep.equal([
      'the session can’t be decrypted with the key …: it was changed past the store, is another session’s, or was encrypted with another key of that name',
      'the session can’t be decrypted: it wants the key …; there are …',
      'the session isn’t encrypted, and only such as … opens is read (see allowPlain)',
    ])
    expect(await read(codec, column)).to.deep.equal(session)
  })

  it('opens no value that was pasted into another row, or given another key’s name', async () => {
    const codec = encrypted({ keys: [first, second] })
    const column = await write(codec, session)
    expect((await refusal(codec, column, other)).key).to.equal('2024')
    const same = encrypted({
      keys: [
        { id: '2024', key: first.key },
        { id: '2025', key: first.key },
      ],
    })
    expect((await refusal(same, column.replace('2024', '2025'))).key).to.equal('2025')
    expect((await refusal(encrypted({ keys: [{ id: '2024', key: second.key }] }), column)).message).to.match(
      /another key of that name$/,
    )
  })

  it('opens nothing that is too short, too long or of another form', async () => {
    const codec = encrypted({ keys: [first] })
    const column = JSON.parse(await write(codec, session)) as { data: string }
    for (const data of [
      '',
      'AA',
      column.data.slice(0, 37),
      column.data.slice(0, -1),
      `${column.data}AAAA`,
      `${column.data}=`,
    ])
      await refusal(codec, JSON.stringify({ ...column, data }))
    for (const form of [{ ...column, more: 1 }, { ...column, data: 1 }, { data: column.data }, {}])
      await refusal(codec, JSON.stringify(form))
    for (const form of ['[]', '1', 'null', '""']) await refusal(codec, form)
  })

  it('reads plain sessions only where that is allowed', async () => {
    const column = JSON.stringify(session)
    expect((await refusal(encrypted({ keys: [first] }), column)).message).to.equal(
      'the session isn’t encrypted, and only such as "2024" opens is read (see allowPlain)',
    )
    expect(await read(encrypted({ keys: [first], allowPlain: true }), column)).to.deep.equal(session)
  })

  it('takes a key as 32 bytes, base64, base64url or hexadecimal', async () => {
    const { key } = first
    const column = await write(encrypted({ keys: [first] }), session)
    for (const form of [
      new Uint8Array(key),
      key.toString('base64'),
      key.toString('base64').slice(0, -1),
      key.toString('base64url'),
      key.toString('hex'),
      key.toString('hex').toUpperCase(),
    ])
      expect(await read(encrypted({ keys: [{ id: '2024', key: form }] }), column)).to.deep.equal(session)
  })

  it('keeps a key of its own', async () => {
    const mine = randomBytes(32)
    const codec = encrypted({ keys: [{ id: 'mine', key: mine }] })
    const column = await write(codec, session)
    mine.fill(0)
    expect(await read(codec, column)).to.deep.equal(session)
    expect(await read(codec, await write(codec, session))).to.deep.equal(session)
  })

  const secret = 'a secret of thirty-two characters'
  for (const [what, options, message] of [
    ['none', {}, 'option "keys" must be an array of { id, key }; received undefined'],
    ['no key', { keys: [] }, 'option "keys" must have at least one key; received none'],
    ['no id', { keys: [{ key: first.key }] }, 'option "keys[0].id" must be a string; received undefined'],
    ['an empty id', { keys: [{ id: '', key: first.key }] }, 'must have 1 to 64 characters; received 0'],
    [
      'an id twice',
      { keys: [first, { ...second, id: '2024' }] },
      'option "keys[1].id" must be no other key\'s',
    ],
    [
      'a short key',
      { keys: [{ id: 'a', key: randomBytes(16) }] },
      'option "keys[0].key" must be 32 bytes, or those as base64 or hexadecimal; received 16 bytes',
    ],
    [
      'a password',
      { keys: [{ id: 'a', key: secret }] },
      'received a string of 33 characters that is neither',
    ],
    ['a number', { keys: [{ id: 'a', key: 5 }] }, 'or those as base64 or hexadecimal; received number'],
    ['an option', { keys: [first], key: 'a' }, 'option "key" is unknown; known options: keys, allowPlain'],
  ] as const)
    it(`refuses ${what} by name, and quotes no key`, () => {
      const make = () => encrypted(options as unknown as Parameters<typeof encrypted>[0])
      expect(make).to.throw(message).with.property('message').which.does.not.include(secret)
    })

  it('shows no key when it is printed', () => {
    const text = inspect(encrypted({ keys: [first] }), { showHidden: true, depth: 9 })
    expect(text).not.to.include(first.key.toString('hex').slice(0, 8))
  })
})

describe('compressed', () => {
  const large = { user: 'ann', text: 'Xyzzy '.repeat(1_000) }

  it('makes a large session small, and leaves small ones and what does not get smaller as they are', async () => {
    const codec = compressed()
    const column = await write(codec, large)
    expect(Object.keys(JSON.parse(column) as object)).to.deep.equal(['~deflate'])
    expect(column.length).to.be.below(200)
    expect(await read(codec, column)).to.deep.equal(large)
    for (const plain of [session, { noise: randomBytes(2_000).toString('base64') }]) {
      expect(await write(codec, plain)).to.equal(JSON.stringify(plain))
      expect(await read(codec, JSON.stringify(plain))).to.deep.equal(plain)
    }
  })

  it('counts bytes of UTF-8: over is the largest that is left as it is', async () => {
    const text = JSON.stringify({ text: 'é'.repeat(500) })
    const bytes = Buffer.byteLength(text)
    expect(await toColumn(compressed({ over: bytes }), text, context)).to.equal(text)
    expect(await toColumn(compressed({ over: bytes - 1 }), text, context)).not.to.equal(text)
  })

  it('gives a session back that looks like its own work', async () => {
    const codec = compressed()
    const column = await write(codec, large)
    const lookalike = JSON.parse(column) as object
    expect(await read(codec, await write(codec, lookalike))).to.deep.equal(lookalike)
  })

  it('makes nothing larger than max: what is, it leaves as it is, and refuses to decompress', async () => {
    const codec = compressed({ max: 5_000 })
    expect(await read(codec, await write(codec, large))).to.deep.equal(large)
    expect(await write(codec, large)).to.equal(JSON.stringify(large))
    const bomb = deflateSync(`{"a":"${'x'.repeat(50_000_000)}"}`).toString('base64')
    expect((await refusal(codec, JSON.stringify({ '~deflate': bomb }))).message).to.equal(
      'the session can’t be decompressed: it has more than 5000 bytes',
    )
    expect((await refusal(compressed(), JSON.stringify({ '~deflate': bomb }))).message).to.match(
      /16777216 bytes$/,
    )
  })

  it('takes nothing that was changed for a session', async () => {
    const codec = compressed()
    const { '~deflate': deflated } = JSON.parse(await write(codec, large)) as { '~deflate': string }
    for (const changed of [
      '',
      'AAAA',
      deflated.slice(0, 40),
      `${deflated.slice(0, 30)}AAAA${deflated.slice(34)}`,
    ])
      expect((await refusal(codec, JSON.stringify({ '~deflate': changed }))).message).to.equal(
        'the session can’t be decompressed: it was changed past the store',
      )
  })

  it('refuses options by name', () => {
    expect(() => compressed({ over: -1 })).to.throw(
      RangeError,
      'option "over" must be a whole number of bytes, 0',
    )
    expect(() => compressed({ max: 0 })).to.throw(RangeError, 'option "max"')
    expect(() => compressed({ level: 9 } as object)).to.throw(TypeError, 'option "level" is unknown')
  })
})

describe('the option codec', () => {
  const keys = [newKey('a')]
  const large = { text: 'Xyzzy '.repeat(1_000) }

  it('is one codec or several, from the session to the column', async () => {
    const codec = readCodec([compressed(), encrypted({ keys })])
    const column = await write(codec, large)
    expect(Object.keys(JSON.parse(column) as object)).to.deep.equal(['~aes256gcm', 'data'])
    expect(column.length).to.be.below(250)
    expect(await read(codec, column)).to.deep.equal(large)
    await refusal(codec, column, other)
    const one = encrypted({ keys })
    expect(readCodec(one)).to.equal(one)
  })

  it('takes codecs that answer promises, and waits for no other', async () => {
    const wrapped: Codec = {
      encode: async (value) => ({ wrapped: value }),
      decode: async (value) => (value as { wrapped: object }).wrapped,
    }
    const codec = chain([wrapped, compressed(), wrapped, encrypted({ keys })])
    const column = await toColumn(codec, JSON.stringify(large), context)
    expect(await read(codec, column)).to.deep.equal(large)
    expect(chain([compressed()]).encode({}, context)).to.deep.equal({})
    expect(fromColumn(chain([compressed()]), '{}', context)).to.equal('{}')
  })

  it('keeps no column that is no JSON object', async () => {
    for (const wrong of [undefined, null, 1, 'a', [1], () => 1]) {
      for (const encode of [() => wrong, async () => wrong]) {
        const codec = { encode, decode: (value: object) => value } as unknown as Codec
        expect((await rejection(write(codec, session))).message).to.equal(
          'the session can’t be encoded: codec.encode must answer an object that JSON can hold',
        )
      }
    }
  })

  it('says nothing of a session in the error of a codec that fails to decode, now or later', async () => {
    const failing = (decode: () => unknown) =>
      ({ encode: (value: object) => value, decode }) as unknown as Codec
    for (const [decode, message] of [
      [() => JSON.parse('Xyzzy'), /codec.decode failed \(SyntaxError\)$/],
      [async () => JSON.parse('Xyzzy'), /codec.decode failed \(SyntaxError\)$/],
      [() => undefined, /codec.decode answered no object$/],
      [async () => 'Xyzzy', /codec.decode answered no object$/],
    ] as const)
      expect((await refusal(failing(decode), '{"a":"Xyzzy"}')).message).to.match(message)
  })

  it('refuses what is no codec by name', () => {
    expect(() => readCodec({ encode: () => ({}) })).to.throw(
      TypeError,
      'option "codec" must have the methods encode and decode; received an object',
    )
    expect(() => readCodec([compressed(), 5])).to.throw(
      TypeError,
      'option "codec[1]" must have the methods encode and decode; received 5',
    )
  })
})
