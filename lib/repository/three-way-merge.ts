// Merges two requests' changes of one session, attribute by attribute. Pure.

import { isDeepStrictEqual } from 'node:util'
import type { Session } from '../types/session-store.js'

export interface MergeResult {
  readonly session: Session
  /** The attributes that both sides changed to different values: mine replaced theirs. */
  readonly overwritten: string[]
}

/**
 * Returns `theirs` with the attributes that `mine` has changed, added or removed since `base`: a three-way merge of top-level
 * attributes.
 */
export function threeWayMerge(base: Session, mine: Session, theirs: Session): MergeResult {
  const merged = new Map(Object.entries(theirs))
  const overwritten: string[] = []
  for (const name of new Set([...Object.keys(base), ...Object.keys(mine)])) {
    if (isSame(base, mine, name)) continue
    if (!isSame(base, theirs, name) && !isSame(mine, theirs, name)) overwritten.push(name)
    if (Object.hasOwn(mine, name)) merged.set(name, mine[name])
    else merged.delete(name)
  }
  // Object.fromEntries keeps an own attribute __proto__.
  return { session: Object.fromEntries(merged), overwritten }
}

function isSame(a: Session, b: Session, name: string): boolean {
  return Object.hasOwn(a, name) === Object.hasOwn(b, name) && isEqual(a[name], b[name])
}

/** Whether two values are equal as JSON, in whatever order an object's keys are. */
function isEqual(a: unknown, b: unknown): boolean {
  if (JSON.stringify(a) === JSON.stringify(b)) return true
  try {
    return isDeepStrictEqual(a, b)
  } catch (error) {
    // Nested too deeply for this comparison, though not for JSON.
    if (error instanceof RangeError) return false
    throw error
  }
}
