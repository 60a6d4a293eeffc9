// A Koa application in a child process, under load, with either middleware: concurrent requests of one browser race.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import Koa from 'koa'
import genericSession from 'koa-generic-session'
import { createSession } from 'koa-session'
import { PgStore } from '../../../lib/index.js'
import { listen } from '../http.js'
import type { Listening } from './app.js'

type Context = Omit<Koa.Context, 'session'> & { session: Record<string, unknown> | null }

const [url = '', middleware = ''] = process.argv.slice(2)
const prefix = 'koa:sess:'
const isGeneric = middleware === 'koa-generic-session'
const store = new PgStore(url, { touch: { interval: 100 } })
// Listens from the start, since this keeps the process running.
const disconnected = once(process, 'disconnect')
await Promise.all([store.setup(), once(store, 'trust')])

/** Where slow requests wait until the test opens it. */
class Gate {
  #arrivals = 0
  readonly #waiting: { count: number; resolve: () => void }[] = []
  open = () => {}
  readonly #opened = new Promise<void>((resolve) => {
    this.open = resolve
  })

  pass(): Promise<void> {
    this.#arrivals++
    for (const { count, resolve } of this.#waiting) if (this.#arrivals >= count) resolve()
    return this.#opened
  }

  arrived(count: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#arrivals >= count) resolve()
      else this.#waiting.push({ count, resolve })
    })
  }
}

const gates = new Map<unknown, Gate>()

function gateOf({ query }: Koa.Context | Context): Gate {
  const gate = gates.get(query.gate) ?? new Gate()
  gates.set(query.gate, gate)
  return gate
}

function sid(ctx: Context): string {
  return isGeneric ? prefix + ctx.sessionId : String(ctx.cookies.get('koa.sess', { signed: true }))
}

const routes: Record<string, (ctx: Context) => unknown> = {
  '/': ({ session }) => session?.name,
  '/all': ({ session }) => JSON.stringify(session),
  '/sign-in': (ctx) => {
    Object.assign(ctx.session ?? {}, { name: 'ann' })
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  // Overlaps with the other request.
  '/add': async (ctx) => {
    await sleep(Math.random() * 5)
    Object.assign(ctx.session ?? {}, { [String(ctx.query.name)]: true })
  },
  // These load the session before they wait.
  '/slow/keep': async (ctx) => {
    await gateOf(ctx).pass()
    Object.assign(ctx.session ?? {}, { late: true })
  },
  '/slow/replace': async (ctx) => {
    await gateOf(ctx).pass()
    ctx.session = { name: 'ann', late: true }
  },
  '/slow/force': async (ctx) => {
    await gateOf(ctx).pass()
    if (isGeneric) ctx.sessionSave = true
    else await (ctx.session as { save?(): Promise<void> } | null)?.save?.()
  },
  '/slow/touch': async (ctx) => {
    await gateOf(ctx).pass()
    await store.touch(sid(ctx), 7 * 24 * 3_600_000)
  },
}

const app = new Koa()
app.keys = ['a key that all processes share']
app.use(async (ctx, next) => {
  if (ctx.path === '/gate/arrived') await gateOf(ctx).arrived(Number(ctx.query.count))
  else if (ctx.path === '/gate/open') gateOf(ctx).open()
  else if (ctx.path === '/conflicts') {
    ctx.body = String((await store.stats()).conflicts)
    return
  } else return next()
  ctx.body = 'done'
})
app.use(isGeneric ? genericSession({ store, prefix }) : createSession({ store }, app))
app.use(async (ctx) => {
  ctx.body = (await routes[ctx.path]?.(ctx as unknown as Context)) ?? 'anonymous'
})

/** Reads, saves and touches other sessions, which are batched with those of the test. */
let isStopping = false
async function generateLoad(): Promise<void> {
  const ids = await Promise.all(Array.from({ length: 20 }, () => store.create({ load: 0 })))
  for (let n = 1; !isStopping; n++) {
    await Promise.all(
      ids.map(async (id, m) => {
        if ((n + m) % 3 === 0) await store.set(id, { load: n })
        else if ((n + m) % 3 === 1) await store.touch(id, 3_600_000 + n)
        else await store.get(id, { fresh: true })
      }),
    )
    await sleep(5)
  }
}

const load = generateLoad()
const server = await listen(app)
process.send?.({ url: server.url } satisfies Listening)
await disconnected
isStopping = true
await load
await server.stop()
await store.close()
