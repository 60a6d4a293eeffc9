// Reads the sessions that koa-redis or connect-redis keep in a Redis server.
import { connectRedis, type RedisClient } from './redis-client.js'
import { type Source, type SourceRow, sourceBatchSize } from './source.js'

/** What PTTL returns for a key that doesn't expire, and for a missing key. */
const neverExpires = -1
const missing = -2

export async function openRedis(url: string, prefix: string): Promise<Source> {
  const client = await connectRedis(url)
  return {
    read: () => readKeys(client, prefix),
    async remove(keys) {
      await client.call('DEL', ...keys)
    },
    end: () => client.end(),
  }
}

/** SCAN returns every key that is there from its beginning to its end, and some of them twice. */
async function* readKeys(client: RedisClient, prefix: string): ReturnType<Source['read']> {
  const pattern = `${prefix.replaceAll(/[\\*?[\]^-]/g, '\\$&')}*`
  let cursor = '0'
  do {
    const reply = await client.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', `${sourceBatchSize}`)
    const [next, keys] = reply as [string, string[]]
    cursor = `${next}`
    yield { rows: await readRows(client, [...new Set(keys)]), done: cursor === '0' ? 1 : shareOf(cursor) }
  } while (cursor !== '0')
}

async function readRows(client: RedisClient, keys: readonly string[]): Promise<SourceRow[]> {
  if (keys.length === 0) return []
  // MGET returns null for a key that has expired, and for one that holds no text.
  const [texts, ...ttls] = await Promise.all([
    client.call('MGET', ...keys) as Promise<(string | null)[]>,
    ...keys.map((key) => client.call('PTTL', key).then(Number)),
  ])
  return keys.flatMap((key, index) => {
    const text = texts[index]
    const ttlMs = ttls[index]
    if (text === null || text === undefined || ttlMs === undefined || ttlMs === missing) return []
    return [{ key, text, ttlMs: ttlMs === neverExpires ? undefined : ttlMs }]
  })
}

/** SCAN counts with the bits of its cursor reversed, so that read backwards they are the share that was scanned. */
function shareOf(cursor: string): number {
  const bits = 32
  let share = 0
  for (let bit = 0; bit < bits; bit++) share = share * 2 + Number((BigInt(cursor) >> BigInt(bit)) & 1n)
  return share / 2 ** bits
}
