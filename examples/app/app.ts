// The Koa application: its middleware and its routes.
import { bodyParser } from '@koa/bodyparser'
import { Router } from '@koa/router'
import Koa from 'koa'
import type { PgStore } from 'koa-pg-store'
import session from 'koa-session'
import type { Announcements } from './announcements.js'
import { currentUser, passport, requireUser, signIn, signOut } from './authentication.js'
import { changeCart, showCart } from './cart.js'
import { confirmPassword, forgetConfirmation, showCodes } from './codes.js'
import type { LivePages } from './live.js'
import type { Instance } from './pages/layout.js'
import { script } from './pages/script.js'
import { signInPage } from './pages/sign-in.js'
import { explainProblems } from './problems.js'
import { recordReads } from './read-times.js'
import { refuseOtherSites, setSecurityHeaders } from './security.js'
import { sessionRoutes } from './sessions.js'

/** How long a session lasts after its last use. */
const sessionMs = 7 * 24 * 60 * 60 * 1000

export interface AppOptions {
  readonly store: PgStore
  readonly announcements: Announcements
  readonly pages: LivePages
  /** Sign the cookies: the first is used, the others are still accepted. */
  readonly keys: string[]
  /** Called for each request. */
  readonly instance: () => Instance
}

export function createApp({ store, announcements, pages, keys, instance }: AppOptions): Koa {
  const app = new Koa({ asyncLocalStorage: true })
  app.keys = keys
  recordReads(app)
  app.on('error', (error: NodeJS.ErrnoException) => {
    // A browser that leaves a page ends its connection for events.
    if (error.code !== 'ERR_STREAM_PREMATURE_CLOSE') console.error(error)
  })

  app.use((ctx, next) => {
    ctx.state.instance = instance()
    return next()
  })
  app.use(setSecurityHeaders)
  app.use(explainProblems)
  app.use(refuseOtherSites)
  app.use(serveScript)
  app.use(session({ store, sameSite: 'lax', maxAge: sessionMs, renew: true }, app))
  app.use(bodyParser({ enableTypes: ['form'], formLimit: '10kb' }))
  app.use(passport.initialize())
  app.use(passport.session())

  const router = new Router()
  const { listSessions, showAccount, signOutOne, signOutOthers } = sessionRoutes(store)
  router.get('/', (ctx) => (ctx.isAuthenticated() ? showAccount(ctx) : signInPage(ctx)))
  router.post('/sign-in', async (ctx, next) => {
    await signIn(ctx, next)
    if (ctx.isAuthenticated()) announcements.announceSignIn(store.handleOf(ctx), currentUser(ctx).id)
  })
  router.post('/sign-out', signOut)
  router.get('/sessions', requireUser, listSessions)
  router.post('/sessions/sign-out-others', requireUser, signOutOthers)
  router.post('/sessions/:handle/sign-out', requireUser, signOutOne)
  router.get('/cart', requireUser, showCart)
  router.post('/cart/:article', requireUser, changeCart)
  router.get('/codes', requireUser, showCodes)
  router.post('/codes', requireUser, confirmPassword)
  router.post('/codes/hide', requireUser, forgetConfirmation)
  router.get('/events', (ctx) =>
    pages.open(
      ctx,
      ctx.isAuthenticated() ? { handle: store.handleOf(ctx), userId: currentUser(ctx).id } : undefined,
    ),
  )
  router.post('/stop-database', requireUser, stopDatabase)
  app.use(router.routes())
  return app
}

/** Before the session middleware, as it needs no session. */
async function serveScript(ctx: Koa.Context, next: Koa.Next): Promise<void> {
  if (ctx.path !== '/live.js') return next()
  ctx.type = 'text/javascript'
  ctx.body = script
}

function stopDatabase(ctx: Koa.Context): void {
  const { stopDatabase } = ctx.state.instance as Instance
  const { seconds } = ctx.request.body as { seconds?: unknown }
  if (!stopDatabase) ctx.throw(404, "The database isn't this example's own")
  stopDatabase(Math.min(Math.max(Number(seconds) || 0, 1), 60))
  ctx.status = 303
  ctx.redirect('/')
}
