// A Koa application in a child process. Its slow requests wait until the test opens their gate.
import { once } from 'node:events'
import Koa from 'koa'
import session from 'koa-generic-session'
import { PgStore } from '../../../lib/index.js'
import { listen } from '../http.js'

/** The message to the parent process once the application listens. */
export interface Listening {
  url: string
}

type Context = Omit<Koa.Context, 'session'> & {
  session: Record<string, unknown> | null
  saveSession(): Promise<void>
}

const [url = ''] = process.argv.slice(2)
const prefix = 'koa:sess:'
const store = new PgStore(url)

/** Where a slow request waits until the test opens it. */
class Gate {
  readonly arrived: Promise<void>
  readonly opened: Promise<void>
  arrive = () => {}
  open = () => {}

  constructor() {
    this.arrived = new Promise((resolve) => {
      this.arrive = resolve
    })
    this.opened = new Promise((resolve) => {
      this.open = resolve
    })
  }
}

const gates = new Map<string, Gate>()

function gateOf(ctx: Koa.Context | Context): Gate {
  const name = String(ctx.query.gate)
  const gate = gates.get(name) ?? new Gate()
  gates.set(name, gate)
  return gate
}

async function waitAtGate(ctx: Context): Promise<void> {
  gateOf(ctx).arrive()
  await gateOf(ctx).opened
}

const routes: Record<string, (ctx: Context) => unknown> = {
  '/': (ctx) => ctx.session?.name,
  '/sign-in': (ctx) => {
    ctx.session = { ...ctx.session, name: ctx.query.name }
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  // These load the session before they wait.
  '/slow/keep': async (ctx) => {
    await waitAtGate(ctx)
    Object.assign(ctx.session ?? {}, { late: true })
  },
  '/slow/replace': async (ctx) => {
    const { name } = ctx.session ?? {}
    await waitAtGate(ctx)
    ctx.session = { name, late: true }
  },
  '/slow/force': async (ctx) => {
    await waitAtGate(ctx)
    ctx.sessionSave = true
  },
  '/slow/touch': async (ctx) => {
    await waitAtGate(ctx)
    await store.touch(prefix + ctx.sessionId, 7 * 24 * 3_600_000)
  },
  '/slow/sign-out': async (ctx) => {
    await waitAtGate(ctx)
    ctx.session = null
  },
  // These kill the process as soon as the store has resolved.
  '/save-and-die': async (ctx) => {
    Object.assign(ctx.session ?? {}, { saved: true })
    await ctx.saveSession()
    process.kill(process.pid, 'SIGKILL')
  },
  '/sign-out-and-die': async (ctx) => {
    await store.destroy(prefix + ctx.sessionId)
    process.kill(process.pid, 'SIGKILL')
  },
}

const app = new Koa()
app.keys = ['a key that all processes share']
app.use(async (ctx, next) => {
  if (ctx.path === '/gate/arrived') await gateOf(ctx).arrived
  else if (ctx.path === '/gate/open') gateOf(ctx).open()
  else return next()
  ctx.body = 'done'
})
app.use(session({ store, prefix }))
app.use(async (ctx) => {
  ctx.body = (await routes[ctx.path]?.(ctx as unknown as Context)) ?? 'anonymous'
})

const server = await listen(app)
process.send?.({ url: server.url } satisfies Listening)
await once(process, 'disconnect')
await server.stop()
await store.close()
