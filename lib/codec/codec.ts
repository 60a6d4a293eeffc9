// What stands between a session and its column: the codecs of an application, in order, and what came of them checked.

import { parse } from '../session/json.js'
import { DecodeError, EncodeError } from '../types/errors.js'
import type { Codec, CodecContext } from '../types/options.js'
import { describe } from '../util/validate.js'

/** Several codecs as one: the first is the nearest to the session, the last the nearest to the column. */
export function chain(codecs: readonly Codec[]): Codec {
  return {
    encode: (value, context) => inTurn(codecs, value, (codec, part) => codec.encode(part, context)),
    decode: (value, context) =>
      inTurn(codecs.toReversed(), value, (codec, part) => codec.decode(part, context)),
  }
}

/** Waits only for who answers a promise: the others cost no turn. */
function inTurn(
  codecs: readonly Codec[],
  value: object,
  step: (codec: Codec, value: object) => object | PromiseLike<object>,
): object | PromiseLike<object> {
  const [first, ...more] = codecs
  if (first === undefined) return value
  const next = step(first, value)
  return isPromise(next)
    ? Promise.resolve(next).then((known) => inTurn(more, known, step))
    : inTurn(more, next, step)
}

/** The option `codec`: one, or several from the session to the column. Throws a `TypeError`. */
export function readCodec(option: unknown): Codec {
  const list: unknown[] = Array.isArray(option) ? option : [option]
  for (const [n, codec] of list.entries())
    for (const method of ['encode', 'decode'])
      if (typeof Object(codec)[method] !== 'function')
        throw new TypeError(
          `option "codec${Array.isArray(option) ? `[${n}]` : ''}" must have the methods encode and decode; received ${describe(codec)}`,
        )
  return list.length === 1 ? (list[0] as Codec) : chain(list as Codec[])
}

/** The column's JSON for a session's JSON. Throws an `EncodeError`. */
export async function toColumn(codec: Codec, text: string, context: CodecContext): Promise<string> {
  let value: unknown
  try {
    value = await codec.encode(parse(text) as object, context)
  } catch (error) {
    throw new EncodeError(`the session can’t be encoded: codec.encode failed (${nameOfError(error)})`)
  }
  const column = typeof value === 'object' && value !== null ? JSON.stringify(value) : undefined
  if (column?.[0] !== '{')
    throw new EncodeError(
      'the session can’t be encoded: codec.encode must answer an object that JSON can hold',
    )
  return column
}

/** The session's JSON for the column's. Throws a `DecodeError`. */
export function fromColumn(codec: Codec, column: string, context: CodecContext): string | Promise<string> {
  const read = (value: unknown): string => {
    if (typeof value !== 'object' || value === null)
      throw new DecodeError('the session can’t be decoded: codec.decode answered no object')
    return JSON.stringify(value)
  }
  try {
    const stored = parse(column)
    if (stored === undefined)
      throw new DecodeError('the session can’t be decoded: its column holds no JSON object')
    const decoded = codec.decode(stored, context)
    return isPromise(decoded) ? Promise.resolve(decoded).then(read).catch(fail) : read(decoded)
  } catch (error) {
    return fail(error)
  }
}

/** Only what the package's own codecs say is known to hold nothing of a session. */
function fail(error: unknown): never {
  if (error instanceof DecodeError) throw error
  throw new DecodeError(`the session can’t be decoded: codec.decode failed (${nameOfError(error)})`)
}

function nameOfError(error: unknown): string {
  return error instanceof Error ? error.name : typeof error
}

function isPromise(value: unknown): value is PromiseLike<object> {
  return typeof Object(value).then === 'function'
}
