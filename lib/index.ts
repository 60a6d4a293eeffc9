// What the package exports, nothing else.

import { type CompressedOptions, compressed } from './codec/compressed.js'
import { type EncryptedOptions, type EncryptionKey, encrypted } from './codec/encrypted.js'
import {
  type SessionKey,
  type SessionKeyOptions,
  type SessionKeyOptionsWithDefault,
  sessionKey,
} from './session/session-key.js'
import { CachedStore, type CachedStoreOptions } from './stores/cached-store.js'
import { MemoryStore, type MemoryStoreOptions } from './stores/memory-store.js'
import { PgStore } from './stores/pg-store.js'
import {
  AttributeError,
  ConflictError,
  DatabaseError,
  DecodeError,
  EncodeError,
  SessionTooLargeError,
  SetupError,
} from './types/errors.js'
import type {
  CacheOptions,
  CleanupOptions,
  Codec,
  CodecContext,
  ConnectionSource,
  PgStoreOptions,
  QueryFunction,
  Row,
} from './types/options.js'
import type {
  CacheStats,
  Conflict,
  ExpiredSession,
  SessionInfo,
  Stats,
  SweepResult,
} from './types/results.js'
import type {
  GetOptions,
  Session,
  SessionCache,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from './types/session-store.js'
import type { StandardSchemaV1 } from './types/standard-schema.js'

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
  SessionKeyOptionsWithDefault,
  SessionStore,
  SessionWithTtl,
  StandardSchemaV1,
  Stats,
  SweepResult,
  Ttl,
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

declare module './stores/pg-store.js' {
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
      type SessionKeyOptionsWithDefault,
      type SessionStore,
      SessionTooLargeError,
      type SessionWithTtl,
      SetupError,
      type StandardSchemaV1,
      type Stats,
      type SweepResult,
      sessionKey,
      type Ttl,
      type Yieldable,
    }
  }
}
