// Maps between rows and results: what a statement receives as parameters, and what it returns of each row.
import type { SessionChange } from '../notifications/payload.js'
import { handleOf } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Row } from '../types/options.js'

/** The result of a change: the row's new version, how long the session lives, and whether a notification was sent. */
export interface Change {
  readonly id: string
  readonly version: number
  readonly ttlMs: number
  readonly notify: boolean
}

/** A session to write. */
export interface Write {
  readonly id: string
  readonly json: string
  /** From now; `null`: keep the expiry of the existing session. */
  readonly ttlMs: number | null
  readonly userId: string | undefined
}

/** A session to write over an existing one: in this version, or in any if `undefined`. */
export interface Replacement extends Write {
  readonly baseVersion: number | undefined
}

/** The values of each of these properties, one array for each. */
export function toColumns<T, K extends keyof T>(items: readonly T[], ...properties: K[]): T[K][][] {
  return properties.map((property) => items.map((item) => item[property]))
}

/** In the order of `writeColumns`. */
export function writeValues(writes: readonly Write[]): unknown[][] {
  return [...toColumns(writes, 'id', 'json', 'ttlMs'), writes.map(({ userId }) => userId ?? null)]
}

/** In the order of `replaceColumns`. */
export function replacementValues(replacements: readonly Replacement[]): unknown[][] {
  return [...writeValues(replacements), ...toColumns(replacements, 'baseVersion')]
}

/** The changes to be announced, as a notification names them. */
export function notifiedChanges(changes: readonly Change[]): SessionChange[] {
  return changes.filter(({ notify }) => notify).map(({ id, version }) => ({ digest: handleOf(id), version }))
}

export function idsOf(calls: readonly { readonly key: string }[]): string[] {
  return calls.map(({ key }) => key)
}

/** The row of each call, `undefined` where there is none. */
export function inOrderOfCalls<T extends { readonly id: string }>(
  calls: readonly { readonly key: string }[],
  rows: T[],
): (T | undefined)[] {
  if (calls.length === 1) return [rows[0]]
  const byId = new Map(rows.map((row) => [row.id, row]))
  return calls.map(({ key }) => byId.get(key))
}

/** Drivers return a bigint, such as the version, as a string, and other numbers as the application's type parsers say. */
export function toChange({ id, version, ttl_ms, notify }: Row): Change {
  return { id: id as string, version: Number(version), ttlMs: Number(ttl_ms), notify: notify as boolean }
}

export function toStoredSession({ id, session, version, ttl_ms }: Row): StoredSession {
  return { id: id as string, json: session as string, version: Number(version), ttlMs: Number(ttl_ms) }
}
