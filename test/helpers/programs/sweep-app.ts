// A store in a child process that sweeps every second.
import { once } from 'node:events'
import { PgStore } from '../../../lib/index.js'

const [url = '', batchSize = '5000'] = process.argv.slice(2)
// The test may hold up a sweep for longer than the default timeout.
const store = new PgStore(
  { connectionString: url, query_timeout: 60_000 },
  {
    hashIds: false,
    cleanup: { cron: '* * * * * *', batchSize: Number(batchSize) },
  },
)
await store.setup()
process.send?.('ready')
await once(process, 'disconnect')
await store.close()
