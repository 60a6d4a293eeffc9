// Headers that protect the pages, and the check that a form was sent from one of them.
import type { Context, Next } from 'koa'
import { styleDigest } from './pages/style.js'

/** Allows this application's stylesheet and script, so that markup in a name would be harmless even if it weren't escaped. */
const contentSecurityPolicy = [
  "default-src 'none'",
  `style-src 'sha256-${styleDigest}'`,
  "script-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')

export async function setSecurityHeaders(ctx: Context, next: Next): Promise<void> {
  ctx.set('Content-Security-Policy', contentSecurityPolicy)
  ctx.set('X-Content-Type-Options', 'nosniff')
  ctx.set('Referrer-Policy', 'same-origin')
  ctx.set('Cache-Control', 'no-store')
  await next()
}

/**
 * Refuses forms of other sites (CSRF), besides the cookie's `sameSite`. Browsers say in `Sec-Fetch-Site` where a request comes
 * from, or where they don't trust the connection, in `Origin`.
 */
export async function refuseOtherSites(ctx: Context, next: Next): Promise<void> {
  if (ctx.method === 'POST' && !isFromThisSite(ctx)) ctx.throw(403, 'The form was sent from another site')
  await next()
}

function isFromThisSite(ctx: Context): boolean {
  const site = ctx.get('Sec-Fetch-Site')
  if (site) return site === 'same-origin' || site === 'none'
  const origin = ctx.get('Origin')
  return !origin || (URL.canParse(origin) && new URL(origin).host === ctx.host)
}
