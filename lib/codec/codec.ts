// Runs the option `codec` between a session and its column: chains several codecs and checks what they return.
import { parse } from '../session/json.js'
import { DecodeError, EncodeError } from '../types/errors.js'
import type { Codec, CodecContext } from '../types/options.js'
import { withTimeout } from '../util/timeout.js'
import { describe } from '../util/validate.js'
import { DecodeOnly } from './decode-only.js'
import { codecOf, isEncrypted, isSealed, isSealedJson, isWrapped, sealNames } from './seal.js'

/** How long a codec may take for one session, in ms: as long as a statement. */
const codecTimeoutMs = 10_000

/** Returns one codec for several: the first one encodes first and decodes last. */
export function chain(codecs: readonly Codec[]): Codec {
  return {
    encode: (value, context) => runEach(codecs, value, (codec, input) => codec.encode(input, context)),
    decode: (value, context) =>
      runEach(codecs.toReversed(), value, (codec, input) => codec.decode(input, context)),
  }
}

/** Synchronous unless a codec returns a promise: awaiting the others would only cost time. */
function runEach(
  codecs: readonly Codec[],
  value: object,
  step: (codec: Codec, input: object) => object | PromiseLike<object>,
): object | PromiseLike<object> {
  const [first, ...rest] = codecs
  if (first === undefined) return value
  const output = step(first, value)
  return isPromise(output)
    ? Promise.resolve(output).then((resolved) => runEach(rest, resolved, step))
    : runEach(rest, output, step)
}

/** Returns the codec for the option `codec`: one, or several in the order of encoding. Throws a `TypeError`. */
export function readCodec(option: unknown): Codec {
  const codecs: unknown[] = Array.isArray(option) ? option : [option]
  for (const [index, codec] of codecs.entries()) {
    const optionName = `option "codec${Array.isArray(option) ? `[${index}]` : ''}`
    const { encode, decode, name } = Object(codec) as Record<keyof Codec, unknown>
    if (typeof encode !== 'function' || typeof decode !== 'function')
      throw new TypeError(
        `${optionName}" must have the methods encode and decode; received ${describe(codec)}`,
      )
    if (name !== undefined && typeof name !== 'string')
      throw new TypeError(`${optionName}.name" must be a string; received ${describe(name)}`)
  }
  const [first, ...more] = (codecs as Codec[]).map(recognizable)
  return first !== undefined && more.length === 0 ? first : chain(first === undefined ? [] : [first, ...more])
}

/** Returns a codec whose output is recognized as such, whatever it is: a store without the codec must not take it for a session. */
function recognizable(codec: Codec): Codec {
  if (codec instanceof DecodeOnly) return codec
  const { name = '' } = codec
  return {
    name,
    encode(value, context) {
      // The codec may change the object that it is given.
      const before = JSON.stringify(value)
      const wrap = (output: object): object =>
        typeof output !== 'object' ||
        output === null ||
        codecOf(output) === (name || undefined) ||
        JSON.stringify(output) === before
          ? output
          : { '~codec': name, value: output }
      const output = codec.encode(value, context)
      return isPromise(output) ? Promise.resolve(output).then(wrap) : wrap(output)
    },
    decode: (value, context) =>
      codec.decode(isWrapped(value) && value['~codec'] === name ? value.value : value, context),
  }
}

const reservedNames = `the attributes ${sealNames.join(', ')} are reserved`

/** Returns the JSON of a session, which no codec is to encode. Throws an `EncodeError` if it looks encoded. */
export function plainToColumn(json: string): string {
  if (isSealedJson(json)) throw new EncodeError(`the session can't be stored: ${reservedNames}`)
  return json
}

/** Resolves with the column's JSON for a session's JSON. Rejects with an `EncodeError`. */
export async function toColumn(codec: Codec, json: string, context: CodecContext): Promise<string> {
  plainToColumn(json)
  let value: unknown
  try {
    const encoded = codec.encode(parse(json) as object, context)
    value = isPromise(encoded) ? await withTimeout(encoded, codecTimeoutMs, encodeTimeout) : encoded
  } catch (error) {
    throw new EncodeError(`the session can't be encoded: ${reason(error, 'codec.encode failed')}`)
  }
  const column = typeof value === 'object' && value !== null ? JSON.stringify(value) : undefined
  if (column?.[0] !== '{')
    throw new EncodeError(
      "the session can't be encoded: codec.encode must return an object that can be stored as JSON",
    )
  return column
}

/**
 * Returns the session's JSON for the column's, or a promise if the codec does. Fails with a `DecodeError`, also if a codec has
 * encoded the session that isn't given.
 */
export function fromColumn(
  codec: Codec | undefined,
  column: string,
  context: CodecContext,
): string | Promise<string> {
  if (codec === undefined) {
    if (isSealedJson(column)) throw missingCodec(JSON.parse(column) as object)
    return column
  }
  const toJson = (session: unknown): string => {
    if (typeof session !== 'object' || session === null)
      throw new DecodeError("the session can't be decoded: codec.decode didn't return an object")
    if (isSealed(session)) throw missingCodec(session)
    return JSON.stringify(session)
  }
  try {
    const value = parse(column)
    if (value === undefined)
      throw new DecodeError("the session can't be decoded: its column doesn't hold a JSON object")
    const session = codec.decode(value, context)
    return isPromise(session)
      ? withTimeout(session, codecTimeoutMs, decodeTimeout).then(toJson).catch(throwDecodeError)
      : toJson(session)
  } catch (error) {
    return throwDecodeError(error)
  }
}

function missingCodec(value: object): DecodeError {
  const name = codecOf(value)
  const what =
    name === 'encrypted' || name === 'compressed'
      ? `it is ${name}`
      : `the codec ${JSON.stringify(name ?? '')} encoded it`
  return new DecodeError(
    `the session can't be decoded: ${what}, and the option "codec" doesn't have that codec`,
    isEncrypted(value) ? value['~aes256gcm'] : undefined,
  )
}

/** Only the messages of this package's own codecs are known to quote nothing of a session. */
function throwDecodeError(error: unknown): never {
  if (error instanceof DecodeError) throw error
  throw new DecodeError(`the session can't be decoded: ${reason(error, 'codec.decode failed')}`)
}

const encodeTimeout = 'codec.encode did not resolve'
const decodeTimeout = 'codec.decode did not resolve'

/** A codec's own message may quote the session. */
function reason(error: unknown, failed: string): string {
  const message = error instanceof Error ? error.message : ''
  const isTimeout = [encodeTimeout, decodeTimeout].some(
    (timeout) => message === `${timeout} within ${codecTimeoutMs} ms`,
  )
  return isTimeout ? message : `${failed} (${nameOfError(error)})`
}

function nameOfError(error: unknown): string {
  return error instanceof Error ? error.name : typeof error
}

function isPromise(value: unknown): value is PromiseLike<object> {
  return typeof Object(value).then === 'function'
}
