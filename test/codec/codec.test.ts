import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { deflateSync } from 'node:zlib'
import { expect } from 'chai'
import fc from 'fast-check'
import { chain, fromColumn, readCodec, toColumn } from '../../lib/codec/codec.js'
import { type Codec, compressed, DecodeError, decodeOnly, encrypted } from '../../lib/index.js'
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

/** Returns the error of a read: a DecodeError that quotes nothing of a session or a key. */
async function decodeError(codec: Codec, column: string, where = context): Promise<DecodeError> {
  const error = await rejection(read(codec, column, where))
  expect(error).to.be.instanceOf(DecodeError)
  expect(inspect(error, { showHidden: true, depth: 9 })).not.to.match(/Xyzzy|the-digest/)
  return error as DecodeError
}

describe('encrypted', () => {
  const [first, second, third] = [newKey('2024'), newKey('2025'), newKey('2026')]

  it('stores JSON that shows only the id of its key, with a new nonce at each save', async () => {
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

  it('returns any JSON object as it was', async () => {
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

  it('decrypts with the old key, and encrypts with the new one', async () => {
    const old = await write(encrypted({ keys: [first] }), session)
    const rotated = encrypted({ keys: [second, first] })
    expect(await read(rotated, old)).to.deep.equal(session)
    expect(JSON.parse(await write(rotated, session))['~aes256gcm']).to.equal('2025')
    expect(await read(encrypted({ keys: [second] }), await write(rotated, session))).to.deep.equal(session)
  })

  it('names the key that is missing, and the configured ones', async () => {
    const column = await write(encrypted({ keys: [first] }), session)
    const error = await decodeError(encrypted({ keys: [third, second] }), column)
    expect(error.message).to.equal(
      'the session can\'t be decrypted: it needs the key "2024"; configured keys: "2026", "2025"',
    )
    expect(error.key).to.equal('2024')
    // Nothing is lost: with its key the session can be read.
    expect(await read(encrypted({ keys: [third, first] }), column)).to.deep.equal(session)
  })

  it('refuses a value in which any bit was flipped', async () => {
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
        // Such a value can't be stored: PostgreSQL refuses what isn't JSON.
        continue
      }
      messages.add((await decodeError(codec, text)).message.replace(/"[^"]*"/, '…').replace(/".*"/, '…'))
    }
    expect([...messages].sort()).to.deep.equal([
      "the session can't be decrypted with the key …: it was changed outside the store, is another session's, or was encrypted with another key of that id",
      "the session can't be decrypted: it needs the key …; configured keys: …",
      'the session is not encrypted, and option … is off; configured keys: …',
    ])
    expect(await read(codec, column)).to.deep.equal(session)
  })

  it('refuses a value that was copied to another row, or given another key’s id', async () => {
    const codec = encrypted({ keys: [first, second] })
    const column = await write(codec, session)
    expect((await decodeError(codec, column, other)).key).to.equal('2024')
    const same = encrypted({
      keys: [
        { id: '2024', key: first.key },
        { id: '2025', key: first.key },
      ],
    })
    expect((await decodeError(same, column.replace('2024', '2025'))).key).to.equal('2025')
    expect(
      (await decodeError(encrypted({ keys: [{ id: '2024', key: second.key }] }), column)).message,
    ).to.match(/another key of that id$/)
  })

  it('refuses a value that is too short, too long or of another form', async () => {
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
      await decodeError(codec, JSON.stringify({ ...column, data }))
    for (const form of [{ ...column, more: 1 }, { ...column, data: 1 }, { data: column.data }, {}])
      await decodeError(codec, JSON.stringify(form))
    for (const form of ['[]', '1', 'null', '""']) await decodeError(codec, form)
  })

  it('reads plain sessions only with allowPlain', async () => {
    const column = JSON.stringify(session)
    expect((await decodeError(encrypted({ keys: [first] }), column)).message).to.equal(
      'the session is not encrypted, and option "allowPlain" is off; configured keys: "2024"',
    )
    expect(await read(encrypted({ keys: [first], allowPlain: true }), column)).to.deep.equal(session)
  })

  it('accepts a key as 32 bytes, base64, base64url or hexadecimal', async () => {
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

  it('copies the key, so that the caller may overwrite it', async () => {
    const bytes = randomBytes(32)
    const codec = encrypted({ keys: [{ id: 'mine', key: bytes }] })
    const column = await write(codec, session)
    bytes.fill(0)
    expect(await read(codec, column)).to.deep.equal(session)
    expect(await read(codec, await write(codec, session))).to.deep.equal(session)
  })

  const secret = 'a secret of thirty-two characters'
  for (const [what, options, message] of [
    ['no keys', {}, 'option "keys" must be an array of { id, key }; received undefined'],
    ['an empty list of keys', { keys: [] }, 'option "keys" must have at least one key; received none'],
    [
      'a key without id',
      { keys: [{ key: first.key }] },
      'option "keys[0].id" must be a string; received undefined',
    ],
    ['an empty id', { keys: [{ id: '', key: first.key }] }, 'must have 1 to 64 characters; received 0'],
    [
      'an id twice',
      { keys: [first, { ...second, id: '2024' }] },
      'option "keys[1].id" must be unique; received "2024" (a string)',
    ],
    [
      'a short key',
      { keys: [{ id: 'a', key: randomBytes(16) }] },
      'option "keys[0].key" must be 32 bytes, raw or in base64 or hexadecimal; received 16 bytes',
    ],
    [
      'a password',
      { keys: [{ id: 'a', key: secret }] },
      'received a string of 33 characters that is neither',
    ],
    ['a number', { keys: [{ id: 'a', key: 5 }] }, 'raw or in base64 or hexadecimal; received number'],
    ['an option', { keys: [first], key: 'a' }, 'option "key" is unknown; known options: keys, allowPlain'],
  ] as const)
    it(`refuses ${what}, naming the option and quoting no key`, () => {
      const make = () => encrypted(options as unknown as Parameters<typeof encrypted>[0])
      expect(make).to.throw(message).with.property('message').which.does.not.include(secret)
    })

  it('shows no key when it is inspected', () => {
    const text = inspect(encrypted({ keys: [first] }), { showHidden: true, depth: 9 })
    expect(text).not.to.include(first.key.toString('hex').slice(0, 8))
  })
})

describe('compressed', () => {
  const large = { user: 'ann', text: 'Xyzzy '.repeat(1_000) }

  it('compresses large sessions, and leaves small and incompressible ones as they are', async () => {
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

  it('measures `over` in bytes of UTF-8: a session of that size is not compressed', async () => {
    const text = JSON.stringify({ text: 'é'.repeat(500) })
    const bytes = Buffer.byteLength(text)
    expect(await toColumn(compressed({ over: bytes }), text, context)).to.equal(text)
    expect(await toColumn(compressed({ over: bytes - 1 }), text, context)).not.to.equal(text)
  })

  it('compresses a value that looks like its own output, so that it is returned as it was', async () => {
    const codec = compressed()
    const lookalike = await codec.encode(large, context)
    const encoded = await codec.encode(lookalike, context)
    expect(encoded).not.to.deep.equal(lookalike)
    expect(await codec.decode(encoded, context)).to.deep.equal(lookalike)
  })

  it('neither compresses nor decompresses more than max', async () => {
    const codec = compressed({ max: 5_000 })
    expect(await read(codec, await write(codec, large))).to.deep.equal(large)
    expect(await write(codec, large)).to.equal(JSON.stringify(large))
    const bomb = deflateSync(`{"a":"${'x'.repeat(50_000_000)}"}`).toString('base64')
    expect((await decodeError(codec, JSON.stringify({ '~deflate': bomb }))).message).to.equal(
      "the session can't be decompressed: it is larger than 5000 bytes",
    )
    expect((await decodeError(compressed(), JSON.stringify({ '~deflate': bomb }))).message).to.match(
      /16777216 bytes$/,
    )
  })

  it('refuses a value that was changed', async () => {
    const codec = compressed()
    const { '~deflate': deflated } = JSON.parse(await write(codec, large)) as { '~deflate': string }
    for (const changed of [
      '',
      'AAAA',
      deflated.slice(0, 40),
      `${deflated.slice(0, 30)}AAAA${deflated.slice(34)}`,
    ])
      expect((await decodeError(codec, JSON.stringify({ '~deflate': changed }))).message).to.equal(
        "the session can't be decompressed: it was changed outside the store",
      )
  })

  it('refuses invalid options, naming them', () => {
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

  it('takes one codec, or several in the order of encoding', async () => {
    const codec = readCodec([compressed(), encrypted({ keys })])
    const column = await write(codec, large)
    expect(Object.keys(JSON.parse(column) as object)).to.deep.equal(['~aes256gcm', 'data'])
    expect(column.length).to.be.below(250)
    expect(await read(codec, column)).to.deep.equal(large)
    await decodeError(codec, column, other)
    const single = readCodec(encrypted({ keys }))
    expect(await read(single, await write(single, large))).to.deep.equal(large)
  })

  it('marks what a codec of one’s own returns, unless that is the session itself', async () => {
    const reversed: Codec = {
      name: 'reversed',
      encode: (value) => ('n' in value ? value : { keys: Object.keys(value).reverse() }),
      decode: (value) => value,
    }
    const codec = readCodec(reversed)
    expect(await write(codec, { n: 1 })).to.equal('{"n":1}')
    expect(await write(codec, { a: 1, b: 2 })).to.equal('{"~codec":"reversed","value":{"keys":["b","a"]}}')
    expect((await rejection(read(readCodec(compressed()), await write(codec, { a: 1 })))).message).to.match(
      /the codec "reversed" encoded it/,
    )
  })

  it('refuses a session that looks as if a codec had encoded it', async () => {
    for (const name of ['~aes256gcm', '~deflate', '~codec'])
      expect((await rejection(write(readCodec(compressed()), { [name]: 'x' }))).message).to.match(
        /attributes ~aes256gcm, ~deflate, ~codec are reserved/,
      )
  })

  it('is decoded only, where it is the one that encoded', async () => {
    const codec = readCodec([decodeOnly(compressed({ over: 1 })), decodeOnly(encrypted({ keys }))])
    expect(await write(codec, large)).to.equal(JSON.stringify(large))
    for (const encoding of [compressed(), encrypted({ keys }), [compressed(), encrypted({ keys })]])
      expect(await read(codec, await write(readCodec(encoding), large))).to.deep.equal(large)
    expect(() => decodeOnly({ encode: (value) => value, decode: (value) => value })).to.throw(
      TypeError,
      /must have a name/,
    )
  })

  it('takes codecs that return promises, and is synchronous with others', async () => {
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

  it('refuses to store anything but a JSON object', async () => {
    for (const wrong of [undefined, null, 1, 'a', [1], () => 1]) {
      for (const encode of [() => wrong, async () => wrong]) {
        const codec = { encode, decode: (value: object) => value } as unknown as Codec
        expect((await rejection(write(codec, session))).message).to.equal(
          "the session can't be encoded: codec.encode must return an object that can be stored as JSON",
        )
      }
    }
  })

  it('quotes nothing of a session when decode throws, rejects or returns no object', async () => {
    const failing = (decode: () => unknown) =>
      ({ encode: (value: object) => value, decode }) as unknown as Codec
    for (const [decode, message] of [
      [() => JSON.parse('Xyzzy'), /codec.decode failed \(SyntaxError\)$/],
      [async () => JSON.parse('Xyzzy'), /codec.decode failed \(SyntaxError\)$/],
      [() => undefined, /codec.decode didn't return an object$/],
      [async () => 'Xyzzy', /codec.decode didn't return an object$/],
    ] as const)
      expect((await decodeError(failing(decode), '{"a":"Xyzzy"}')).message).to.match(message)
  })

  it('refuses what is not a codec, naming the option', () => {
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
