// Finds the id of a request's session in Koa's context, as koa-generic-session and koa-session keep it there. Pure.
import { assertSessionId } from './session-id.js'

/** What the middlewares add to a context, as far as it is needed here. */
interface ContextWithSession {
  readonly sessionId?: unknown
  readonly sessionStore?: { readonly options?: { readonly prefix?: unknown } }
  readonly session?: { readonly externalKey?: unknown } | null
}

/**
 * Returns the id under which the store has a session: the given id itself, or that of the request with this context.
 *
 * @throws {TypeError} for a context without a session, and for anything else that names none. The message begins with `name`.
 */
export function toSessionId(session: unknown, name: string): string {
  if (typeof session === 'object' && session !== null) {
    const sid = sessionIdOf(session)
    if (sid !== undefined) return sid
    throw new TypeError(
      `${name} must be a session id or a Koa context with a session; received an object without one. With koa-generic-session's "defer", await ctx.session first`,
    )
  }
  if (typeof session === 'string') assertSessionId(session)
  else throw new TypeError(`${name} must be a session id or a Koa context; received ${kindOf(session)}`)
  return session
}

function sessionIdOf(context: ContextWithSession): string | undefined {
  // koa-generic-session. With its option "defer", reading `session` would load the session: so `sessionStore` is read first.
  const { sessionId, sessionStore } = context
  if (typeof sessionStore === 'object' && sessionStore !== null) {
    const prefix = sessionStore.options?.prefix
    return typeof sessionId === 'string'
      ? `${typeof prefix === 'string' ? prefix : ''}${sessionId}`
      : undefined
  }
  // koa-session: the key has its prefix already.
  const externalKey = context.session?.externalKey
  return typeof externalKey === 'string' ? externalKey : undefined
}

function kindOf(value: unknown): string {
  return value === null ? 'null' : typeof value
}
