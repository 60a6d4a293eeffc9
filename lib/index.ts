// What `import` and `require` of the package return.
import * as names from './exports.js'
import { PgStore } from './stores/pg-store.js'

export * from './exports.js'
export { PgStore as default, PgStore as 'module.exports' }

// `require('koa-pg-store')` returns the class. The other names are its properties, for `const { PgStore } = require(…)` and
// for what TypeScript makes of an import in a CommonJS module.
Object.assign(PgStore, names, { default: PgStore })

declare module './stores/pg-store.js' {
  namespace PgStore {
    export { PgStore, PgStore as default }
    export import AttributeError = names.AttributeError
    export import CachedStore = names.CachedStore
    export import compressed = names.compressed
    export import ConflictError = names.ConflictError
    export import DatabaseError = names.DatabaseError
    export import DecodeError = names.DecodeError
    export import EncodeError = names.EncodeError
    export import encrypted = names.encrypted
    export import MemoryStore = names.MemoryStore
    export import sessionKey = names.sessionKey
    export import SessionTooLargeError = names.SessionTooLargeError
    export import SetupError = names.SetupError
    export type CachedStoreOptions = names.CachedStoreOptions
    export type CacheOptions = names.CacheOptions
    export type CacheStats = names.CacheStats
    export type CleanupOptions = names.CleanupOptions
    export type CallStats = names.CallStats
    export type Codec = names.Codec
    export type CodecContext = names.CodecContext
    export type CompressedOptions = names.CompressedOptions
    export type Conflict = names.Conflict
    export type ConnectionSource = names.ConnectionSource
    export type CreatedSession = names.CreatedSession
    export type DestroyedSession = names.DestroyedSession
    export type DeviceContext = names.DeviceContext
    export type DeviceFunction = names.DeviceFunction
    export type EncryptedOptions = names.EncryptedOptions
    export type EncryptionKey = names.EncryptionKey
    export type ExpiredSession = names.ExpiredSession
    export type GetOptions = names.GetOptions
    export type MemoryStoreOptions = names.MemoryStoreOptions
    export type PgStoreOptions = names.PgStoreOptions
    export type QueryFunction = names.QueryFunction
    export type Row = names.Row
    export type Session = names.Session
    export type SessionCache = names.SessionCache
    export type SessionInfo = names.SessionInfo
    export type SessionKey<Input, Output, Missing = undefined> = names.SessionKey<Input, Output, Missing>
    export type SessionKeyOptions = names.SessionKeyOptions
    export type SessionKeyOptionsWithDefault<Input> = names.SessionKeyOptionsWithDefault<Input>
    export type SessionStore = names.SessionStore
    export type SessionWithTtl = names.SessionWithTtl
    export type StandardSchemaV1<Input = unknown, Output = Input> = names.StandardSchemaV1<Input, Output>
    export type Stats = names.Stats
    export type SweepResult = names.SweepResult
    export type Ttl = names.Ttl
    export type Yieldable<T> = names.Yieldable<T>
  }
}
