// Who takes part, and how this store does: each one an adapter to the same four operations.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import type { RedisServer } from '../../test/support/redis.js'
import type { Database } from '../support/database.js'
import { fill, session } from '../support/sessions.js'
import { connectPgSimple, keyvPostgres, koaPgSession } from './postgres-peers.js'
import { ioredis, koaRedis, memory } from './redis-peers.js'

export const operations = ['get', 'set', 'create', 'touch'] as const
export type Operation = (typeof operations)[number]

export interface Adapter {
  readonly get: (sid: string) => PromiseLike<unknown> | unknown
  readonly set: (sid: string, session: object) => PromiseLike<unknown> | unknown
  readonly create: (session: object) => PromiseLike<unknown> | unknown
  /** Absent where the peer has none. */
  readonly touch?: (sid: string, session: object) => PromiseLike<unknown> | unknown
  /** Where it is shown what becomes of a sign-out. */
  readonly destroy?: (sid: string) => PromiseLike<unknown> | unknown
  /** How many gets were answered from memory, so that a run that claims hits can be checked. */
  readonly hits?: () => Promise<number>
  /** Once the sessions are there. */
  readonly begin?: (ids: readonly string[]) => Promise<void>
  /** Forgets what `create` made, where that would fill this process's memory or Redis's. */
  readonly forget?: () => Promise<void>
  readonly close: () => Promise<unknown>
}

export interface Contender extends Adapter {
  readonly name: string
  readonly kind: Kind
}

type Kind = 'koa-pg-store' | 'postgres' | 'redis' | 'memory'

interface Entry {
  readonly name: string
  readonly kind: Kind
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
    open: async (database) => ours(await database.create('uncached'), 0, { cache: false }),
  },
  { name: cached, kind: 'koa-pg-store', open: async (database) => ours(await database.create('alone'), 0) },
  {
    name: 'koa-pg-store, 1 other listens',
    kind: 'koa-pg-store',
    open: async (database) => ours(await database.create('one'), 1),
  },
  { name: cached4, kind: 'koa-pg-store', open: async (database) => ours(await database.create('four'), 4) },
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

/** Opens those whose name has one of `only` in it (all, if there is none), with a session under each id. */
export async function open(
  only: readonly string[],
  ids: readonly string[],
  database: Database,
  redis: RedisServer | undefined,
  opened: (contender: Contender) => void,
): Promise<Contender[]> {
  const contenders: Contender[] = []
  for (const { name, kind, open } of entries) {
    if (only.length > 0 && !only.some((part) => name.includes(part))) continue
    const adapter = await open(database, redis)
    if (adapter === undefined) continue
    const contender = { name, kind, ...adapter }
    opened(contender)
    contenders.push(contender)
    await fill(ids, (id) => adapter.set(id, session()))
    await adapter.begin?.(ids)
    // What is fast because it answers something else isn't compared.
    const answer = (await adapter.get(ids[0] as string)) as ReturnType<typeof session> | undefined
    if (answer?.user?.name !== session().user.name) throw new Error(`${name} doesn't answer what was saved`)
  }
  return contenders
}

async function ours(url: string, others: number, options: PgStoreOptions = {}): Promise<Adapter> {
  const store = new PgStore(url, options)
  store.on('warning', (error) => console.error(error.message))
  const trusted = options.cache === false ? undefined : once(store, 'trust')
  await store.setup()
  await trusted
  const instances: ChildProcess[] = []
  return {
    get: (sid) => store.get(sid),
    set: (sid, session) => store.set(sid, session),
    create: (session) => store.create(session),
    touch: (sid) => store.touch(sid),
    ...(trusted && { hits: async () => ((await store.stats()).cache || { hits: 0 }).hits }),
    async begin(ids) {
      for (let n = 0; n < others; n++)
        instances.push(fork(fileURLToPath(new URL('../workers/listener.js', import.meta.url)), [url]))
      for (const instance of instances) instance.send(ids)
      await Promise.all(instances.map((instance) => once(instance, 'message')))
    },
    async close() {
      await Promise.all(
        instances.map(async (instance) => {
          const ended = once(instance, 'exit')
          instance.disconnect()
          await ended
        }),
      )
      await store.close()
    },
  }
}
