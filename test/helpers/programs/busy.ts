// A process of an application that is in use: makes calls at a steady rate until it is killed.
import { setTimeout as sleep } from 'node:timers/promises'
import { PgStore } from '../../../lib/index.js'

const [url = ''] = process.argv.slice(2)
const store = new PgStore(url)
store.on('warning', () => undefined)
process.on('disconnect', () => process.exit())
await new Promise<void>((resolve, reject) => {
  store.once('trust', resolve)
  store.setup().catch(reject)
})
process.send?.('ready')
for (let n = 0; ; n++) {
  const sid = `session ${n % 10}`
  try {
    await store.set(sid, { n })
    for (let reads = 0; reads < 10; reads++) await store.get(sid)
    if (n % 10 === 9) await store.destroy(sid)
  } catch {
    // The database is away.
  }
  await sleep(20)
}
