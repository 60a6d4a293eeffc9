// The types of stores: which one can be used as a SessionStore, and which as a SessionCache.
import type Koa from 'koa'
import type RedisStore from 'koa-redis'
import koaSession from 'koa-session'
import {
  CachedStore,
  type DestroyedSession,
  FallbackStore,
  type MemoryStore,
  PgStore,
  type Session,
  type SessionCache,
  type SessionStore,
  type SessionWithTtl,
} from '../../lib/index.js'
import { exact } from './exact.js'

declare const memory: MemoryStore
declare const redis: RedisStore
declare const app: Koa

export async function stores(): Promise<void> {
  const pg = new PgStore('postgres://localhost/app')
  for (const store of [
    pg,
    memory,
    new CachedStore(pg, memory),
    new FallbackStore(pg, redis),
  ] satisfies SessionStore[]) {
    const session = await store.get('sid')
    exact<typeof session, Session | undefined>()
    koaSession({ store }, app)
  }
  // @ts-expect-error koa-redis returns null for a missing session: it can be a cache, not a store
  redis satisfies SessionStore
  redis satisfies SessionCache
  new CachedStore(memory, redis)
  // @ts-expect-error a cache needs destroy
  new CachedStore(memory, { get: redis.get, set: redis.set })
  // @ts-expect-error no such option
  new CachedStore(memory, redis, { max: 5 })

  // @ts-expect-error only PgStore can take sessions over
  new FallbackStore(memory, redis)
  // @ts-expect-error a ttl is a function
  new FallbackStore(pg, redis, { ttl: 5 })

  const typed = await memory.get<{ user: string }>('sid')
  exact<typeof typed, { user: string } | undefined>()
  const withTtl = await memory.getWithTtl('sid')
  exact<typeof withTtl, SessionWithTtl | undefined>()
  new PgStore('', { device: (ctx?: Koa.Context) => ctx?.ip })
  new PgStore('', { device: (ctx) => ctx && { ip: ctx.ip, browser: ctx.get('user-agent') } })
  // @ts-expect-error the option is a function
  new PgStore('', { device: { ip: true } })
  pg.on('revoke', (ended) => exact<typeof ended, DestroyedSession>())
  const handle = pg.handleOf(app.createContext({} as never, {} as never))
  exact<typeof handle, string>()
  await pg.destroySessionsOf(7, { except: app.createContext({} as never, {} as never) })
  // @ts-expect-error a ttl is a number, 'session', null or undefined
  await memory.set('sid', {}, '1 day')
  // @ts-expect-error a session is an object
  await pg.set('sid', 'session')
}
