// What instances tell each other: the channel of a table, and the payloads on it. Pure.
import { hash } from 'node:crypto'

/** A payload must stay below PostgreSQL's 8000 bytes. */
const maxPayloadBytes = 7_900

/** Base64url of a SHA-256. */
const digestLength = 43

/** What a payload says: forget everything, these changed, or it is a listener's own heartbeat. */
export type Notification = 'flush' | { beat: string } | { name: string; version: number }[]

/** The channel of a table. The trigger in sql/006-notify.sql derives the same. */
export function channelOf({ schema, table }: { schema: string; table: string }): string {
  return `koa_pg_store_${hash('sha256', `${schema}.${table}`).slice(0, 16)}`
}

/** Payloads that name changed sessions, as few as their size allows. */
export function payloads(changes: readonly { name: string; version: number }[]): string[] {
  const list: string[] = []
  let current = ''
  for (const { name, version } of changes) {
    const item = `${name}${version.toString(16)}`
    if (current !== '' && current.length + 1 + item.length > maxPayloadBytes) {
      list.push(current)
      current = ''
    }
    current += current === '' ? item : `,${item}`
  }
  if (current !== '') list.push(current)
  return list
}

/** A listener's own heartbeat. */
export function heartbeatPayload(token: string): string {
  return `beat ${token}`
}

/** Reads a payload; what isn't one of ours means that anything may have changed. */
export function readPayload(payload: string): Notification {
  if (payload.startsWith('beat ')) return { beat: payload.slice('beat '.length) }
  const changes = payload.split(',').map((item) => ({
    name: item.slice(0, digestLength),
    version: Number.parseInt(item.slice(digestLength), 16),
  }))
  return changes.every(({ name, version }) => name.length === digestLength && version >= 0)
    ? changes
    : 'flush'
}
