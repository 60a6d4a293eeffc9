// Serves applications with koa-generic-session 2, with routes that all of its tests share.
import type { EventEmitter } from 'node:events'
import type Koa from 'koa'
import genericSession, { type SessionOptions } from 'koa-generic-session'
import { type Attributes, bodyOf, type Fixture, type Site } from '../../helpers/fixture.js'

export type Context = Omit<Koa.Context, 'session' | 'sessionStore'> & {
  /** A promise of it with the option `defer`. */
  session: Attributes | null
  sessionId: string
  sessionStore: EventEmitter
  saveSession(): Promise<void>
}

export type Routes = Record<string, (ctx: Context) => unknown>

/** The middleware's options, including those that its types leave out. */
export type Options = Omit<SessionOptions, 'ttl' | 'cookie'> & {
  ttl?: number | ((session: Attributes) => number | undefined)
  cookie?: { maxAge?: number | null; expires?: Date; signed?: boolean; path?: string }
}

/** Returns the session, with or without the option `defer`. */
export async function sessionOf(ctx: Context): Promise<Attributes> {
  return (await ctx.session) as Attributes
}

const commonRoutes: Routes = {
  '/': async (ctx) => (await sessionOf(ctx)).name ?? 'anonymous',
  '/sign-in': async (ctx) => {
    const { name } = ctx.query
    Object.assign(await sessionOf(ctx), { name })
  },
  '/visit': async (ctx) => {
    const session = await sessionOf(ctx)
    session.visits = (session.visits ?? 0) + 1
    return session.visits
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  '/idle': () => {},
}

/** Serves an application with the common routes and those of a test. */
export function serveGenericSession(
  fixture: Fixture,
  store: object,
  options: Options = {},
  routes: Routes = {},
): Promise<Site> {
  return fixture.serve(
    () => genericSession({ ...options, store } as SessionOptions),
    async (ctx) => {
      const route = { ...commonRoutes, ...routes }[ctx.path]
      if (route === undefined) return
      ctx.body = bodyOf(await route(ctx as unknown as Context))
    },
  )
}
