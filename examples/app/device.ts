// What lists of sessions call a browser: "Firefox on Linux".
import Bowser from 'bowser'
import type { DeviceContext } from 'koa-pg-store'

/** For the store's option `device`. koa-session passes its context; a store that is used without a request has none. */
export function deviceOf(ctx?: DeviceContext): string | undefined {
  if (!ctx) return undefined
  const { browser, os } = Bowser.parse(ctx.get('User-Agent') || 'unknown')
  return browser.name && os.name ? `${browser.name} on ${os.name}` : 'An unknown browser'
}
