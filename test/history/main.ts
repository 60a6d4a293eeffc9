// The history checker as a command: npm run history -- --seconds 60 --seed 7 --processes 4 --staleness 400 --trouble
import { parseArgs } from 'node:util'
import { freshDatabase, stopServer } from '../helpers/server.js'
import { run } from './run.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '30' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    processes: { type: 'string', default: '4' },
    staleness: { type: 'string', default: '400' },
    trouble: { type: 'boolean', default: false },
  },
})
const options = {
  seconds: Number(values.seconds),
  seed: Number(values.seed),
  processes: Number(values.processes),
  maxStaleness: Number(values.staleness),
  trouble: values.trouble,
}
console.log(JSON.stringify(options))
const { faults, ...outcome } = await run({ url: await freshDatabase(), ...options })
console.log(JSON.stringify(outcome))
for (const { what, events } of faults.slice(0, 10)) console.log(what, JSON.stringify(events))
console.log(`${faults.length} faults`)
await stopServer()
process.exitCode = faults.length > 0 ? 1 : 0
