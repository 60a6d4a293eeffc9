// What the package exports, nothing else.
import { CachedStore, type CachedStoreOptions } from './cached-store.js'
import { DatabaseError, SessionTooLargeError, SetupError } from './errors.js'
import { MemoryStore, type MemoryStoreOptions } from './memory-store.js'
import { PgStore } from './store.js'
import type {
  CacheOptions,
  CacheStats,
  ConnectionSource,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  SessionCache,
  SessionStore,
  SessionWithTtl,
  Stats,
  Ttl,
  Yieldable,
} from './types.js'

export type {
  CachedStoreOptions,
  CacheOptions,
  CacheStats,
  ConnectionSource,
  GetOptions,
  MemoryStoreOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  SessionCache,
  SessionStore,
  SessionWithTtl,
  Stats,
  Ttl,
  Yieldable,
}
export {
  CachedStore,
  DatabaseError,
  MemoryStore,
  PgStore,
  PgStore as default,
  SessionTooLargeError,
  SetupError,
}

// `require('koa-pg-store')` answers the class itself. The other exports are properties of it, for `const { PgStore } =
// require(…)` and for what TypeScript makes of an import in a CommonJS module.
Object.assign(PgStore, {
  PgStore,
  default: PgStore,
  CachedStore,
  DatabaseError,
  MemoryStore,
  SessionTooLargeError,
  SetupError,
})

export { PgStore as 'module.exports' }

declare module './store.js' {
  namespace PgStore {
    export {
      CachedStore,
      type CachedStoreOptions,
      type CacheOptions,
      type CacheStats,
      type ConnectionSource,
      DatabaseError,
      type GetOptions,
      MemoryStore,
      type MemoryStoreOptions,
      PgStore,
      PgStore as default,
      type PgStoreOptions,
      type QueryFunction,
      type Row,
      type Session,
      type SessionCache,
      type SessionStore,
      SessionTooLargeError,
      type SessionWithTtl,
      SetupError,
      type Stats,
      type Ttl,
      type Yieldable,
    }
  }
}
