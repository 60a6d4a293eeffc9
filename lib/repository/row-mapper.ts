// Between rows and results: the columns of what is written, and what a statement returns of each row.
import type { SessionChange } from '../notifications/payload.js'
import { handleOf } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Row } from '../types/options.js'

/** What came of a change: the version that the row has now, how long it lives, whether others were told. */
export interface Change {
  readonly id: string
  readonly version: number
  readonly ttlMs: number
  readonly notify: boolean
}

/** A session to be written. */
export interface Write {
  readonly id: string
  readonly json: string
  /** Milliseconds from now; `null`, of a session that is there: as it is. */
  readonly ttl: number | null
  readonly userId: string | undefined
}

/** One to be written over a session that is there, in this version if given. */
export interface Replacement extends Write {
  readonly base: number | undefined
}

export function column<T, K extends keyof T>(rows: readonly T[], ...names: K[]): T[K][][] {
  return names.map((name) => rows.map((row) => row[name]))
}

export function announced(rows: readonly Change[]): SessionChange[] {
  return rows.filter(({ notify }) => notify).map(({ id, version }) => ({ digest: handleOf(id), version }))
}

export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

export function ids(calls: readonly { readonly key: string }[]): string[] {
  return calls.map(({ key }) => key)
}

/** The row of each call, if it has one. */
export function inOrder<T extends { readonly id: string }>(
  calls: readonly { readonly key: string }[],
  rows: T[],
): (T | undefined)[] {
  if (calls.length === 1) return [rows[0]]
  const byId = new Map(rows.map((row) => [row.id, row]))
  return calls.map(({ key }) => byId.get(key))
}

/** A driver answers a bigint as a string. */
export function toChange({ id, version, left, notify }: Row): Change {
  return { id: id as string, version: Number(version), ttlMs: left as number, notify: notify as boolean }
}

export function toStoredSession({ id, session, version, left }: Row): StoredSession {
  return { id: id as string, json: session as string, version: Number(version), ttlMs: left as number }
}
