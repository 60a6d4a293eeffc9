// Loads node-cron in a way that works in bundles of every module format.

// node-cron reads `__filename` while it loads, for tasks in files, which we don't use. A bundle in ESM format has none.
const isMissing = typeof __filename === 'undefined'
if (isMissing) Reflect.set(globalThis, '__filename', '/')
import cron = require('node-cron')
if (isMissing) Reflect.deleteProperty(globalThis, '__filename')

export = cron
