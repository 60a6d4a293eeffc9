// An instance in a process of its own that sweeps every second, and says what each sweep did.
import { once } from 'node:events'
import { PgStore } from '../../../lib/index.js'

const [url = '', batchSize = '5000'] = process.argv.slice(2)
// A test that holds up a sweep may take its time.
const store = new PgStore(
  { connectionString: url, query_timeout: 60_000 },
  {
    hashIds: false,
    cleanup: { cron: '* * * * * *', batchSize: Number(batchSize) },
  },
)
store.on('sweep', (result) => process.send?.(result))
await store.setup()
process.send?.('ready')
await once(process, 'disconnect')
await store.close()
