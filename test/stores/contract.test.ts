import RedisStore from 'koa-redis'
import { CachedStore, FallbackStore, MemoryStore, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { freshDatabase } from '../helpers/server.js'
import { hasRedis, type RedisServer, startRedis } from '../support/redis.js'
import { contract, type MakeStore } from './contract.js'

const postgres =
  (options: PgStoreOptions): MakeStore =>
  async ({ ttl }) => {
    const store = new PgStore(await freshDatabase(), { ...options, ttl })
    await store.setup()
    return { store, close: () => store.close() }
  }

const memory: MakeStore = ({ ttl }) => ({ store: new MemoryStore({ ttl }) })

/** A PgStore that takes sessions over from an empty store. */
const withFallback: MakeStore = async ({ ttl }) => {
  const store = new PgStore(await freshDatabase(), { ttl })
  await store.setup()
  return { store: new FallbackStore(store, new MemoryStore()), close: () => store.close() }
}

/** A store with a cache in front of it. */
const cached =
  (makeStore: MakeStore, makeCache: () => Parameters<typeof makeCachedStore>[1]): MakeStore =>
  async (options) => {
    const { store, close } = await makeStore(options)
    return { store: makeCachedStore(store, makeCache()), ...(close && { close }) }
  }

function makeCachedStore(...[store, cache]: ConstructorParameters<typeof CachedStore>): CachedStore {
  return new CachedStore(store, cache, { timeout: 60_000 })
}

const stores: Record<string, MakeStore> = {
  'PgStore, cached as by default': postgres({}),
  'PgStore, cache: false': postgres({ cache: false }),
  "PgStore, cache: { propagate: 'update' }": postgres({ cache: { propagate: 'update' } }),
  'PgStore, touch.interval: 0': postgres({ touch: { interval: 0 } }),
  'PgStore, hashIds: false': postgres({ hashIds: false }),
  MemoryStore: memory,
  'FallbackStore(PgStore, MemoryStore)': withFallback,
  'CachedStore(PgStore, MemoryStore)': cached(postgres({ cache: false }), () => new MemoryStore()),
  'CachedStore(PgStore with its cache, MemoryStore)': cached(postgres({}), () => new MemoryStore()),
  'CachedStore(MemoryStore, MemoryStore)': cached(memory, () => new MemoryStore()),
  'CachedStore(CachedStore(MemoryStore, MemoryStore), MemoryStore)': cached(
    cached(memory, () => new MemoryStore()),
    () => new MemoryStore(),
  ),
}

let redis: Promise<RedisServer | undefined> | undefined
let databases = 0

/** A store with koa-redis in front of it: one server, and a Redis database for each store. */
const withRedisCache =
  (makeStore: MakeStore): MakeStore =>
  async (options) => {
    redis ??= startRedis()
    const url = (await redis)?.url(databases++) ?? ''
    const cache = new RedisStore({ url })
    const created = await cached(makeStore, () => cache)(options)
    return { ...created, close: () => Promise.all([created.close?.(), cache.quit()]) }
  }

const storesWithRedis: Record<string, MakeStore> = {
  'CachedStore(PgStore, koa-redis)': withRedisCache(postgres({ cache: false })),
  'CachedStore(CachedStore(PgStore, koa-redis), MemoryStore)': cached(
    withRedisCache(postgres({ cache: false })),
    () => new MemoryStore(),
  ),
}

describe('every store', () => {
  const passed = new Map<string, number>()
  const withRedis = hasRedis()

  for (const [name, makeStore] of Object.entries({ ...stores, ...(withRedis && storesWithRedis) }))
    contract(name, makeStore)

  afterEach(function () {
    const name = this.currentTest?.parent?.title.replace(/^.* kept by /, '') ?? ''
    if (this.currentTest?.state === 'passed') passed.set(name, (passed.get(name) ?? 0) + 1)
  })

  after(async () => {
    await (await redis)?.stop()
    console.log('\n    Contract tests passed by each store:')
    for (const [name, count] of passed) console.log(`      ${String(count).padStart(3)}  ${name}`)
    if (withRedis) return
    for (const name of Object.keys(storesWithRedis))
      console.log(`        -  ${name}: skipped, no redis-server found`)
  })
})
