// The sessions of the bench: 10,000 that exist, of 400 bytes each.
import { randomBytes } from 'node:crypto'

export const ttl = 86_400_000

const attributes = {
  cookie: { httpOnly: true, path: '/', overwrite: true, signed: false, maxAge: ttl },
  user: { id: 'u-123456', name: 'Ann Example', email: 'ann@example.com', roles: ['admin', 'editor'] },
  cart: [
    { sku: 'A-100', n: 1 },
    { sku: 'B-200', n: 3 },
  ],
  csrf: 'Zk3v9Qm1x7T0b2N5c8L4',
  locale: 'en-GB',
  lastPage: '/products/42?ref=mail',
  padding: '',
}
const length = JSON.stringify({ ...attributes, visits: 1_000_000 }).length
attributes.padding = 'x'.repeat(Math.max(0, 400 - length))

let changes = 1_000_000

/** A session that differs from every one before: no store may take it for unchanged. */
export function session(): typeof attributes & { visits: number } {
  return { ...attributes, visits: changes++ }
}

export function newId(): string {
  return randomBytes(24).toString('base64url')
}

export function newIds(count = 10_000): string[] {
  return Array.from({ length: count }, newId)
}

/** All ids in turn, neighbours far apart: 256 callers never ask for the same one at once. */
export function turns(ids: readonly string[]): () => string {
  let n = 0
  return () => {
    n = (n + 7919) % ids.length
    return ids[n] as string
  }
}

/** Saves a session under each id, 256 at a time. */
export async function fill(
  ids: readonly string[],
  save: (id: string) => PromiseLike<unknown> | unknown,
): Promise<void> {
  for (let n = 0; n < ids.length; n += 256) await Promise.all(ids.slice(n, n + 256).map(save))
}
