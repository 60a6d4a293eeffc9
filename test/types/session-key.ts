// The types of sessionKey in a user's code: no cast is needed, and no value of another type is accepted.
import { type } from 'arktype'
import * as v from 'valibot'
import * as z from 'zod'
import { type Session, type SessionKey, sessionKey } from '../../lib/index.js'
import { exact } from './exact.js'

declare const session: Session | null

// A zod schema, without a default.
const cart = sessionKey('cart', z.array(z.object({ id: z.number(), note: z.string().optional() })))
type Item = { id: number; note?: string | undefined }
exact<ReturnType<typeof cart.get>, Item[] | undefined>()
cart.set(session, [{ id: 7 }])
exact<Parameters<typeof cart.set>[1], Item[]>()
cart.update(session, (items) => {
  exact<typeof items, Item[] | undefined>()
  return [...(items ?? []), { id: 8, note: 'gift' }]
})
// @ts-expect-error an id is a number
cart.set(session, [{ id: '7' }])
// @ts-expect-error undefined is not a cart
cart.set(session, undefined)
// @ts-expect-error the cart may be undefined
cart.get(session).length
// @ts-expect-error the value that the updater returns is checked too
cart.update(session, () => [{ id: '7' }])
// @ts-expect-error a session is not a string
cart.get('session')
// @ts-expect-error the name is read-only
cart.name = 'basket'

// With a default, the value is never undefined.
const visits = sessionKey('visits', z.number(), { default: 0 })
exact<ReturnType<typeof visits.get>, number>()
exact<ReturnType<typeof visits.update>, number>()
visits.update(session, (n) => n + 1)
// @ts-expect-error the default has to match the schema
sessionKey('visits', z.number(), { default: '0' })
// @ts-expect-error a ttl is a number of milliseconds
sessionKey('visits', z.number(), { ttl: '5 min' })
// @ts-expect-error no such option
sessionKey('visits', z.number(), { maxAge: 5 })

// A schema may transform the stored value into another type.
const since = sessionKey(
  'since',
  z.iso.datetime().transform((text) => new Date(text)),
)
exact<ReturnType<typeof since.get>, Date | undefined>()
exact<Parameters<typeof since.set>[1], string>()
// @ts-expect-error the stored value is a string
since.set(session, new Date())

// Valibot and ArkType.
const theme = sessionKey('theme', v.picklist(['light', 'dark']), { default: 'light' })
exact<ReturnType<typeof theme.get>, 'light' | 'dark'>()
// @ts-expect-error no such theme
theme.set(session, 'blue')
const user = sessionKey('user', type({ id: 'number', 'name?': 'string' }))
exact<ReturnType<typeof user.get>, { id: number; name?: string } | undefined>()
// @ts-expect-error a user has an id
user.set(session, { name: 'ann' })

// Without a schema, the caller gives the type; otherwise it is unknown.
const role = sessionKey<'admin' | 'guest'>('role')
exact<typeof role, SessionKey<'admin' | 'guest', 'admin' | 'guest', undefined>>()
// @ts-expect-error no such role
role.set(session, 'king')
const count = sessionKey<number>('count', undefined, { default: 0, ttl: 5_000 })
exact<ReturnType<typeof count.get>, number>()
exact<ReturnType<ReturnType<typeof sessionKey>['get']>, unknown>()

// @ts-expect-error not a schema
sessionKey('cart', { parse: () => [] })
