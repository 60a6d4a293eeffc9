// Another instance of the application: its cache is full, and it receives the notifications of changes.
import { fill } from '../support/sessions.js'
import { openStore } from '../support/store.js'

process.once('message', async (ids: string[]) => {
  const store = await openStore(process.argv[2] as string)
  await fill(ids, (id) => store.get(id))
  process.send?.('ready')
})
process.once('disconnect', () => process.exit())
