// What the package exports, nothing else.
import { DatabaseError, SessionTooLargeError, SetupError } from './errors.js'
import { PgStore } from './store.js'
import type {
  CacheOptions,
  CacheStats,
  CleanupOptions,
  ConnectionSource,
  ExpiredSession,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  Stats,
  SweepResult,
  Ttl,
  Yieldable,
} from './types.js'

export type {
  CacheOptions,
  CacheStats,
  CleanupOptions,
  ConnectionSource,
  ExpiredSession,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  Stats,
  SweepResult,
  Ttl,
  Yieldable,
}
export { DatabaseError, PgStore, PgStore as default, SessionTooLargeError, SetupError }

// `require('koa-pg-store')` answers the class itself. The other exports are properties of it, for `const { PgStore } =
// require(…)` and for what TypeScript makes of an import in a CommonJS module.
Object.assign(PgStore, { PgStore, default: PgStore, DatabaseError, SessionTooLargeError, SetupError })

export { PgStore as 'module.exports' }

declare module './store.js' {
  namespace PgStore {
    export {
      type CacheOptions,
      type CacheStats,
      type CleanupOptions,
      type ConnectionSource,
      DatabaseError,
      type ExpiredSession,
      type GetOptions,
      PgStore,
      PgStore as default,
      type PgStoreOptions,
      type QueryFunction,
      type Row,
      type Session,
      SessionTooLargeError,
      SetupError,
      type Stats,
      type SweepResult,
      type Ttl,
      type Yieldable,
    }
  }
}
