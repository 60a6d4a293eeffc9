// What the package exports, nothing else.
import { DatabaseError, SessionTooLargeError, SetupError } from './errors.js'
import { PgStore } from './store.js'

export type {
  CacheOptions,
  CacheStats,
  ConnectionSource,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  Stats,
  Ttl,
  Yieldable,
} from './types.js'
export { DatabaseError, PgStore, PgStore as default, SessionTooLargeError, SetupError }

// `require('koa-pg-store')` answers the class itself. The other exports are properties of it, for `const { PgStore } =
// require(…)` and for what TypeScript makes of an import in a CommonJS module.
const required = Object.assign(PgStore, {
  PgStore,
  default: PgStore,
  DatabaseError,
  SessionTooLargeError,
  SetupError,
})

export { required as 'module.exports' }
