// How long after a commit another process's cache is clean. npm run bench:delay
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { PgStore } from '../../lib/index.js'
import { startPostgres } from '../../test/support/postgres/server.js'

const now = (): number => Number(process.hrtime.bigint()) / 1e6
const [role, url = ''] = process.argv.slice(2)
const rounds = 1_000

if (role === 'listener') {
  // The other process: reads until what was destroyed is gone from its memory, and says when that was.
  const store = new PgStore(url)
  await new Promise<void>((resolve) => {
    store.once('trust', resolve)
    void store.setup()
  })
  process.on('message', async (sid: string) => {
    await store.get(sid)
    process.send?.('cached')
    // One turn of the event loop each: what has arrived is heard.
    while ((await store.get(sid)) !== undefined) await new Promise((resolve) => setImmediate(resolve))
    process.send?.(now())
  })
  process.send?.('ready')
} else {
  const server = url ? undefined : await startPostgres({ sync: true })
  const database = url || (server?.url as string)
  const store = new PgStore(database)
  await store.setup()
  const other = fork(fileURLToPath(import.meta.url), ['listener', database])
  const next = () => new Promise<unknown>((resolve) => other.once('message', resolve))
  await next()
  const delays: number[] = []
  for (let round = 0; round < rounds; round++) {
    const sid = await store.create({ round })
    other.send(sid)
    await next()
    const clean = next()
    await store.destroy(sid)
    const committed = now()
    delays.push(((await clean) as number) - committed)
  }
  delays.sort((a, b) => a - b)
  const at = (share: number): string => (delays[Math.floor(delays.length * share)] as number).toFixed(2)
  console.log(`from the acknowledged destroy to the other process's clean cache, ${rounds} times:`)
  console.log(
    `median ${at(0.5)} ms, 99th percentile ${at(0.99)} ms (below 0: clean before the acknowledgement)`,
  )
  other.disconnect()
  other.kill()
  await store.close()
  await server?.stop()
}
