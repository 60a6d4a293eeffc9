// Another instance of the application, in a process of its own: its cache is full, and it hears what the others change.
import { PgStore } from '../../lib/index.js'
import { fill } from '../support/sessions.js'

const store = new PgStore(process.argv[2] as string)
process.once('message', async (ids: string[]) => {
  await Promise.all([new Promise<void>((resolve) => store.once('trust', resolve)), store.setup()])
  await fill(ids, (id) => store.get(id))
  process.send?.('listens')
})
process.once('disconnect', () => process.exit())
