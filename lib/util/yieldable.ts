// Makes promises that generators can yield and delegate to.
import type { Yieldable } from '../types/session-store.js'

function* delegate<T>(this: Promise<T>): Generator<Promise<T>, T, unknown> {
  return (yield this) as T
}

/** Adds the iterator that `yield*` needs to the promise itself: `await` is slower with a subclass than with a native promise. */
export function yieldable<T>(promise: Promise<T>): Yieldable<T> {
  const yielding = promise as Yieldable<T>
  yielding[Symbol.iterator] = delegate
  return yielding
}
