// An application with koa-generic-session that counts visits, in a process of its own, without a listener for anything.
import type { AddressInfo } from 'node:net'
import Koa from 'koa'
import session from 'koa-generic-session'
import { PgStore } from '../../../lib/index.js'

const [url = ''] = process.argv.slice(2)
const app = new Koa()
app.silent = true
app.keys = ['test']
app.use(session({ store: new PgStore(url) }))
app.use((ctx) => {
  const visits = Number(ctx.session?.visits ?? 0) + 1
  if (ctx.session) ctx.session.visits = visits
  ctx.body = String(visits)
})
const server = app.listen(0, '127.0.0.1', () => {
  process.send?.({ port: (server.address() as AddressInfo).port })
})
