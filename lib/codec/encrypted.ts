// encrypted: a codec that encrypts sessions with AES-256-GCM.
import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { DecodeError } from '../types/errors.js'
import type { Codec, CodecContext } from '../types/options.js'
import { describe, withDefaults } from '../util/validate.js'
import { type Encrypted, isEncrypted } from './seal.js'

/** A key of `encrypted`. */
export interface EncryptionKey {
  /** The key's name, up to 64 characters. It is stored with each session and not secret. Never reuse it for another key. */
  readonly id: string
  /** 32 random bytes, raw or in base64 or hexadecimal: `openssl rand -base64 32`. */
  readonly key: Uint8Array | string
}

/** Options of `encrypted`. */
export interface EncryptedOptions {
  /** The first key encrypts; all keys decrypt. */
  keys: readonly EncryptionKey[]
  /**
   * Also read sessions that aren't encrypted, while an application starts to encrypt. Anyone who can write to the table
   * can forge such a session, so remove this option once all sessions are encrypted.
   * @default false
   */
  allowPlain?: boolean | undefined
}

const algorithm = 'aes-256-gcm'
const keyBytes = 32
const nonceBytes = 12
const tagBytes = 16
const maxKeyIdLength = 64

const defaults = { keys: undefined as unknown, allowPlain: false as unknown }

/**
 * Returns a codec that encrypts sessions with AES-256-GCM, with a new random nonce of 96 bits at each save. The stored id
 * and the key's id are authenticated too: a value that was copied to another row, or given another key's id, is refused. An
 * older value of the same row is not.
 *
 * A session that can't be decrypted fails with a `DecodeError` that names the key it needs.
 *
 * To rotate keys, put a new key first, and keep the old ones for as long as they are needed to decrypt sessions. Rotate
 * before one key has encrypted 2^32 times: that is how often random nonces are safe.
 *
 * @throws {TypeError | RangeError} if an option can't be used; the message names it and never quotes a key
 * @example
 * new PgStore(url, { codec: encrypted({ keys: [{ id: '2026', key }] }) })
 */
export function encrypted(options: EncryptedOptions): Codec {
  const { keys: keysOption, allowPlain } = withDefaults('options', defaults, options)
  if (typeof allowPlain !== 'boolean')
    throw new TypeError(`option "allowPlain" must be true or false; received ${describe(allowPlain)}`)
  const keys = readKeys(keysOption)
  const [first] = keys
  if (first === undefined) throw new RangeError('option "keys" must have at least one key; received none')
  const [firstId, firstKey] = first

  return {
    name: 'encrypted',

    encode(value, context): Encrypted {
      const nonce = randomBytes(nonceBytes)
      const cipher = createCipheriv(algorithm, firstKey, nonce, { authTagLength: tagBytes })
      cipher.setAAD(additionalData(firstId, context))
      const ciphertext = [cipher.update(JSON.stringify(value), 'utf8'), cipher.final()]
      const data = Buffer.concat([nonce, ...ciphertext, cipher.getAuthTag()]).toString('base64url')
      return { '~aes256gcm': firstId, data }
    },

    decode(value, context): object {
      if (!isEncrypted(value)) {
        if (allowPlain) return value
        throw new DecodeError(
          `the session is not encrypted, and option "allowPlain" is off; configured keys: ${quotedIds(keys)}`,
        )
      }
      const keyId = value['~aes256gcm']
      const quotedId = JSON.stringify(keyId.slice(0, maxKeyIdLength))
      const key = keys.get(keyId)
      if (key === undefined)
        throw new DecodeError(
          `the session can't be decrypted: it needs the key ${quotedId}; configured keys: ${quotedIds(keys)}`,
          keyId,
        )
      const json = decrypt(key, value.data, additionalData(keyId, context))
      if (json === undefined)
        throw new DecodeError(
          `the session can't be decrypted with the key ${quotedId}: it was changed outside the store, is another session's, or was encrypted with another key of that id`,
          keyId,
        )
      return JSON.parse(json) as object
    },
  }
}

function readKeys(option: unknown): Map<string, KeyObject> {
  if (!Array.isArray(option))
    throw new TypeError(`option "keys" must be an array of { id, key }; received ${describe(option)}`)
  const keys = new Map<string, KeyObject>()
  for (const [index, entry] of (option as unknown[]).entries()) {
    const { id, key } = Object(entry) as { id?: unknown; key?: unknown }
    if (typeof id !== 'string')
      throw new TypeError(`option "keys[${index}].id" must be a string; received ${describe(id)}`)
    if (id === '' || id.length > maxKeyIdLength)
      throw new RangeError(
        `option "keys[${index}].id" must have 1 to ${maxKeyIdLength} characters; received ${id.length}`,
      )
    if (keys.has(id))
      throw new RangeError(`option "keys[${index}].id" must be unique; received ${describe(id)}`)
    keys.set(id, createSecretKey(readKey(index, key)))
  }
  return keys
}

/** Returns the bytes of a key. The messages of its errors describe the key and never quote it. */
function readKey(index: number, key: unknown): Uint8Array {
  const requirement = `option "keys[${index}].key" must be ${keyBytes} bytes, raw or in base64 or hexadecimal`
  if (key instanceof Uint8Array) {
    if (key.length !== keyBytes) throw new RangeError(`${requirement}; received ${key.length} bytes`)
    return key
  }
  if (typeof key !== 'string')
    throw new TypeError(`${requirement}; received ${typeof key === 'object' ? describe(key) : typeof key}`)
  if (/^[0-9a-f]{64}$/i.test(key)) return Buffer.from(key, 'hex')
  // Node decodes base64 and base64url alike.
  if (/^[\w+/-]{43}=?$/.test(key)) return Buffer.from(key, 'base64')
  throw new RangeError(`${requirement}; received a string of ${key.length} characters that is neither`)
}

/** The data that is authenticated beside the session. As JSON, it differs for any two pairs of key and session. */
function additionalData(keyId: string, { id }: CodecContext): Buffer {
  return Buffer.from(JSON.stringify(['koa-pg-store', keyId, id]))
}

/** Returns the session's JSON, or `undefined` if the data isn't authentic. */
function decrypt(key: KeyObject, data: string, additional: Buffer): string | undefined {
  const bytes = Buffer.from(data, 'base64url')
  // Node ignores characters that aren't base64, but data with such characters was changed.
  if (bytes.toString('base64url') !== data || bytes.length < nonceBytes + tagBytes) return undefined
  const decipher = createDecipheriv(algorithm, key, bytes.subarray(0, nonceBytes), {
    authTagLength: tagBytes,
  })
  decipher.setAAD(additional)
  decipher.setAuthTag(bytes.subarray(-tagBytes))
  const json = decipher.update(bytes.subarray(nonceBytes, -tagBytes))
  try {
    return Buffer.concat([json, decipher.final()]).toString()
  } catch {
    return undefined
  }
}

function quotedIds(keys: Map<string, KeyObject>): string {
  return [...keys.keys()].map((id) => JSON.stringify(id)).join(', ')
}
