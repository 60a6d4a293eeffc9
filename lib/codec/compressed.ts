// compressed: a codec that keeps large sessions deflated.
import { deflateSync, inflateSync } from 'node:zlib'
import { DecodeError } from '../types/errors.js'
import type { Codec } from '../types/options.js'
import { assertInteger, withDefaults } from '../util/validate.js'

/** Options of `compressed`. */
export interface CompressedOptions {
  /** Compress sessions of more bytes of JSON than this. Default 1024. */
  over?: number | undefined
  /** Larger ones, in bytes of JSON, are not compressed, and nothing is made larger by decompressing. Default 16 MiB. */
  max?: number | undefined
}

/** What the column holds: deflated JSON with its checksum (zlib's format) in base64. */
interface Deflated {
  readonly '~deflate': string
}

const defaults = { over: 1024, max: 16 * 1024 * 1024 }

/**
 * Keeps sessions deflated where that makes them smaller; small ones stay JSON that SQL can read, and so do those that are
 * in the table already. In a list with `encrypted` it comes first: `[compressed(), encrypted({ keys })]`.
 *
 * Throws a `TypeError` or a `RangeError`, naming the option, for what it can't use.
 */
export function compressed(options: CompressedOptions = {}): Codec {
  const { over, max } = withDefaults('options', defaults, options)
  assertInteger('over', over, 'bytes', 0)
  assertInteger('max', max, 'bytes', 1)

  return {
    encode(value): object {
      const text = JSON.stringify(value)
      const bytes = Buffer.byteLength(text)
      // What looks like this codec's own work has to be, or it would be taken for it.
      const mustBe = isDeflated(value)
      if (!mustBe && (bytes <= over || bytes > max)) return value
      const deflated: Deflated = { '~deflate': deflateSync(text).toString('base64') }
      return mustBe || deflated['~deflate'].length < bytes ? deflated : value
    },

    decode(value): object {
      if (!isDeflated(value)) return value
      try {
        const bytes = inflateSync(Buffer.from(value['~deflate'], 'base64'), { maxOutputLength: max })
        return JSON.parse(bytes.toString()) as object
      } catch (error) {
        const isBomb = Reflect.get(error as Error, 'code') === 'ERR_BUFFER_TOO_LARGE'
        throw new DecodeError(
          `the session can’t be decompressed: ${isBomb ? `it has more than ${max} bytes` : 'it was changed past the store'}`,
        )
      }
    },
  }
}

function isDeflated(value: object): value is Deflated {
  return typeof Reflect.get(value, '~deflate') === 'string' && Object.keys(value).length === 1
}
