// What the package exports, nothing else.
import { CachedStore, type CachedStoreOptions } from './cached-store.js'
import type { Codec, CodecContext } from './codec.js'
import { type CompressedOptions, compressed } from './compressed.js'
import { type EncryptedOptions, type EncryptionKey, encrypted } from './encrypted.js'
import {
  AttributeError,
  ConflictError,
  DatabaseError,
  DecodeError,
  EncodeError,
  SessionTooLargeError,
  SetupError,
} from './errors.js'
import { MemoryStore, type MemoryStoreOptions } from './memory-store.js'
import { type SessionKey, type SessionKeyOptions, sessionKey, type WithDefault } from './session-key.js'
import type { StandardSchemaV1 } from './standard-schema.js'
import { PgStore } from './store.js'
import type {
  CacheOptions,
  CacheStats,
  CleanupOptions,
  Conflict,
  ConnectionSource,
  ExpiredSession,
  GetOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  SessionCache,
  SessionInfo,
  SessionStore,
  SessionWithTtl,
  Stats,
  SweepResult,
  Ttl,
  Yieldable,
} from './types.js'

export type {
  CachedStoreOptions,
  CacheOptions,
  CacheStats,
  CleanupOptions,
  Codec,
  CodecContext,
  CompressedOptions,
  Conflict,
  ConnectionSource,
  EncryptedOptions,
  EncryptionKey,
  ExpiredSession,
  GetOptions,
  MemoryStoreOptions,
  PgStoreOptions,
  QueryFunction,
  Row,
  Session,
  SessionCache,
  SessionInfo,
  SessionKey,
  SessionKeyOptions,
  SessionStore,
  SessionWithTtl,
  StandardSchemaV1,
  Stats,
  SweepResult,
  Ttl,
  WithDefault,
  Yieldable,
}
export {
  AttributeError,
  CachedStore,
  ConflictError,
  compressed,
  DatabaseError,
  DecodeError,
  EncodeError,
  encrypted,
  MemoryStore,
  PgStore,
  PgStore as default,
  SessionTooLargeError,
  SetupError,
  sessionKey,
}

// `require('koa-pg-store')` answers the class itself. The other exports are properties of it, for `const { PgStore } =
// require(…)` and for what TypeScript makes of an import in a CommonJS module.
Object.assign(PgStore, {
  PgStore,
  default: PgStore,
  ConflictError,
  DatabaseError,
  SessionTooLargeError,
  SetupError,
  AttributeError,
  CachedStore,
  compressed,
  DecodeError,
  EncodeError,
  encrypted,
  MemoryStore,
  sessionKey,
})

export { PgStore as 'module.exports' }

declare module './store.js' {
  namespace PgStore {
    export {
      AttributeError,
      CachedStore,
      type CachedStoreOptions,
      type CacheOptions,
      type CacheStats,
      type CleanupOptions,
      type Codec,
      type CodecContext,
      type CompressedOptions,
      type Conflict,
      ConflictError,
      type ConnectionSource,
      compressed,
      DatabaseError,
      DecodeError,
      EncodeError,
      type EncryptedOptions,
      type EncryptionKey,
      type ExpiredSession,
      encrypted,
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
      type SessionInfo,
      type SessionKey,
      type SessionKeyOptions,
      type SessionStore,
      SessionTooLargeError,
      type SessionWithTtl,
      SetupError,
      type StandardSchemaV1,
      type Stats,
      type SweepResult,
      sessionKey,
      type Ttl,
      type WithDefault,
      type Yieldable,
    }
  }
}
