// Gets and sets active sessions while a sweep runs, and reports the latency of each call.
import { setTimeout as sleep } from 'node:timers/promises'
import { PgStore } from '../../lib/index.js'
import { session } from '../support/sessions.js'

/** In ms, of the calls since the last report. */
export interface Latencies {
  readonly get: number[]
  readonly set: number[]
}

const [url = '', sessionCount = '1'] = process.argv.slice(2)
const callers = 16
const maxPauseMs = 10
const store = new PgStore(url, { cache: false, create: false, touch: { interval: 0 } })
let latencies: Latencies = { get: [], set: [] }
let running = true
process.on('message', (order: 'report' | 'stop') => {
  if (order === 'stop') running = false
  process.send?.(latencies)
  latencies = { get: [], set: [] }
})

async function caller(): Promise<void> {
  for (let n = 0; running; n++) {
    const sid = `live-${Math.floor(Math.random() * Number(sessionCount))}`
    const isSet = n % 4 === 3
    const start = performance.now()
    await (isSet ? store.set(sid, session()) : store.get(sid))
    latencies[isSet ? 'set' : 'get'].push(performance.now() - start)
    await sleep(Math.random() * maxPauseMs)
  }
}

await store.setup()
await Promise.all(Array.from({ length: callers }, caller))
await store.close()
process.disconnect?.()
