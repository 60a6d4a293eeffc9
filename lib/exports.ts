// The public names of the package.
export { type CompressedOptions, compressed } from './codec/compressed.js'
export { decodeOnly } from './codec/decode-only.js'
export { type EncryptedOptions, type EncryptionKey, encrypted } from './codec/encrypted.js'
export {
  type SessionKey,
  type SessionKeyOptions,
  type SessionKeyOptionsWithDefault,
  sessionKey,
} from './session/session-key.js'
export { CachedStore, type CachedStoreOptions } from './stores/cached-store.js'
export type { PgStoreEvents } from './stores/events.js'
export { FallbackStore, type FallbackStoreOptions } from './stores/fallback-store.js'
export { MemoryStore, type MemoryStoreOptions } from './stores/memory-store.js'
export { PgStore } from './stores/pg-store.js'
export {
  AttributeError,
  ConflictError,
  DatabaseError,
  type DatabaseErrorCode,
  DecodeError,
  EncodeError,
  SessionTooLargeError,
  SetupError,
} from './types/errors.js'
export type {
  CacheOptions,
  CleanupOptions,
  Codec,
  CodecContext,
  ConnectionSource,
  DeviceContext,
  DeviceFunction,
  PgStoreOptions,
  QueryFunction,
  Row,
} from './types/options.js'
export type {
  CacheStats,
  CallStats,
  Conflict,
  CreatedSession,
  DestroyedSession,
  ExpiredSession,
  Health,
  SessionInfo,
  Stats,
  SweepResult,
} from './types/results.js'
export type {
  GetOptions,
  Session,
  SessionCache,
  SessionStore,
  SessionWithTtl,
  Ttl,
  Yieldable,
} from './types/session-store.js'
export type { StandardSchemaV1 } from './types/standard-schema.js'
