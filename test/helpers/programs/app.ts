// One of several processes of an application: its sessions are in a database, and some of its requests wait for others.
import { once } from 'node:events'
import Koa from 'koa'
import session from 'koa-generic-session'
import { PgStore } from '../../../lib/index.js'
import { listen } from '../http.js'

/** What it tells the process that started it. */
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

/** Where a slow request waits until somebody lets it go on. */
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

function gate(ctx: Koa.Context | Context): Gate {
  const name = String(ctx.query.gate)
  const found = gates.get(name) ?? new Gate()
  gates.set(name, found)
  return found
}

async function wait(ctx: Context): Promise<void> {
  gate(ctx).arrive()
  await gate(ctx).opened
}

const routes: Record<string, (ctx: Context) => unknown> = {
  '/': (ctx) => ctx.session?.name,
  '/sign-in': (ctx) => {
    ctx.session = { ...ctx.session, name: ctx.query.name }
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  // Each has loaded the session when it begins to wait.
  '/slow/keep': async (ctx) => {
    await wait(ctx)
    Object.assign(ctx.session ?? {}, { late: true })
  },
  '/slow/replace': async (ctx) => {
    const { name } = ctx.session ?? {}
    await wait(ctx)
    ctx.session = { name, late: true }
  },
  '/slow/force': async (ctx) => {
    await wait(ctx)
    ctx.sessionSave = true
  },
  '/slow/touch': async (ctx) => {
    await wait(ctx)
    await store.touch(prefix + ctx.sessionId, 7 * 24 * 3_600_000)
  },
  '/slow/sign-out': async (ctx) => {
    await wait(ctx)
    ctx.session = null
  },
  // Each ends the process as soon as the store says that it is done.
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
  if (ctx.path === '/gate/arrived') await gate(ctx).arrived
  else if (ctx.path === '/gate/open') gate(ctx).open()
  else return next()
  ctx.body = 'done'
})
app.use(session({ store, prefix }))
app.use(async (ctx) => {
  ctx.body = (await routes[ctx.path]?.(ctx as unknown as Context)) ?? 'nobody'
})

const served = await listen(app)
process.send?.({ url: served.url } satisfies Listening)
await once(process, 'disconnect')
await served.stop()
await store.close()
