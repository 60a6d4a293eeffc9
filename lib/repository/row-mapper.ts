// Maps between rows and results: what a statement receives as parameters, and what it returns.
import type { SessionChange } from '../notifications/payload.js'
import { handleOf, separator } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Row } from '../types/options.js'

/** The result of a change: the row's new version, and how long the session lives if that isn't what was asked for. */
export interface Change {
  readonly id: string
  readonly version: number
  /** 0: what was asked for. */
  readonly ttlMs: number
  /** Whether the row was inserted. Always `false` in a table without versions, where that isn't known. */
  readonly isNew: boolean
}

/** The changes of one statement. */
export interface Changes {
  readonly changes: readonly Change[]
  /** How many of them other processes were notified of. */
  readonly announced: number
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
export interface Replacement extends Omit<Write, 'json'> {
  /** `null`: keep the session and its user; only the expiry changes. */
  readonly json: string | null
  readonly baseVersion: number | undefined
}

/** The values of each of these properties, one array for each. */
export function toColumns<T, K extends keyof T>(items: readonly T[], ...properties: K[]): T[K][][] {
  return properties.map((property) => items.map((item) => item[property]))
}

/** In the order of `writeColumns`. */
export function writeValues(writes: readonly (Write | Replacement)[]): unknown[][] {
  return [...toColumns(writes, 'id', 'json', 'ttlMs'), writes.map(({ userId }) => userId ?? null)]
}

/** In the order of `replaceColumns`. */
export function replacementValues(replacements: readonly Replacement[]): unknown[][] {
  return [...writeValues(replacements), ...toColumns(replacements, 'baseVersion')]
}

/** Precedes the version of a row that was inserted. */
const plus = '+'.charCodeAt(0)

/** Reads the result of a statement that changes sessions: one value for all of them, or a row for each. */
export function toChanges(rows: readonly Row[]): Changes {
  const [first] = rows
  if (first === undefined || first.result === null) return { changes: [], announced: 0 }
  if (first.result === undefined) {
    let announced = 0
    for (const { notify } of rows) if (notify) announced++
    return { changes: rows.map(toChange), announced }
  }
  const [head, ...items] = (first.result as string).split(separator)
  const changes = items.map((text) => {
    const space = text.indexOf(' ')
    const next = text.indexOf(' ', space + 1)
    const version = +text.slice(0, space)
    const isNew = text.charCodeAt(0) === plus
    return { id: text.slice(next + 1), version, ttlMs: +text.slice(space + 1, next), isNew }
  })
  return { changes, announced: Number.parseInt(head as string, 10) }
}

/** Whether the result of a change says that it was committed asynchronously. */
export function mustFlush([first]: readonly Row[]): boolean {
  const result = first?.result
  return typeof result === 'string' && result[result.indexOf(separator) - 1] === 'f'
}

/** Drivers return a bigint, such as the version, as a string. */
function toChange({ id, version, ttl_ms, notify }: Row): Change {
  const number = Number(version)
  return { id: id as string, version: number, ttlMs: Number(ttl_ms), isNew: !notify && number > 0 }
}

/** The changes to be announced, as a notification names them. */
export function notifiedChanges(rows: readonly Row[]): SessionChange[] {
  return rows
    .filter(({ notify }) => notify)
    .map(({ id, version }) => ({ digest: handleOf(id as string), version: Number(version) }))
}

/** Reads the sessions with these ids, in their order; `undefined` where there is none. */
export function toStoredSessions(
  ids: readonly string[],
  rows: readonly Row[],
): (StoredSession | undefined)[] {
  const [first] = rows
  if (first === undefined) return ids.map(() => undefined)
  if (ids.length === 1 && first.heads === undefined) return [toStoredSession(first)]
  const found: (StoredSession | undefined)[] = ids.map(() => undefined)
  if (first.heads === undefined) {
    const byId = new Map(rows.map((row) => [row.id, row]))
    return ids.map((id) => {
      const row = byId.get(id)
      return row && toStoredSession(row)
    })
  }
  if (first.heads === null) return found
  const heads = (first.heads as string).split(separator)
  const sessions = (first.sessions as string).split(separator)
  for (let k = 0; k < heads.length; k++) {
    const head = heads[k] as string
    const space = head.indexOf(' ')
    const next = head.indexOf(' ', space + 1)
    const n = +head.slice(0, space) - 1
    const version = +head.slice(space + 1, next)
    found[n] = { id: ids[n] as string, json: sessions[k] as string, version, ttlMs: +head.slice(next + 1) }
  }
  return found
}

function toStoredSession({ id, session, version, ttl_ms }: Row): StoredSession {
  return { id: id as string, json: session as string, version: Number(version), ttlMs: Number(ttl_ms) }
}
