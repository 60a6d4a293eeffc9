// Turns what a source has read into a session to import. Pure.
import type { ImportedSession } from '../../repository/session-importer.js'
import { parse } from '../../session/json.js'
import { ttlInside, withKoaCookie } from '../../session/other-stores.js'
import { assertSessionId, digestOf, rawId } from '../../session/session-id.js'
import { fromStored, toStored } from '../../session/stored-session.js'
import { resolveTtl } from '../../session/ttl.js'
import { findUserId, toUserId } from '../../session/user-id.js'
import type { Session } from '../../types/session-store.js'
import type { Settings } from '../../types/settings.js'
import { isHandle } from '../command.js'
import type { Format, SourceRow } from './source.js'

export interface ParseOptions {
  readonly format: Format
  /** What the keys of the source begin with, and the session ids instead of it. */
  readonly prefix: string
  readonly idPrefix: string
  readonly settings: Settings
}

/** A session in one of the formats. */
interface ParsedRow {
  readonly sid?: string | undefined
  readonly handle?: string | undefined
  readonly session: unknown
  readonly expires?: number | Date | undefined
  readonly userId?: string | undefined
  readonly createdAt?: Date | undefined
  readonly lastAccessedAt?: Date | undefined
}

/** Returns the session to import. Throws an error that says what is wrong, and quotes nothing of it. */
export function parseRow(row: SourceRow, options: ParseOptions): ImportedSession {
  const { settings } = options
  const parsed = options.format === 'jsonl' ? parseLine(row.text) : parseValue(row, options)
  const { session } = parsed
  if (typeof session !== 'object' || session === null || Array.isArray(session))
    throw new TypeError('it is not a JSON object')
  const koaSession = withKoaCookie(session as Session)
  const json = toStored(koaSession, settings)
  const expires = parsed.expires ?? resolveTtl(ttlInside(koaSession), settings.ttl, settings.maxLifetime)
  return {
    ...toIds(parsed, settings),
    json,
    userId: findUserId(settings.userId, fromStored(koaSession, undefined)) ?? parsed.userId,
    expires: typeof expires === 'number' ? resolveTtl(expires, settings.ttl, settings.maxLifetime) : expires,
    createdAt: parsed.createdAt,
    lastAccessedAt: parsed.lastAccessedAt,
  }
}

function toIds({ sid, handle }: ParsedRow, { hashIds }: Settings): Pick<ImportedSession, 'id' | 'rawId'> {
  if (sid !== undefined) {
    assertSessionId(sid)
    const raw = rawId(sid)
    if (hashIds) return { id: `sha256:${digestOf(sid)}`, rawId: raw }
    if (raw === undefined) throw new RangeError('a table of raw ids can’t hold its id')
    return { id: raw, rawId: raw }
  }
  if (!hashIds) throw new TypeError('it has a handle instead of its id, which a table of raw ids needs')
  if (!isHandle(String(handle))) throw new TypeError('it has neither "sid" nor a "handle" of 43 characters')
  return { id: `sha256:${handle}`, rawId: undefined }
}

function parseValue({ key, text, ttlMs }: SourceRow, { format, prefix, idPrefix }: ParseOptions): ParsedRow {
  const sid = idPrefix + key.slice(prefix.length)
  if (format !== 'keyv') return { sid, session: parseJson(text), expires: ttlMs }
  const entry = parseJson(text, fromKeyv)
  const expires: unknown = Reflect.get(Object(entry), 'expires')
  return {
    sid,
    session: Reflect.get(Object(entry), 'value'),
    expires: typeof expires === 'number' ? toDate(expires) : undefined,
  }
}

/** keyv puts a colon before texts that begin with one, and writes buffers as such a text. */
function fromKeyv(_: string, value: unknown): unknown {
  if (typeof value !== 'string' || !value.startsWith(':')) return value
  return value.startsWith(':base64:') ? Buffer.from(value.slice(':base64:'.length), 'base64') : value.slice(1)
}

function parseLine(text: string): ParsedRow {
  const line = parseJson(text)
  if (typeof line !== 'object' || line === null) throw new TypeError('it is not a JSON object')
  const { sid, handle, session, ttl, userId, createdAt, lastAccessedAt, expiresAt } = line as Record<
    string,
    unknown
  >
  if (sid !== undefined) assertSessionId(sid)
  if (ttl !== undefined && typeof ttl !== 'number') throw new TypeError('its "ttl" is not a number')
  return {
    sid,
    handle: typeof handle === 'string' ? handle : undefined,
    session,
    expires: readTime('expiresAt', expiresAt) ?? ttl,
    userId: userId === undefined || userId === null ? undefined : toUserId(userId, 'its "userId"'),
    createdAt: readTime('createdAt', createdAt),
    lastAccessedAt: readTime('lastAccessedAt', lastAccessedAt),
  }
}

function readTime(name: string, value: unknown): Date | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string' || Number.isNaN(Date.parse(value)))
    throw new TypeError(`its "${name}" is not a time such as 2026-01-31T12:00:00Z`)
  return toDate(Date.parse(value))
}

/** PostgreSQL's times go further than this. */
const latestTime = Date.UTC(9999, 0)

function toDate(ms: number): Date {
  return new Date(Math.min(Math.max(ms, 0), latestTime))
}

function parseJson(text: string, reviver?: (key: string, value: unknown) => unknown): unknown {
  try {
    return reviver === undefined ? parse(text) : JSON.parse(text, reviver)
  } catch {
    // The parser's message quotes the text.
    throw new TypeError('it is not JSON')
  }
}
