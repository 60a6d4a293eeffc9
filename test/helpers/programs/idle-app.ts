// A Koa application in a child process that counts visits and listens to no event of its store.
import type { AddressInfo } from 'node:net'
import Koa from 'koa'
import session from 'koa-generic-session'
import { PgStore } from '../../../lib/index.js'

declare module 'koa-generic-session' {
  interface Session {
    visits?: number
  }
}

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
