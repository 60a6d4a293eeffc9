// Serves applications with koa-session, with routes that all of its tests share.
import type Koa from 'koa'
import { type CreateSessionOptions, createSession } from 'koa-session'
import { bodyOf, type Fixture, type Site } from '../../helpers/fixture.js'

/** koa-session's session, including what its types leave out. */
interface Session {
  name?: unknown
  visits?: number
  [attribute: string]: unknown
  maxAge: number | 'session'
  readonly isNew: boolean
  readonly externalKey: string
  save(): Promise<void>
  regenerate(): Promise<void>
  manuallyCommit(): Promise<void>
}

type Context = Omit<Koa.Context, 'session'> & { session: Session | Record<string, unknown> | null }
export type Route = (ctx: Context, session: Session) => unknown

const commonRoutes: Record<string, Route> = {
  '/': (_, session) => session.name ?? 'anonymous',
  '/sign-in': (ctx, session) => {
    session.name = ctx.query.name
  },
  '/visit': (_, session) => {
    session.visits = (session.visits ?? 0) + 1
    return session.visits
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  '/idle': () => {},
}

/** Serves an application with the common routes and those of a test. */
export function serveKoaSession(
  fixture: Fixture,
  options: CreateSessionOptions,
  routes: Record<string, Route> = {},
  use: (app: Koa) => void = () => {},
): Promise<Site> {
  return fixture.serve(
    (app) => {
      use(app)
      return createSession(options, app)
    },
    async (ctx) => {
      const route = { ...commonRoutes, ...routes }[ctx.path]
      if (route === undefined) return
      ctx.body = bodyOf(await route(ctx as unknown as Context, ctx.session as unknown as Session))
    },
  )
}
