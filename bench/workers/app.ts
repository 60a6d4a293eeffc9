// A Koa application in a process of its own, with the store and the options of sessions that its arguments name.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import Koa from 'koa'
import koaSession from 'koa-generic-session'
import { PgStore } from '../../lib/index.js'
import { fill, session } from '../support/sessions.js'

const [url = '', rolling = ''] = process.argv.slice(2)

// Both from the beginning: they keep this process alive.
const order = once(process, 'message')
process.once('disconnect', () => close())
const store = url ? new PgStore(url) : undefined
if (store) await Promise.all([once(store, 'trust'), store.setup()])
const memory = new koaSession.MemoryStore()

const app = new Koa()
app.use(
  koaSession({
    // The types of the middleware know no store that answers an object of any kind.
    store: (store as koaSession.SessionStore | undefined) ?? memory,
    cookie: session().cookie,
    rolling: rolling === 'rolling',
  }),
)
app.use((context) => {
  const own = context.session as koaSession.Session & { visits: number }
  if (context.path === '/change') own.visits++
  context.body = { visits: own.visits }
})
const server = createServer(app.callback()).listen(0, '127.0.0.1')
await once(server, 'listening')

async function close(): Promise<void> {
  server.close()
  server.closeAllConnections()
  await store?.close()
  process.exit()
}

const [ids] = (await order) as [string[]]
// Under the prefix that the middleware puts before ids.
await fill(ids, (id) => (store ?? memory).set(`koa:sess:${id}`, session()))
process.send?.(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
