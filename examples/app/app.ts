// An application that keeps its sessions in PostgreSQL: what it is made of, how it starts and how it stops.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import Koa, { type Context, type Next } from 'koa'
import session from 'koa-generic-session'
import { DatabaseError, PgStore, SetupError } from 'koa-pg-store'
import { startPostgres } from '../../test/support/postgres/server.js'
import { contentSecurityPolicy, problemPage, signInPage, welcomePage } from './pages.js'

declare module 'koa-generic-session' {
  interface Session {
    name?: string
    visits?: number
  }
}

const { PORT, DATABASE_URL, KEYS } = process.env
const developmentKey = 'known to everybody who has read this file'
const longestName = 50
const longestForm = 10_000

try {
  await start()
} catch (error) {
  console.error(messageOf(error))
  process.exit(1)
}

async function start(): Promise<void> {
  const port = readPort()
  const keys = readKeys()
  const postgres = DATABASE_URL ? undefined : await startPostgres()
  if (postgres) {
    console.log(`Started a PostgreSQL of its own in ${postgres.folder}; the sessions end with it.`)
    console.log(
      'To keep them, set DATABASE_URL to a PostgreSQL of yours: postgres://user:password@host/database',
    )
  }
  const store = new PgStore(DATABASE_URL || (postgres?.url ?? ''))
  store.on('warning', (error) => console.error(error.message))

  const server = createServer(application(store, keys).callback())
  try {
    await listen(port)
  } catch (error) {
    await postgres?.stop()
    throw new Error(`Can't listen on port ${port}: ${messageOf(error)}. Set PORT to another.`)
  }
  console.log(`Listening on http://localhost:${(server.address() as AddressInfo).port}`)
  // Not awaited: the store tries again at its first use, and until then the pages say what is the matter.
  store.setup().catch((error) => console.error(messageOf(error)))

  let stopping = 0
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (!stopping) stop()
      // A second one means now, unless it is npm passing on what the terminal has sent here already.
      else if (Date.now() - stopping > 1_000) process.exit(1)
    })
  }

  async function listen(port: number): Promise<void> {
    try {
      await once(server.listen(port), 'listening')
    } catch (error) {
      if (PORT || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
      console.log(`Port ${port} is taken, so it is another one. Set PORT to choose it.`)
      await once(server.listen(0), 'listening')
    }
  }

  async function stop(): Promise<void> {
    stopping = Date.now()
    server.close()
    setTimeout(() => server.closeAllConnections(), 5_000).unref()
    await once(server, 'close')
    await store.close()
    await postgres?.stop()
    process.exit()
  }
}

function application(store: PgStore, keys: string[]): Koa {
  const app = new Koa()
  app.keys = keys
  app.use(protect)
  app.use(explainProblems)
  app.use(refuseOtherSites)
  app.use(findRoute)
  app.use(session({ store, cookie: { sameSite: 'lax' } }))
  app.use((ctx) => ctx.state.answer(ctx))
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
    // What couldn't be done in the database shouldn't be done in the cookie either.
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

/** Browsers say which site a form was sent from. */
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

/** Before the session is read: what isn't there needs none. */
async function findRoute(ctx: Context, next: Next): Promise<void> {
  const method = ctx.method === 'HEAD' ? 'GET' : ctx.method
  ctx.state.answer = routes.get(`${method} ${ctx.path}`) ?? ctx.throw(404, 'There is no such page')
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
  if (name === '' || name.length > longestName) {
    ctx.status = 422
    ctx.body = signInPage(name, `Please give a name of 1 to ${longestName} characters.`)
    return
  }
  // A new id, so that nobody can have planted the one that is signed in now.
  await ctx.regenerateSession()
  if (ctx.session) ctx.session.name = name
  toFirstPage(ctx)
}

async function signOut(ctx: Context): Promise<void> {
  ctx.session = null
  toFirstPage(ctx)
}

function toFirstPage(ctx: Context): void {
  ctx.status = 303
  ctx.redirect('/')
}

async function readForm(ctx: Context): Promise<URLSearchParams> {
  if (!(ctx.request.length <= longestForm)) ctx.throw(413, 'The form is too long')
  ctx.req.setEncoding('utf8')
  let text = ''
  for await (const chunk of ctx.req) text += chunk
  return new URLSearchParams(text)
}

function readPort(): number {
  const port = PORT ? Number(PORT) : 3000
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw new Error(`PORT is ${JSON.stringify(PORT)}; it has to be a number from 0 (any free port) to 65535.`)
}

function readKeys(): string[] {
  const keys = (KEYS ?? '')
    .split(',')
    .map((key) => key.trim())
    .filter(Boolean)
  if (keys.length > 0) return keys
  if (!DATABASE_URL) return [randomBytes(32).toString('hex')]
  console.log(
    'Signing cookies with the development key. Set KEYS to secrets of your own, separated by commas.',
  )
  return [developmentKey]
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
