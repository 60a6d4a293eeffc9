// The requests beside a sweep, in a process of their own: gets and sets of live sessions, and how long each took.
import { setTimeout as sleep } from 'node:timers/promises'
import { PgStore } from '../../lib/index.js'
import { session } from '../support/sessions.js'

/** Latencies in ms since the last question. */
export interface Latencies {
  readonly get: number[]
  readonly set: number[]
}

const [url = '', count = '1'] = process.argv.slice(2)
const callers = 16
const store = new PgStore(url, { cache: false, create: false, touch: { interval: 0 } })
let took: Latencies = { get: [], set: [] }
let running = true
process.on('message', (word) => {
  if (word === 'stop') running = false
  process.send?.(took)
  took = { get: [], set: [] }
})

async function caller(): Promise<void> {
  for (let n = 0; running; n++) {
    const sid = `live-${Math.floor(Math.random() * Number(count))}`
    const isSet = n % 4 === 3
    const start = performance.now()
    await (isSet ? store.set(sid, session()) : store.get(sid))
    took[isSet ? 'set' : 'get'].push(performance.now() - start)
    await sleep(Math.random() * 10)
  }
}

await store.setup()
await Promise.all(Array.from({ length: callers }, caller))
await store.close()
process.disconnect?.()
