// PgStore's options: their defaults, their validation, and the frozen settings made of them.
import { readCodec } from '../codec/codec.js'
import { maxTtl } from '../session/ttl.js'
import { defaultUserId } from '../session/user-id.js'
import type { CleanupOptions, PgStoreOptions } from '../types/options.js'
import type { CacheSettings, CleanupSettings, Settings } from '../types/settings.js'
import { cronProblem, isTimeZone } from '../util/schedule.js'
import {
  assertBoolean,
  assertDuration,
  assertIdentifier,
  assertInteger,
  invalidType,
  outOfRange,
  withDefaults,
} from '../util/validate.js'

export const cacheDefaults: CacheSettings = {
  max: 10_000,
  maxBytes: 64 * 1024 * 1024,
  ttl: 60_000,
  propagate: 'invalidate',
  maxStaleness: 5_000,
  worksWithoutListener: false,
}

const touchDefaults = { interval: 60_000, batchSize: 5_000 }

const cronForm = "a cron expression such as '*/15 * * * *', false or an object"

const cleanupDefaults = {
  cron: '*/15 * * * *' as string | false,
  timezone: undefined as string | undefined,
  batchSize: 5_000,
  grace: 0,
  onExpired: undefined as CleanupOptions['onExpired'],
}

/** The names of all options are its keys. */
export const defaults = {
  schema: 'public',
  table: 'session',
  create: true,
  ttl: 24 * 60 * 60 * 1000,
  maxLifetime: undefined,
  idleTimeout: undefined,
  touch: touchDefaults,
  concurrency: 'merge',
  userId: defaultUserId,
  device: undefined,
  maxSessionsPerUser: undefined,
  maxBytes: 1024 * 1024,
  maxAttributeBytes: undefined,
  hashIds: true,
  cache: cacheDefaults,
  listen: undefined,
  prepare: true,
  codec: undefined,
  cleanup: undefined,
  cleanupTime: undefined,
}

/** Durations that are common in seconds, and unlikely in ms: half an hour to 30 days. */
const commonSeconds = [1_800, 3_600, 7_200, 43_200, 86_400, 604_800, 1_209_600, 2_592_000]

/** A shorter ttl was probably meant in seconds. */
const minPlausibleTtlMs = 1_000

/** Returns remarks on options that are valid but were probably meant differently. */
export function optionHints({ ttl, schema, table }: Settings): string[] {
  const hints: string[] = []
  if (ttl < minPlausibleTtlMs || commonSeconds.includes(ttl))
    hints.push(
      `option "ttl" is ${ttl} ms, and durations are in milliseconds. If ${ttl} seconds were meant, write ttl: ${ttl} * 1000`,
    )
  const [before, after] = table.split('.')
  if (before && after)
    hints.push(
      `option "table" is ${JSON.stringify(table)}: a name with a dot, in the schema ${JSON.stringify(schema)}. If the schema` +
        ` ${JSON.stringify(before)} was meant, write { schema: '${before}', table: '${after}' }`,
    )
  return hints
}

/** Returns the settings for the user's options. Throws a `TypeError` or `RangeError` that names the option. */
export function readOptions(options: PgStoreOptions = {}): Settings {
  const { cleanupTime: _, ...given } = withDefaults<object>('options', defaults, options) as Settings & {
    cleanupTime: unknown
  }
  const settings: Settings = {
    ...given,
    cleanup: readCleanup(options),
    cache: readCache(options),
    codec: options.codec === undefined ? undefined : readCodec(options.codec),
    touch: readTouch(options),
  }
  assertIdentifier('schema', settings.schema)
  assertIdentifier('table', settings.table)
  assertBoolean('create', settings.create)
  assertBoolean('hashIds', settings.hashIds)
  assertBoolean('prepare', settings.prepare)
  assertDuration('ttl', settings.ttl)
  for (const name of ['maxLifetime', 'idleTimeout'] as const) {
    const limit = settings[name]
    if (limit === undefined) continue
    assertDuration(name, limit)
    if (limit > maxTtl) outOfRange(name, 'at most 100 years', limit)
  }
  assertInteger('maxBytes', settings.maxBytes, 'bytes', 2)
  if (settings.maxAttributeBytes !== undefined)
    assertInteger('maxAttributeBytes', settings.maxAttributeBytes, 'bytes', 1)
  if (settings.maxSessionsPerUser !== undefined)
    assertInteger('maxSessionsPerUser', settings.maxSessionsPerUser, 'sessions', 1)
  if (!['merge', 'last-write', 'reject'].includes(settings.concurrency))
    invalidType('concurrency', "'merge', 'last-write' or 'reject'", settings.concurrency)
  if (typeof settings.userId !== 'function') invalidType('userId', 'a function', settings.userId)
  if (settings.device !== undefined && typeof settings.device !== 'function')
    invalidType('device', 'a function', settings.device)
  return Object.freeze(settings)
}

