// An instance in a process of its own that sweeps every second, and says what each sweep did.
import { once } from 'node:events'
import { PgStore } from '../../lib/index.js'

const [url = '', batchSize = '5000'] = process.argv.slice(2)
const store = new PgStore(url, {
  hashIds: false,
  cleanup: { cron: '* * * * * *', batchSize: Number(batchSize) },
})
store.on('sweep', (result) => process.send?.(result))
await store.setup()
process.send?.('ready')
await once(process, 'disconnect')
await store.close()
