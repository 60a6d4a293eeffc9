// The history checker as a command: npm run history -- --seconds 60 --seed 7 --processes 4 --staleness 400 --trouble
// Only changes, at full speed, from 64 callers in each of two processes on 50 keys: npm run history -- --changes
// With rows and the table locked, the server's time limits set, and three times as many callers: npm run history -- --locks
// With each flush of the log delayed by up to 60 ms: npm run history -- --flush-delay 60
// With a queue of notifications that is full again and again (PostgreSQL 17): npm run history -- --full-queue
// With notifications that arrive 2 s late: npm run history -- --listen-delay 2000 --staleness 5000
import { parseArgs } from 'node:util'
import { smallQueue } from '../helpers/full-queue.js'
import { ownServer } from '../helpers/server.js'
import { run } from './run.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '30' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    processes: { type: 'string' },
    callers: { type: 'string' },
    keys: { type: 'string' },
    staleness: { type: 'string', default: '400' },
    trouble: { type: 'boolean', default: false },
    locks: { type: 'boolean', default: false },
    changes: { type: 'boolean', default: false },
    'flush-delay': { type: 'string', default: '0' },
    'full-queue': { type: 'boolean', default: false },
    'listen-delay': { type: 'string', default: '0' },
  },
})
const { seconds, seed, staleness, trouble, locks, changes } = values
const { processes, callers, keys } = {
  ...(locks
    ? { processes: 3, callers: 192, keys: 100 }
    : changes
      ? { processes: 2, callers: 64, keys: 50 }
      : { processes: 4, callers: 4, keys: 30 }),
  ...values,
}
const options = {
  seconds: Number(seconds),
  seed: Number(seed),
  processes: Number(processes),
  callers: Number(callers),
  keys: Number(keys),
  maxStaleness: Number(staleness),
  trouble,
  locks,
  changes,
  flushDelayMs: Number(values['flush-delay']),
  fullQueue: values['full-queue'],
  listenDelayMs: Number(values['listen-delay']),
}
console.log(JSON.stringify(options))
const server = await ownServer({ max_connections: '200', ...(values['full-queue'] && smallQueue) })
const { faults, errors, ...outcome } = await run({ url: server.url, ...options })
console.log(JSON.stringify({ ...outcome, errors: errors.length }))
for (const error of new Set(errors.slice(0, 10))) console.log(error)
for (const { what, events } of faults.slice(0, 10)) console.log(what, JSON.stringify(events))
console.log(`${faults.length} faults`)
await server.stop()
// With --trouble and --locks, calls may fail, and with a full queue those that bypass the store.
const failed = errors.filter((error) => !values['full-queue'] || error.startsWith('DatabaseError'))
const hasFailed =
  faults.length > 0 ||
  (failed.length > 0 && !trouble && !locks) ||
  outcome.deadlocks?.[1] !== outcome.deadlocks?.[0]
process.exitCode = hasFailed ? 1 : 0
