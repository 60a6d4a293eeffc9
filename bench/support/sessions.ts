// The sessions that benches read and save: 10,000 of 400 bytes each.
import { randomBytes } from 'node:crypto'

/** One day, in ms. */
export const ttl = 86_400_000

const sessionBytes = 400
/** Calls at a time while sessions are saved or read before a measurement. */
const fillCallers = 256

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
attributes.padding = 'x'.repeat(Math.max(0, sessionBytes - length))

let changes = 1_000_000

/** Returns a session that differs from all before, so that no store treats it as unchanged. */
export function session(): typeof attributes & { visits: number } {
  return { ...attributes, visits: changes++ }
}

export function newId(): string {
  return randomBytes(24).toString('base64url')
}

export function newIds(count = 10_000): string[] {
  return Array.from({ length: count }, newId)
}

/** Returns a function that returns all ids in turn, in steps: concurrent callers never get the same id. */
export function turns(ids: readonly string[]): () => string {
  // A prime, so that the steps reach every id.
  const step = 7919
  let index = 0
  return () => {
    index = (index + step) % ids.length
    return ids[index] as string
  }
}

/** Calls a function for each id, several at a time. */
export async function fill(
  ids: readonly string[],
  call: (id: string) => PromiseLike<unknown> | unknown,
): Promise<void> {
  for (let n = 0; n < ids.length; n += fillCallers) await Promise.all(ids.slice(n, n + fillCallers).map(call))
}
