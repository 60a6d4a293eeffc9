// What `import` of the package returns; the types of `require` are in require.cts.
import * as names from './exports.js'
import { PgStore } from './stores/pg-store.js'

export * from './exports.js'
export { PgStore as default, PgStore as 'module.exports' }

// `require('koa-pg-store')` returns the class. The other names are its properties, for `const { PgStore } = require(…)` and
// for what TypeScript makes of an import in a CommonJS module.
Object.assign(PgStore, names, { default: PgStore })
