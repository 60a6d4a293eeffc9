// The list of peers, and this store as one of them.
import type { ChildProcess } from 'node:child_process'
import type { PgStoreOptions } from '../../lib/index.js'
import type { RedisServer } from '../../test/support/redis.js'
import type { Database } from '../support/database.js'
import { fill, session } from '../support/sessions.js'
import { openStore } from '../support/store.js'
import { nextMessage, startWorker, stopWorker } from '../support/workers.js'
import type { Adapter, Peer, PeerKind } from './adapter.js'
import { byHand } from './by-hand.js'
import { connectPgSimple, keyvPostgres, koaPgSession } from './postgres-peers.js'
import { ioredis, koaRedis, memory } from './redis-peers.js'

interface Entry {
  readonly name: string
  readonly kind: PeerKind
  /** Resolves with `undefined` if the peer's server isn't installed. */
  readonly open: (database: Database, redis: RedisServer | undefined) => Promise<Adapter | undefined>
}

export const uncached = 'koa-pg-store, uncached'
export const cached = 'koa-pg-store'
export const cached4 = 'koa-pg-store, 4 others listen'
export const simple = 'connect-pg-simple'
export const memoryStore = 'MemoryStore'

const entries: Entry[] = [
  {
    name: uncached,
    kind: 'koa-pg-store',
    open: async (database) => pgStore(await database.create('uncached'), 0, { cache: false }),
  },
  {
    name: cached,
    kind: 'koa-pg-store',
    open: async (database) => pgStore(await database.create('alone'), 0),
  },
  {
    name: 'koa-pg-store, 1 other listens',
    kind: 'koa-pg-store',
    open: async (database) => pgStore(await database.create('one'), 1),
  },
  {
    name: cached4,
    kind: 'koa-pg-store',
    open: async (database) => pgStore(await database.create('four'), 4),
  },
  {
    name: 'pg, by hand',
    kind: 'by hand',
    open: async (database) => byHand(await database.create('by_hand')),
  },
  {
    name: simple,
    kind: 'postgres',
    open: async (database) => connectPgSimple(await database.create('simple')),
  },
  {
    name: 'koa-pg-session',
    kind: 'postgres',
    open: async (database) => koaPgSession(await database.create('koa')),
  },
  {
    name: '@keyv/postgres',
    kind: 'postgres',
    open: async (database) => keyvPostgres(await database.create('keyv')),
  },
  { name: 'koa-redis', kind: 'redis', open: async (_, redis) => redis && koaRedis(redis.url(1)) },
  { name: 'ioredis', kind: 'redis', open: async (_, redis) => redis && ioredis(redis.url(2), false) },
  {
    name: 'ioredis, auto-pipelining',
    kind: 'redis',
    open: async (_, redis) => redis && ioredis(redis.url(3), true),
  },
  { name: memoryStore, kind: 'memory', open: async () => memory() },
]

/** Opens the peers that are wanted, and saves a session under each id. */
export async function openPeers(
  isWanted: (name: string) => boolean,
  ids: readonly string[],
  database: Database,
  redis: RedisServer | undefined,
  onOpen: (peer: Peer) => void,
): Promise<Peer[]> {
  const peers: Peer[] = []
  for (const { name, kind, open } of entries) {
    if (!isWanted(name)) continue
    const adapter = await open(database, redis)
    if (adapter === undefined) continue
    const serverPid = kind === 'redis' ? (redis?.pid ?? 0) : kind === 'memory' ? 0 : database.pid
    const peer = { name, kind, serverPid, ...adapter }
    onOpen(peer)
    peers.push(peer)
    await fill(ids, (id) => adapter.set(id, session()))
    await adapter.begin?.(ids)
    // The comparison would be meaningless if a peer returned something else.
    const first = (await adapter.get(ids[0] as string)) as ReturnType<typeof session> | undefined
    if (first?.user?.name !== session().user.name) throw new Error(`${name} doesn't return what was saved`)
  }
  return peers
}

async function pgStore(url: string, listenerCount: number, options: PgStoreOptions = {}): Promise<Adapter> {
  const store = await openStore(url, options)
  store.on('warning', (error) => console.error(error.message))
  const listeners: ChildProcess[] = []
  return {
    get: (sid) => store.get(sid),
    set: (sid, session) => store.set(sid, session),
    create: (session) => store.create(session),
    touch: (sid) => store.touch(sid),
    ...(options.cache !== false && { hits: async () => ((await store.stats()).cache || { hits: 0 }).hits }),
    async begin(ids) {
      for (let n = 0; n < listenerCount; n++) listeners.push(startWorker('listener', url))
      for (const listener of listeners) listener.send(ids)
      await Promise.all(listeners.map((listener) => nextMessage(listener)))
    },
    async close() {
      await Promise.all(listeners.map(stopWorker))
      await store.close()
    },
  }
}
