// encrypted: a codec that keeps sessions as AES-256-GCM.
import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { DecodeError } from '../types/errors.js'
import type { Codec, CodecContext } from '../types/options.js'
import { describe, withDefaults } from '../util/validate.js'

export interface EncryptionKey {
  /** Its name: stored with each session, no secret, never given to another key. At most 64 characters. */
  readonly id: string
  /** 32 random bytes, themselves or as base64 or hexadecimal: `openssl rand -base64 32`. */
  readonly key: Uint8Array | string
}

/** Options of `encrypted`. */
export interface EncryptedOptions {
  /** The first writes, all read. */
  keys: readonly EncryptionKey[]
  /**
   * Also read sessions that aren't encrypted, while an application is moved over. Whoever can write to the table could
   * put such a session there: take it out again when all are encrypted. Default `false`.
   */
  allowPlain?: boolean | undefined
}

/** What the column holds: the name of the key, and nonce, ciphertext and tag in base64url. */
interface Sealed {
  readonly '~aes256gcm': string
  readonly data: string
}

const algorithm = 'aes-256-gcm'
const keyBytes = 32
const nonceBytes = 12
const tagBytes = 16
const longestId = 64

/**
 * Encrypts sessions with AES-256-GCM, each time with a random nonce of 96 bits. The stored id and the key's name are bound
 * in as additional data: what is pasted into another row, or given another key's name, doesn't open (what the same row
 * held before does). What doesn't open is a `DecodeError` that names the key that was wanted.
 *
 * To rotate, put a new key in front and keep the old ones as long as there are sessions that they wrote; and do so before
 * one key has written 2^32 times, which is how often random nonces are safe.
 *
 * Throws a `TypeError` or a `RangeError` for keys that can't be used, which never quotes one.
 */
export function encrypted(options: EncryptedOptions): Codec {
  const { keys: given, allowPlain } = withDefaults('options', defaults, options)
  if (typeof allowPlain !== 'boolean')
    throw new TypeError(`option "allowPlain" must be true or false; received ${describe(allowPlain)}`)
  const keys = readKeys(given)
  const [first] = keys
  if (first === undefined) throw new RangeError('option "keys" must have at least one key; received none')
  const [writer, key] = first

  return {
    encode(value, context): Sealed {
      const nonce = randomBytes(nonceBytes)
      const cipher = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes })
      cipher.setAAD(bound(writer, context))
      const text = [cipher.update(JSON.stringify(value), 'utf8'), cipher.final()]
      const data = Buffer.concat([nonce, ...text, cipher.getAuthTag()]).toString('base64url')
      return { '~aes256gcm': writer, data }
    },

    decode(value, context): object {
      if (!isSealed(value)) {
        if (allowPlain) return value
        throw new DecodeError(
          `the session isn’t encrypted, and only such as ${names(keys)} opens is read (see allowPlain)`,
        )
      }
      const wanted = value['~aes256gcm']
      const name = JSON.stringify(wanted.slice(0, longestId))
      const key = keys.get(wanted)
      if (key === undefined)
        throw new DecodeError(
          `the session can’t be decrypted: it wants the key ${name}; there are ${names(keys)}`,
          wanted,
        )
      const text = open(key, value.data, bound(wanted, context))
      if (text === undefined)
        throw new DecodeError(
          `the session can’t be decrypted with the key ${name}: it was changed past the store, is another session’s, or was encrypted with another key of that name`,
          wanted,
        )
      return JSON.parse(text) as object
    },
  }
}

const defaults = { keys: undefined as unknown, allowPlain: false as unknown }

function readKeys(given: unknown): Map<string, KeyObject> {
  if (!Array.isArray(given))
    throw new TypeError(`option "keys" must be an array of { id, key }; received ${describe(given)}`)
  const keys = new Map<string, KeyObject>()
  for (const [n, entry] of (given as unknown[]).entries()) {
    const { id, key } = Object(entry) as { id?: unknown; key?: unknown }
    if (typeof id !== 'string')
      throw new TypeError(`option "keys[${n}].id" must be a string; received ${describe(id)}`)
    if (id === '' || id.length > longestId)
      throw new RangeError(
        `option "keys[${n}].id" must have 1 to ${longestId} characters; received ${id.length}`,
      )
    if (keys.has(id))
      throw new RangeError(`option "keys[${n}].id" must be no other key's; received ${describe(id)}`)
    keys.set(id, createSecretKey(readKey(n, key)))
  }
  return keys
}

/** Says what a key is, and never the key. */
function readKey(n: number, key: unknown): Uint8Array {
  const right = `option "keys[${n}].key" must be ${keyBytes} bytes, or those as base64 or hexadecimal`
  if (key instanceof Uint8Array) {
    if (key.length !== keyBytes) throw new RangeError(`${right}; received ${key.length} bytes`)
    return key
  }
  if (typeof key !== 'string')
    throw new TypeError(`${right}; received ${typeof key === 'object' ? describe(key) : typeof key}`)
  if (/^[0-9a-f]{64}$/i.test(key)) return Buffer.from(key, 'hex')
  // Node reads both alphabets of base64.
  if (/^[\w+/-]{43}=?$/.test(key)) return Buffer.from(key, 'base64')
  throw new RangeError(`${right}; received a string of ${key.length} characters that is neither`)
}

/** No two pairs of key and session are bound by the same bytes. */
function bound(key: string, { id }: CodecContext): Buffer {
  return Buffer.from(JSON.stringify(['koa-pg-store', key, id]))
}

function open(key: KeyObject, data: string, additional: Buffer): string | undefined {
  const bytes = Buffer.from(data, 'base64url')
  // Node passes over what isn't base64: then it isn't what was written.
  if (bytes.toString('base64url') !== data || bytes.length < nonceBytes + tagBytes) return undefined
  const decipher = createDecipheriv(algorithm, key, bytes.subarray(0, nonceBytes), {
    authTagLength: tagBytes,
  })
  decipher.setAAD(additional)
  decipher.setAuthTag(bytes.subarray(-tagBytes))
  const text = decipher.update(bytes.subarray(nonceBytes, -tagBytes))
  try {
    return Buffer.concat([text, decipher.final()]).toString()
  } catch {
    return undefined
  }
}

function isSealed(value: object): value is Sealed {
  return (
    typeof Reflect.get(value, '~aes256gcm') === 'string' &&
    typeof Reflect.get(value, 'data') === 'string' &&
    Object.keys(value).length === 2
  )
}

function names(keys: Map<string, KeyObject>): string {
  return [...keys.keys()].map((id) => JSON.stringify(id)).join(', ')
}
