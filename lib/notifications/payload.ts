// The channel of a table, and the payloads of its notifications. Pure.
import { hash } from 'node:crypto'

/** PostgreSQL's limit is 8000 bytes. */
const maxPayloadBytes = 7_900

/** Characters of a SHA-256 in base64url. */
const digestLength = 43

/** What a payload says: drop everything, these sessions changed, or a listener's own heartbeat. */
export type Notification = 'flush' | { heartbeat: string } | SessionChange[]

/** A session by its digest, and the version that it has now. */
export interface SessionChange {
  readonly digest: string
  readonly version: number
}

/** The payload that makes every instance clear its cache. */
export const clearPayload = 'flush'

/** The channel of a table. The trigger in sql/006-notify.sql computes the same name. */
export function channelOf({ schema, table }: { schema: string; table: string }): string {
  return `koa_pg_store_${hash('sha256', `${schema}.${table}`).slice(0, 16)}`
}

/** Payloads that name changed sessions, as few as their size allows. */
export function payloads(changes: readonly SessionChange[]): string[] {
  const list: string[] = []
  let current = ''
  for (const { digest, version } of changes) {
    const item = `${digest}${version.toString(16)}`
    if (current !== '' && current.length + 1 + item.length > maxPayloadBytes) {
      list.push(current)
      current = ''
    }
    current += current === '' ? item : `,${item}`
  }
  if (current !== '') list.push(current)
  return list
}

export function heartbeatPayload(token: string): string {
  return `beat ${token}`
}

/** Parses a payload. One of an unknown form means that anything may have changed. */
export function readPayload(payload: string): Notification {
  if (payload.startsWith('beat ')) return { heartbeat: payload.slice('beat '.length) }
  const changes = payload.split(',').map((item) => ({
    digest: item.slice(0, digestLength),
    version: Number.parseInt(item.slice(digestLength), 16),
  }))
  return changes.every(({ digest, version }) => digest.length === digestLength && version >= 0)
    ? changes
    : 'flush'
}
