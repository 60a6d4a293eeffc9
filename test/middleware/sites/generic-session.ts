// Applications with koa-generic-session 2: their routes, and how they are served.
import type { EventEmitter } from 'node:events'
import type Koa from 'koa'
import session from 'koa-generic-session'
import { bodyOf, type Fixture, type Kept, type Site } from '../../helpers/fixture.js'

export type Context = Omit<Koa.Context, 'session' | 'sessionStore'> & {
  /** With the option `defer`, a promise of it. */
  session: Kept | null
  sessionId: string
  sessionStore: EventEmitter
  saveSession(): Promise<void>
}

export type Routes = Record<string, (ctx: Context) => unknown>

/** The middleware's options, with those that its types don't know. */
export type Options = Omit<session.SessionOptions, 'ttl' | 'cookie'> & {
  ttl?: number | ((session: Kept) => number | undefined)
  cookie?: { maxAge?: number | null; expires?: Date; signed?: boolean; path?: string }
}

/** The session's attributes, whether the option `defer` makes a promise of it or not. */
export async function attributes(ctx: Context): Promise<Kept> {
  return (await ctx.session) as Kept
}

const commonRoutes: Routes = {
  '/': async (ctx) => (await attributes(ctx)).name ?? 'nobody',
  '/sign-in': async (ctx) => {
    const { name } = ctx.query
    Object.assign(await attributes(ctx), { name })
  },
  '/visit': async (ctx) => {
    const kept = await attributes(ctx)
    kept.visits = (kept.visits ?? 0) + 1
    return kept.visits
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  '/idle': () => {},
}

/** An application of the common routes and those of a test. */
export function serveGenericSession(
  fixture: Fixture,
  store: object,
  options: Options = {},
  routes: Routes = {},
): Promise<Site> {
  return fixture.serve(
    () => session({ ...options, store } as session.SessionOptions),
    async (ctx) => {
      const route = { ...commonRoutes, ...routes }[ctx.path]
      if (route === undefined) return
      ctx.body = bodyOf(await route(ctx as unknown as Context))
    },
  )
}
