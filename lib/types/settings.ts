// The options once they are checked and have their defaults.
import type { ClientConfig } from 'pg'
import type { CleanupOptions, Codec } from './options.js'
import type { Session } from './session-store.js'

/** The options as the store uses them. */
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
}

export interface CacheSettings {
  readonly max: number
  readonly maxBytes: number
  readonly ttl: number
  readonly propagate: 'invalidate' | 'update'
  readonly maxStaleness: number
  /** The user set a `ttl`, and so a bound on staleness that holds without notifications. */
  readonly worksWithoutListener: boolean
}

/** When to sweep. `cron` or `every`, or neither: not by itself. */
export interface Schedule {
  readonly cron: string | undefined
  readonly timezone: string | undefined
  /** Milliseconds. */
  readonly intervalMs: number | undefined
}
