// Two requests changed one session: the three-way merge of its top-level attributes; pure.
import { isDeepStrictEqual } from 'node:util'
import type { Session } from '../types/session-store.js'

export interface MergeResult {
  readonly session: Session
  /** The attributes that both sides changed, each to something else: mine won. */
  readonly overwritten: string[]
}

/**
 * What I changed since `base`, on top of theirs; what I left alone is as they have it. An attribute that one side removed
 * and the other left alone is removed. As Spring Session saves attribute by attribute.
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
  // An own __proto__ stays one.
  return { session: Object.fromEntries(merged), overwritten }
}

function isSame(a: Session, b: Session, name: string): boolean {
  return Object.hasOwn(a, name) === Object.hasOwn(b, name) && isEqual(a[name], b[name])
}

/** As JSON: the order of an object's keys says nothing. */
function isEqual(a: unknown, b: unknown): boolean {
  if (JSON.stringify(a) === JSON.stringify(b)) return true
  try {
    return isDeepStrictEqual(a, b)
  } catch (error) {
    // Nested too deeply for that, though not for JSON.
    if (error instanceof RangeError) return false
    throw error
  }
}
