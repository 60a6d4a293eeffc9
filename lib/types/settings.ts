// The options of PgStore after validation, with their defaults filled in.
import type { ClientConfig } from 'pg'
import type { CleanupOptions, Codec, DeviceFunction } from './options.js'
import type { Session } from './session-store.js'

/** `PgStoreOptions` as the store uses them. */
export interface Settings {
  readonly schema: string
  readonly table: string
  readonly create: boolean
  readonly ttl: number
  readonly maxLifetime: number | undefined
  readonly idleTimeout: number | undefined
  readonly touch: { readonly interval: number; readonly batchSize: number }
  readonly concurrency: 'merge' | 'last-write' | 'reject'
  readonly userId: (session: Session) => unknown
  readonly device: DeviceFunction | undefined
  readonly maxSessionsPerUser: number | undefined
  readonly maxBytes: number
  readonly maxAttributeBytes: number | undefined
  readonly hashIds: boolean
  readonly cache: CacheSettings | false
  readonly listen: string | ClientConfig | false | undefined
  readonly prepare: boolean
  readonly codec: Codec | undefined
  readonly cleanup: CleanupSettings
}

export interface CleanupSettings extends Schedule {
  readonly batchSize: number
  readonly grace: number
  readonly onExpired: CleanupOptions['onExpired']
  /** Whether a scheduled sweep is left out if the store has not been used since the last one. */
  readonly skipsWhenUnused: boolean
}

export interface CacheSettings {
  readonly max: number
  readonly maxBytes: number
  readonly ttl: number
  readonly propagate: 'invalidate' | 'update'
  readonly maxStaleness: number
  /** The user set `ttl`, which bounds staleness even without notifications. */
  readonly worksWithoutListener: boolean
}

/** When to sweep: by `cron`, every `intervalMs`, or, with neither, only when `sweep()` is called. */
export interface Schedule {
  readonly cron: string | undefined
  readonly timezone: string | undefined
  readonly intervalMs: number | undefined
}
