// decodeOnly: a codec that reads what another one has encoded, and encodes nothing yet or any more.
import type { Codec, CodecContext } from '../types/options.js'
import { describe } from '../util/validate.js'
import { codecOf, isWrapped } from './seal.js'

export class DecodeOnly implements Codec {
  readonly name: string
  readonly #codec: Codec

  constructor(codec: Codec, name: string) {
    this.#codec = codec
    this.name = name
  }

  encode(value: object): object {
    return value
  }

  decode(value: object, context: CodecContext): object | PromiseLike<object> {
    if (codecOf(value) !== this.name) return value
    return this.#codec.decode(isWrapped(value) ? value.value : value, context)
  }
}

/**
 * Returns a codec that decodes what `codec` has encoded, leaves other sessions as they are, and encodes none. Deploy it to all
 * processes before the first one encodes, and again before the codec is removed: no process then meets a session that it
 * can't read.
 *
 * @throws {TypeError} if the codec has no `name`, by which what it has encoded is recognized
 * @example
 * new PgStore(url, { codec: decodeOnly(encrypted({ keys })) })
 */
export function decodeOnly(codec: Codec): Codec {
  const { encode, decode, name } = Object(codec) as Partial<Codec>
  if (typeof encode !== 'function' || typeof decode !== 'function')
    throw new TypeError(`codec must have the methods encode and decode; received ${describe(codec)}`)
  if (typeof name !== 'string' || name === '')
    throw new TypeError(
      `codec must have a name, such as 'signed', to be decoded only; received ${describe(name)}`,
    )
  return new DecodeOnly(codec, name)
}
