// Finds the shard of an id as Citus does, so that each statement concerns one shard: one worker runs and commits it alone.

/** PostgreSQL's `hashtext`: Jenkins' lookup3 over UTF-8, on little-endian servers. */
export function hashText(text: string): number {
  const bytes = Buffer.from(text)
  const whole = bytes.length - (bytes.length % 12)
  let a = (0x9e3779b9 + bytes.length + 3_923_095) | 0
  let b = a
  let c = a
  for (let n = 0; n < whole; n += 12) {
    a = (a + bytes.readInt32LE(n)) | 0
    b = (b + bytes.readInt32LE(n + 4)) | 0
    c = (c + bytes.readInt32LE(n + 8)) | 0
    a = ((a - c) | 0) ^ rotate(c, 4)
    c = (c + b) | 0
    b = ((b - a) | 0) ^ rotate(a, 6)
    a = (a + c) | 0
    c = ((c - b) | 0) ^ rotate(b, 8)
    b = (b + a) | 0
    a = ((a - c) | 0) ^ rotate(c, 16)
    c = (c + b) | 0
    b = ((b - a) | 0) ^ rotate(a, 19)
    a = (a + c) | 0
    c = ((c - b) | 0) ^ rotate(b, 4)
    b = (b + a) | 0
  }
  // The lowest byte of the last word is left to the length.
  for (let n = whole; n < bytes.length; n++) {
    const place = n - whole
    const byte = bytes[n] as number
    if (place < 4) a = (a + (byte << (8 * place))) | 0
    else if (place < 8) b = (b + (byte << (8 * (place - 4)))) | 0
    else c = (c + (byte << (8 * (place - 7)))) | 0
  }
  c = ((c ^ b) - rotate(b, 14)) | 0
  a = ((a ^ c) - rotate(c, 11)) | 0
  b = ((b ^ a) - rotate(a, 25)) | 0
  c = ((c ^ b) - rotate(b, 16)) | 0
  a = ((a ^ c) - rotate(c, 4)) | 0
  b = ((b ^ a) - rotate(a, 14)) | 0
  return ((c ^ b) - rotate(b, 24)) | 0
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits))
}

/** Returns the number of an id's shard. `starts` are the least hashes of the shards, in order. */
export function shardOf(starts: readonly number[], id: string): number {
  const value = hashText(id)
  let first = 0
  let last = starts.length - 1
  while (first < last) {
    const middle = (first + last + 1) >> 1
    if ((starts[middle] as number) <= value) first = middle
    else last = middle - 1
  }
  return first
}

/** Divides items by the shards of their ids, keeping their order; not at all without `starts`. */
export function byShard<T>(
  starts: readonly number[] | undefined,
  items: readonly T[],
  idOf: (item: T) => string,
): (readonly T[])[] {
  if (starts === undefined) return [items]
  const groups = new Map<number, T[]>()
  for (const item of items) {
    const shard = shardOf(starts, idOf(item))
    const group = groups.get(shard)
    if (group === undefined) groups.set(shard, [item])
    else group.push(item)
  }
  return [...groups.values()]
}

/** Runs statements that concern one shard each, if Citus has distributed the table, and then rejects if one has failed. */
export async function inShards<T, R>(
  starts: readonly number[] | undefined,
  items: readonly T[],
  idOf: (item: T) => string,
  run: (items: readonly T[]) => Promise<R>,
): Promise<R[]> {
  const results: R[] = []
  let failure: { error: unknown } | undefined
  for (const some of byShard(starts, items, idOf))
    try {
      results.push(await run(some))
    } catch (error) {
      failure ??= { error }
    }
  if (failure) throw failure.error
  return results
}
