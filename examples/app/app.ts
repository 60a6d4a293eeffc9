// A Koa application that keeps its sessions in PostgreSQL: its middleware, its pages, how it starts and how it stops.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import Koa, { type Context, type Next } from 'koa'
import session from 'koa-generic-session'
import { DatabaseError, PgStore, SetupError } from 'koa-pg-store'
import { contentSecurityPolicy, problemPage, signInPage, welcomePage } from './pages.js'

declare module 'koa-generic-session' {
  interface Session {
    name?: string
    visits?: number
  }
}

const maxNameLength = 50
const maxFormBytes = 10_000
const shutdownMs = 5_000

export interface AppOptions {
  /** The connection string of the database. */
  readonly databaseUrl: string
  /** Sign the cookies: the first is used, the others are still accepted. */
  readonly keys: string[]
  /** 0: any free port. */
  readonly port: number
}

export interface RunningApp {
  readonly port: number
  /** Finishes the requests in flight, then closes the store. */
  stop(): Promise<void>
}

export async function startApp({ databaseUrl, keys, port }: AppOptions): Promise<RunningApp> {
  const store = new PgStore(databaseUrl)
  store.on('warning', (error) => console.error(error.message))

  const server = createServer(createApp(store, keys).callback())
  await once(server.listen(port), 'listening')
  // Not awaited: the store tries again at its first use, and until then the pages explain the outage.
  store.setup().catch((error) => console.error(error.message))

  return {
    port: (server.address() as AddressInfo).port,
    async stop() {
      server.close()
      setTimeout(() => server.closeAllConnections(), shutdownMs).unref()
      await once(server, 'close')
      await store.close()
    },
  }
}

function createApp(store: PgStore, keys: string[]): Koa {
  const app = new Koa()
  app.keys = keys
  app.use(protect)
  app.use(explainProblems)
  app.use(refuseOtherSites)
  app.use(findRoute)
  app.use(session({ store, cookie: { sameSite: 'lax' } }))
  app.use((ctx) => ctx.state.handler(ctx))
  return app
}

async function protect(ctx: Context, next: Next): Promise<void> {
  ctx.set('Content-Security-Policy', contentSecurityPolicy)
  ctx.set('X-Content-Type-Options', 'nosniff')
  ctx.set('Referrer-Policy', 'same-origin')
  ctx.set('Cache-Control', 'no-store')
  await next()
}

async function explainProblems(ctx: Context, next: Next): Promise<void> {
  try {
    await next()
  } catch (error) {
    // The cookie must not change if the session in the database could not.
    ctx.remove('Set-Cookie')
    if (error instanceof Koa.HttpError && error.expose) {
      ctx.status = error.status
      ctx.body = problemPage(error.message)
      return
    }
    ctx.app.emit('error', error, ctx)
    const isOutage = error instanceof DatabaseError || error instanceof SetupError
    ctx.status = isOutage ? 503 : 500
    ctx.body = isOutage
      ? problemPage('Back in a moment', "Your session can't be reached at the moment. Please try again.")
      : problemPage('Something went wrong', 'It is not your fault, and it has been noted.')
  }
}

/** Browsers send the site that a form comes from in the Origin header. */
async function refuseOtherSites(ctx: Context, next: Next): Promise<void> {
  const origin = ctx.get('Origin')
  const isOther = origin && !(URL.canParse(origin) && new URL(origin).host === ctx.host)
  if (ctx.method === 'POST' && isOther) ctx.throw(403, 'The form was sent from another site')
  await next()
}

const routes = new Map([
  ['GET /', showFirstPage],
  ['POST /sign-in', signIn],
  ['POST /sign-out', signOut],
])

/** Runs before the session middleware, so that an unknown path costs no query. */
async function findRoute(ctx: Context, next: Next): Promise<void> {
  const method = ctx.method === 'HEAD' ? 'GET' : ctx.method
  ctx.state.handler = routes.get(`${method} ${ctx.path}`) ?? ctx.throw(404, 'There is no such page')
  await next()
}

async function showFirstPage(ctx: Context): Promise<void> {
  const { session } = ctx
  if (!session?.name) {
    ctx.body = signInPage()
    return
  }
  session.visits = (session.visits ?? 0) + 1
  ctx.body = welcomePage(session.name, session.visits, session)
}

async function signIn(ctx: Context): Promise<void> {
  const name = ((await readForm(ctx)).get('name') ?? '').trim()
  if (name === '' || name.length > maxNameLength) {
    ctx.status = 422
    ctx.body = signInPage(name, `Please give a name of 1 to ${maxNameLength} characters.`)
    return
  }
  // A new session id, so that an id planted before the sign-in (session fixation) is worth nothing.
  await ctx.regenerateSession()
  if (ctx.session) ctx.session.name = name
  redirectToFirstPage(ctx)
}

async function signOut(ctx: Context): Promise<void> {
  ctx.session = null
  redirectToFirstPage(ctx)
}

function redirectToFirstPage(ctx: Context): void {
  ctx.status = 303
  ctx.redirect('/')
}

async function readForm(ctx: Context): Promise<URLSearchParams> {
  if (!(ctx.request.length <= maxFormBytes)) ctx.throw(413, 'The form is too long')
  ctx.req.setEncoding('utf8')
  let text = ''
  for await (const chunk of ctx.req) text += chunk
  return new URLSearchParams(text)
}
