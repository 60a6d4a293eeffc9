// compressed: a codec that deflates large sessions.
import { deflateSync, inflateSync } from 'node:zlib'
import { DecodeError } from '../types/errors.js'
import type { Codec } from '../types/options.js'
import { assertInteger, withDefaults } from '../util/validate.js'
import { type Deflated, isDeflated } from './seal.js'

/** Options of `compressed`. */
export interface CompressedOptions {
  /**
   * Compress sessions larger than this, in bytes of JSON in UTF-8.
   * @default 1024
   */
  over?: number | undefined
  /**
   * Don't compress sessions larger than this, in bytes of JSON in UTF-8, and refuse to decompress anything to more.
   * @default 16_777_216 (16 MiB)
   */
  max?: number | undefined
}

const defaults = { over: 1024, max: 16 * 1024 * 1024 }

/**
 * Returns a codec that compresses large sessions where that makes them smaller. All others remain JSON that SQL can read.
 * Sessions that were stored before the codec was added can still be read. Beside `encrypted` it comes first, as encrypted
 * data can't be compressed.
 *
 * @throws {TypeError | RangeError} if an option can't be used; the message names it
 * @example
 * new PgStore(url, { codec: [compressed(), encrypted({ keys })] })
 */
export function compressed(options: CompressedOptions = {}): Codec {
  const { over, max } = withDefaults('options', defaults, options)
  assertInteger('over', over, 'bytes', 0)
  assertInteger('max', max, 'bytes', 1)

  return {
    name: 'compressed',

    encode(value): object {
      const json = JSON.stringify(value)
      const bytes = Buffer.byteLength(json)
      // A session that looks like this codec's output must be compressed: decode would take it for compressed data.
      const isLookalike = isDeflated(value)
      if (!isLookalike && (bytes <= over || bytes > max)) return value
      const deflated: Deflated = { '~deflate': deflateSync(json).toString('base64') }
      return isLookalike || deflated['~deflate'].length < bytes ? deflated : value
    },

    decode(value): object {
      if (!isDeflated(value)) return value
      try {
        const json = inflateSync(Buffer.from(value['~deflate'], 'base64'), { maxOutputLength: max })
        return JSON.parse(json.toString()) as object
      } catch (error) {
        const isTooLarge = Reflect.get(error as Error, 'code') === 'ERR_BUFFER_TOO_LARGE'
        throw new DecodeError(
          `the session can't be decompressed: ${isTooLarge ? `it is larger than ${max} bytes` : 'it was changed outside the store'}`,
        )
      }
    },
  }
}
