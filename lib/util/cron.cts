// node-cron in the form that bundles of every kind can hold.

// It asks where it is, for tasks in files, which nobody has here. In a bundle that is an ES module there is no such name.
const isMissing = typeof __filename === 'undefined'
if (isMissing) Reflect.set(globalThis, '__filename', '/')
import cron = require('node-cron')
if (isMissing) Reflect.deleteProperty(globalThis, '__filename')

export = cron
