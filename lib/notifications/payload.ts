// The channel of a table, and the payloads of its notifications. Pure.
import { hash } from 'node:crypto'

/** PostgreSQL's limit is 8000 bytes. */
const maxPayloadBytes = 7_900

/** Characters of a SHA-256 in base64url. */
const digestLength = 43

/** What a payload says: drop everything, or these sessions changed; and a heartbeat of the instance that sent it. */
export interface Notification {
  readonly clear: boolean
  readonly changes: readonly SessionChange[]
  readonly heartbeat: string | undefined
}

/** A session by its digest, and the version that it has now. */
export interface SessionChange {
  readonly digest: string
  readonly version: number
}

/** The payload that makes every instance clear its cache. */
export const clearPayload = 'clear'

const heartbeatPrefix = 'heartbeat '

/** The channel of a table. The trigger in sql/006-notify.sql computes the same name. */
export function channelOf({ schema, table }: { schema: string; table: string }): string {
  return `koa_pg_store_${hash('sha256', `${schema}.${table}`).slice(0, 16)}`
}

/** The channel on which `koa-pg-store stats --watch` asks the processes for their figures. */
export function statsRequestsOf(channel: string): string {
  return `${channel}_stats_requests`
}

/** The channel on which they answer. Only the command listens to it, so that an answer wakes no process. */
export function statsAnswersOf(channel: string): string {
  return `${channel}_stats`
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

/** An item of a payload: alone, or after changes and a comma. */
export function heartbeatItem(token: string): string {
  return `${heartbeatPrefix}${token}`
}

/** Parses a payload. An item of an unknown form means that anything may have changed. */
export function readPayload(payload: string): Notification {
  const changes: SessionChange[] = []
  let clear = false
  let heartbeat: string | undefined
  for (const item of payload.split(',')) {
    const digest = item.slice(0, digestLength)
    const version = Number.parseInt(item.slice(digestLength), 16)
    if (item.startsWith(heartbeatPrefix)) heartbeat = item.slice(heartbeatPrefix.length)
    else if (digest.length === digestLength && version >= 0) changes.push({ digest, version })
    else clear = true
  }
  return { clear, changes, heartbeat }
}
