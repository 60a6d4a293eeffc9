// What the package exports, nothing else.
import { ConflictError, DatabaseError, SessionTooLargeError, SetupError } from './errors.js'
import { PgStore } from './store.js'
import type {
  CacheOptions,
  CacheStats,
  Conflict,
  ConnectionSource,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  SessionInfo,
  Stats,
  Ttl,
  Yieldable,
} from './types.js'

export type {
  CacheOptions,
  CacheStats,
  Conflict,
  ConnectionSource,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  SessionInfo,
  Stats,
  Ttl,
  Yieldable,
}
export { ConflictError, DatabaseError, PgStore, PgStore as default, SessionTooLargeError, SetupError }

// `require('koa-pg-store')` answers the class itself. The other exports are properties of it, for `const { PgStore } =
// require(…)` and for what TypeScript makes of an import in a CommonJS module.
Object.assign(PgStore, {
  PgStore,
  default: PgStore,
  ConflictError,
  DatabaseError,
  SessionTooLargeError,
  SetupError,
})

export { PgStore as 'module.exports' }

declare module './store.js' {
  namespace PgStore {
    export {
      type CacheOptions,
      type CacheStats,
      type Conflict,
      ConflictError,
      type ConnectionSource,
      DatabaseError,
      type GetOptions,
      PgStore,
      PgStore as default,
      type PgStoreOptions,
      type QueryFunction,
      type Row,
      type Session,
      type SessionInfo,
      SessionTooLargeError,
      SetupError,
      type Stats,
      type Ttl,
      type Yieldable,
    }
  }
}
