// What the sessions hold besides the user, whose name is koa-passport's `session.passport.user`.
import { sessionKey } from 'koa-pg-store'
import * as z from 'zod'

export const confirmationMs = 60_000

/** When the user last gave the password, as ISO 8601. The attribute expires by itself, long before the session. */
export const confirmedAt = sessionKey('confirmedAt', z.iso.datetime(), { ttl: confirmationMs })

export const maxCount = 99
const count = z.number().int().min(0).max(maxCount)

/** An attribute for each article. The store merges concurrent changes of different attributes, so a cart loses none. */
export const articles = [
  { id: 'tea', name: 'Green tea', count: sessionKey('cart:tea', count, { default: 0 }) },
  { id: 'cup', name: 'Porcelain cup', count: sessionKey('cart:cup', count, { default: 0 }) },
  { id: 'cake', name: 'Lemon cake', count: sessionKey('cart:cake', count, { default: 0 }) },
]
