// What `require` of the package returns: the class, whose properties are the other names. Its types are those of index.ts; a
// file of its own lets CommonJS in TypeScript use them (under `module: node16`, types of an ES module would be error TS1479).
import type * as esm from './exports.js' with { 'resolution-mode': 'import' }

const PgStore: typeof esm.PgStore & typeof esm & { default: typeof esm.PgStore } =
  require('./index.js').PgStore

interface PgStore<T extends object = esm.Session> extends esm.PgStore<T> {}

declare namespace PgStore {
  export type PgStore<T extends object = esm.Session> = esm.PgStore<T>
  export type AttributeError = esm.AttributeError
  export type CachedStore = esm.CachedStore
  export type ConflictError = esm.ConflictError
  export type DatabaseError = esm.DatabaseError
  export type DatabaseErrorCode = esm.DatabaseErrorCode
  export type DecodeError = esm.DecodeError
  export type EncodeError = esm.EncodeError
  export type FallbackStore = esm.FallbackStore
  export type FallbackStoreOptions = esm.FallbackStoreOptions
  export type MemoryStore = esm.MemoryStore
  export type SessionTooLargeError = esm.SessionTooLargeError
  export type SetupError = esm.SetupError
  export type CachedStoreOptions = esm.CachedStoreOptions
  export type CacheOptions = esm.CacheOptions
  export type CacheStats = esm.CacheStats
  export type CleanupOptions<T extends object = esm.Session> = esm.CleanupOptions<T>
  export type CallStats = esm.CallStats
  export type Codec = esm.Codec
  export type CodecContext = esm.CodecContext
  export type CompressedOptions = esm.CompressedOptions
  export type Conflict = esm.Conflict
  export type ConnectionSource = esm.ConnectionSource
  export type CreatedSession = esm.CreatedSession
  export type DestroyedSession = esm.DestroyedSession
  export type DeviceContext = esm.DeviceContext
  export type DeviceFunction = esm.DeviceFunction
  export type EncryptedOptions = esm.EncryptedOptions
  export type EncryptionKey = esm.EncryptionKey
  export type ExpiredSession<T extends object = esm.Session> = esm.ExpiredSession<T>
  export type GetOptions = esm.GetOptions
  export type Health = esm.Health
  export type MemoryStoreOptions = esm.MemoryStoreOptions
  export type PgStoreEvents<T extends object = esm.Session> = esm.PgStoreEvents<T>
  export type PgStoreOptions<T extends object = esm.Session> = esm.PgStoreOptions<T>
  export type QueryFunction = esm.QueryFunction
  export type Row = esm.Row
  export type Session = esm.Session
  export type SessionCache = esm.SessionCache
  export type SessionInfo<T extends object = esm.Session> = esm.SessionInfo<T>
  export type SessionKey<Input, Output, Missing = undefined> = esm.SessionKey<Input, Output, Missing>
  export type SessionKeyOptions = esm.SessionKeyOptions
  export type SessionKeyOptionsWithDefault<Input> = esm.SessionKeyOptionsWithDefault<Input>
  export type SessionStore = esm.SessionStore
  export type SessionWithTtl = esm.SessionWithTtl
  export type StandardSchemaV1<Input = unknown, Output = Input> = esm.StandardSchemaV1<Input, Output>
  export type Stats = esm.Stats
  export type SweepResult = esm.SweepResult
  export type Ttl = esm.Ttl
  export type Yieldable<T> = esm.Yieldable<T>
}

export = PgStore
