// A program for other runtimes than Node.js: uses the store, and an application with it. Prints what it saw, as JSON.
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import Koa from 'koa'
import genericSession from 'koa-generic-session'
import koaSession from 'koa-session'
import { compressed, encrypted, PgStore } from '../../../lib/index.js'
import { sql } from '../server.js'

const url = process.argv[2] ?? ''
const seen: Record<string, unknown> = {}

// The store doesn't keep the process running.
const alive = setInterval(() => undefined, 1_000)
const store = new PgStore(url, {
  cleanup: '* * * * * *',
  codec: [compressed(), encrypted({ keys: [{ id: '1', key: Buffer.alloc(32, 7) }] })],
})
const warnings: string[] = []
store.on('warning', ({ message }) => warnings.push(message))
const trusted = once(store, 'trust')
const swept = once(store, 'sweep')
await store.setup()
await trusted

const sid = await store.create({ user: { id: 'ann' }, note: 'x'.repeat(2_000) })
seen.isRead = ((await store.get(sid)) as { note?: string } | undefined)?.note?.length === 2_000
await store.touch(sid)
seen.devices = (await store.sessionsOf('ann')).length
let listed = 0
for await (const _ of store.sessions()) listed++
seen.listed = listed

// Another connection changes the row: the cache hears of it by a notification.
await sql(url, 'update session set session = null')
const deadline = performance.now() + 20_000
while ((await store.get(sid)) !== undefined && performance.now() < deadline)
  await new Promise((resolve) => setTimeout(resolve, 10))
seen.isInvalidated = (await store.get(sid)) === undefined
const [result] = (await swept) as [{ batches: number }]
seen.hasSwept = result.batches >= 0

for (const [name, use] of [
  ['koa-generic-session', (app: Koa) => app.use(genericSession({ store }))],
  ['koa-session', (app: Koa) => app.use(koaSession({ store }, app))],
] as const) {
  const app = new Koa()
  app.keys = ['a key']
  use(app)
  app.use((ctx) => {
    const session = ctx.session as unknown as { visits?: number }
    session.visits = (session.visits ?? 0) + 1
    ctx.body = `Visit ${session.visits}`
  })
  const server = app.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const site = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const first = await fetch(site)
  const cookie = first.headers
    .getSetCookie()
    .map((line) => line.split(';')[0])
    .join('; ')
  const second = await fetch(site, { headers: { cookie } })
  seen[name] = [await first.text(), await second.text()]
  server.close()
  server.closeAllConnections()
}

seen.calls = (await store.stats()).calls.set.count > 0
await store.destroy(sid)
await store.close()
clearInterval(alive)
seen.warnings = warnings
console.log(JSON.stringify(seen))
