// npm run bench:delay: how long after a commit another process's cache drops the session.
import { fork } from 'node:child_process'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { startPostgres } from '../../test/support/postgres/server.js'
import { median, percentile } from '../support/statistics.js'
import { openStore } from '../support/store.js'
import { nextMessage, sharedNow } from '../support/workers.js'

const [role, url = ''] = process.argv.slice(2)
const rounds = 1_000

if (role === 'listener') {
  // Reads a session until its cache drops it, and reports the time.
  const store = await openStore(url)
  process.on('message', async (sid: string) => {
    await store.get(sid)
    process.send?.('cached')
    // Waits for a turn of the event loop each time, so that notifications are received.
    while ((await store.get(sid)) !== undefined) await nextTurn()
    process.send?.(sharedNow())
  })
  process.send?.('ready')
} else {
  const server = url ? undefined : await startPostgres({ sync: true })
  const database = url || (server?.url as string)
  const store = await openStore(database)
  const other = fork(fileURLToPath(import.meta.url), ['listener', database])
  await nextMessage(other)
  const delays: number[] = []
  for (let round = 0; round < rounds; round++) {
    const sid = await store.create({ round })
    other.send(sid)
    await nextMessage(other)
    const dropped = nextMessage<number>(other)
    await store.destroy(sid)
    const acknowledgedAt = sharedNow()
    delays.push((await dropped) - acknowledgedAt)
  }
  console.log(
    `from an acknowledged destroy until another process's cache has dropped the session, ${rounds} times:`,
  )
  console.log(
    `median ${median(delays).toFixed(2)} ms, 99th percentile ${percentile(delays, 0.99).toFixed(2)} ms (below 0: before the acknowledgement)`,
  )
  other.disconnect()
  other.kill()
  await store.close()
  await server?.stop()
}
