// A Koa application whose arguments name its database (none: a MemoryStore) and whether its sessions are rolling.
import { once } from 'node:events'
import Koa from 'koa'
import koaSession from 'koa-generic-session'
import { listen } from '../../test/helpers/http.js'
import { fill, session } from '../support/sessions.js'
import { openStore } from '../support/store.js'

/** koa-generic-session puts this before ids. */
const prefix = 'koa:sess:'

const [url = '', rolling = ''] = process.argv.slice(2)

// Both listeners from the beginning: they keep the process running.
const received = once(process, 'message')
process.once('disconnect', () => stop())
const pgStore = url ? await openStore(url) : undefined
// The middleware's types require that a store returns a koaSession.Session.
const store = (pgStore as koaSession.SessionStore | undefined) ?? new koaSession.MemoryStore()

const app = new Koa()
app.use(koaSession({ store, cookie: session().cookie, rolling: rolling === 'rolling' }))
app.use((context) => {
  const own = context.session as koaSession.Session & { visits: number }
  if (context.path === '/change') own.visits++
  context.body = { visits: own.visits }
})
const server = await listen(app)

async function stop(): Promise<void> {
  await server.stop()
  await pgStore?.close()
  process.exit()
}

const [ids] = (await received) as [string[]]
await fill(ids, (id) => store.set(`${prefix}${id}`, session()))
process.send?.(server.url)
// Any further message asks for the processor time so far, in µs.
process.on('message', () => {
  const { user, system } = process.cpuUsage()
  process.send?.(user + system)
})