function readTouch({ touch = {} }: PgStoreOptions): Settings['touch'] {
  const settings = withDefaults('touch', touchDefaults, touch)
  if (settings.interval !== 0) assertDuration('touch.interval', settings.interval)
  if (settings.interval > 86_400_000) outOfRange('touch.interval', 'at most a day', settings.interval)
  assertInteger('touch.batchSize', settings.batchSize, 'sessions', 1)
  return Object.freeze(settings)
}

function readCleanup({ cleanup = {}, cleanupTime }: PgStoreOptions): CleanupSettings {
  if (typeof cleanup !== 'string' && cleanup !== false && (typeof cleanup !== 'object' || cleanup === null))
    invalidType('cleanup', cronForm, cleanup)
  const isCron = typeof cleanup !== 'object'
  // Who says when to sweep means it. By default a database without requests isn't woken, so that it can sleep.
  const skipsWhenUnused = !isCron && cleanup.cron === undefined
  const { cron, ...settings } = withDefaults('cleanup', cleanupDefaults, isCron ? { cron: cleanup } : cleanup)
  const name = isCron ? 'cleanup' : 'cleanup.cron'
  if (typeof cron !== 'string' && cron !== false) invalidType(name, cronForm, cron)
  const problem = cron === false ? undefined : cronProblem(cron)
  if (problem !== undefined)
    outOfRange(name, "a cron expression such as '*/15 * * * *'", cron, ` (${problem})`)
  if (settings.timezone !== undefined) {
    if (typeof settings.timezone !== 'string') invalidType('cleanup.timezone', 'a string', settings.timezone)
    if (!isTimeZone(settings.timezone))
      outOfRange('cleanup.timezone', "a time zone such as 'Europe/Berlin'", settings.timezone)
  }
  assertInteger('cleanup.batchSize', settings.batchSize, 'sessions', 1)
  if (settings.grace !== 0) assertDuration('cleanup.grace', settings.grace)
  if (settings.grace > maxTtl) outOfRange('cleanup.grace', 'at most 100 years', settings.grace)
  if (settings.onExpired !== undefined && typeof settings.onExpired !== 'function')
    invalidType('cleanup.onExpired', 'a function', settings.onExpired)
  if (cleanupTime === undefined)
    return Object.freeze({ ...settings, cron: cron || undefined, intervalMs: undefined, skipsWhenUnused })
  assertDuration('cleanupTime', cleanupTime)
  // The longest delay of Node's timers.
  if (cleanupTime >= 2 ** 31) outOfRange('cleanupTime', 'less than 2,147,483,648 ms (24 days)', cleanupTime)
  if (isCron || cleanup.cron !== undefined)
    throw new TypeError('options "cleanup" and "cleanupTime" both set when to sweep; use only one')
  return Object.freeze({ ...settings, cron: undefined, intervalMs: cleanupTime, skipsWhenUnused: false })
}

function readCache({ cache = {} }: PgStoreOptions): CacheSettings | false {
  if (cache === false) return false
  const { worksWithoutListener: _, ...publicDefaults } = cacheDefaults
  const settings = {
    ...withDefaults('cache', publicDefaults, cache),
    worksWithoutListener: cache?.ttl !== undefined,
  }
  assertInteger('cache.max', settings.max, 'sessions', 1)
  assertInteger('cache.maxBytes', settings.maxBytes, 'bytes', 1)
  if (settings.ttl !== 0) assertDuration('cache.ttl', settings.ttl)
  assertDuration('cache.maxStaleness', settings.maxStaleness)
  // Long enough for a heartbeat to return, and far below the longest delay of Node's timers.
  if (settings.maxStaleness < 100 || settings.maxStaleness > 3_600_000)
    outOfRange('cache.maxStaleness', 'between 100 ms and an hour (3,600,000)', settings.maxStaleness)
  if (settings.propagate !== 'invalidate' && settings.propagate !== 'update')
    invalidType('cache.propagate', "'invalidate' or 'update'", settings.propagate)
  return settings.ttl === 0 ? false : Object.freeze(settings)
}
