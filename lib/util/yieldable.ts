// Promises that generators can yield and delegate to.
import type { Yieldable } from '../types/session-store.js'

function* delegate<T>(this: Promise<T>): Generator<Promise<T>, T, unknown> {
  return (yield this) as T
}

/**
 * Gives a promise the iterator that `yield*` needs. The promise itself, not a subclass: `await` takes its short way for
 * native promises alone.
 */
export function yieldable<T>(promise: Promise<T>): Yieldable<T> {
  const yielding = promise as Yieldable<T>
  yielding[Symbol.iterator] = delegate
  return yielding
}
