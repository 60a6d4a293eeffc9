// Reads sessions from a file of JSON lines, or from the standard input.
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { messageOf } from '../../util/driver-errors.js'
import { type Source, type SourceRow, sourceBatchSize } from './source.js'

/** `-` is the standard input. */
export async function openJsonLines(path: string): Promise<Source> {
  const size = path === '-' ? undefined : await sizeOf(path)
  return { read: () => readLines(path, size), remove: undefined, end: async () => undefined }
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size
  } catch (error) {
    throw new Error(`--from: ${path} can't be read: ${messageOf(error)}`, { cause: error })
  }
}

async function* readLines(path: string, size: number | undefined): ReturnType<Source['read']> {
  const input = path === '-' ? process.stdin : createReadStream(path)
  let rows: SourceRow[] = []
  let number = 0
  let bytes = 0
  const done = (): number => (size === undefined ? 0 : Math.min(1, bytes / Math.max(1, size)))
  for await (const text of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
    number++
    bytes += Buffer.byteLength(text) + 1
    if (text.trim() !== '') rows.push({ key: `line ${number}`, text, ttlMs: undefined })
    if (rows.length < sourceBatchSize) continue
    yield { rows, done: done() }
    rows = []
  }
  yield { rows, done: 1 }
}
