// The cart. Requests may change it at the same time, in any instance: no change is lost.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Context } from 'koa'
import { cartPage } from './pages/cart.js'
import { articles, maxCount } from './session-keys.js'

/** How long "Add slowly" keeps the session that it has loaded before it changes and saves it. */
const slowMs = 3_000

const changes = new Map([
  ['add', 1],
  ['add-slowly', 1],
  ['remove', -1],
])

export function showCart(ctx: Context): void {
  const { session } = ctx
  cartPage(
    ctx,
    articles.map(({ id, name, count }) => ({ id, name, count: count.get(session) })),
  )
}

export async function changeCart(ctx: Context): Promise<void> {
  const article = articles.find(({ id }) => id === ctx.params.article)
  const { change } = ctx.request.body as { change?: unknown }
  const difference = changes.get(String(change))
  if (!article || difference === undefined || !ctx.session)
    ctx.throw(404, 'There is no such article or change')
  if (change === 'add-slowly') await sleep(slowMs)
  article.count.update(ctx.session, (count) => Math.min(Math.max(count + difference, 0), maxCount))
  ctx.status = 303
  ctx.redirect('/cart')
}
