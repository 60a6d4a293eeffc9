// The peers that don't write to disk: clients of Redis, and a store in memory.
import { Redis } from 'ioredis'
import koaSession from 'koa-generic-session'
import RedisStore from 'koa-redis'
import { newId, ttl } from '../support/sessions.js'
import type { Adapter } from './adapter.js'

/** koa-redis depends on an older ioredis; the second connection only deletes. */
export function koaRedis(url: string): Adapter {
  const store = new RedisStore({ url })
  const created: string[] = []
  const redis = new Redis(url)
  return {
    get: (sid) => store.get(sid),
    set: (sid, session) => store.set(sid, session, ttl),
    create: (session) => {
      const sid = newId()
      created.push(sid)
      return store.set(sid, session, ttl)
    },
    destroy: (sid) => store.destroy(sid),
    deleteCreated: () => unlinkAll(redis, created),
    close: () => Promise.all([store.quit(), redis.quit()]),
  }
}

export function ioredis(url: string, enableAutoPipelining: boolean): Adapter {
  const redis = new Redis(url, { enableAutoPipelining })
  const created: string[] = []
  const set = (sid: string, session: object) => redis.set(sid, JSON.stringify(session), 'EX', ttl / 1000)
  return {
    async get(sid) {
      const text = await redis.get(sid)
      return text === null ? undefined : JSON.parse(text)
    },
    set,
    create: (session) => {
      const sid = newId()
      created.push(sid)
      return set(sid, session)
    },
    touch: (sid) => redis.expire(sid, ttl / 1000),
    deleteCreated: () => unlinkAll(redis, created),
    close: () => redis.quit(),
  }
}

export function memory(): Adapter {
  const store = new koaSession.MemoryStore()
  const created: string[] = []
  const set = (sid: string, session: object) => store.set(sid, session as koaSession.Session)
  return {
    get: (sid) => store.get(sid),
    set,
    create: (session) => {
      const sid = newId()
      created.push(sid)
      return set(sid, session)
    },
    async deleteCreated() {
      for (const sid of created.splice(0)) store.destroy(sid)
    },
    close: async () => {},
  }
}

async function unlinkAll(redis: Redis, keys: string[]): Promise<void> {
  while (keys.length > 0) await redis.unlink(...keys.splice(0, 1_000))
}
