// Loads node-cron synchronously: `undefined` in a bundle in ESM format, where that isn't possible.

/**
 * node-cron's CommonJS build reads `__filename` while it loads, for tasks in files, which the store doesn't have. A bundle in
 * ESM format has no `__filename`; schedule.ts imports node-cron's ESM build there, which doesn't work in CommonJS bundles.
 */
const cron: typeof import('node-cron') | undefined =
  typeof __filename === 'undefined' ? undefined : require('node-cron')

export = cron
