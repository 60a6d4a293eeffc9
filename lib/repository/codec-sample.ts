// Looks at a few stored sessions for those that the option `codec` can't decode: then a step of a rolling change is missing.
import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import { notRecordSql, qualifiedName } from '../schema/table.js'
import { handleOf } from '../session/session-id.js'
import type { Settings } from '../types/settings.js'

/** At random places, as those that were written last may be anywhere. */
const maxPages = 32
const maxSessions = 200

/** Larger sessions are left out, so that the sample needs little memory. */
const maxSessionBytes = 8_000

export interface CodecSample {
  readonly sessions: number
  /** How many of them can't be decoded. */
  readonly undecoded: number
  /** Why the first one can't be. It quotes nothing of the session. */
  readonly cause: string
}

/** Reads a sample of the active sessions, and tries to decode them. */
export async function sampleSessions(connection: Connection, settings: Settings): Promise<CodecSample> {
  const name = qualifiedName(settings)
  const pages = `(pg_relation_size($1::text::regclass) / current_setting('block_size')::int)`
  const rows = await connection.query(
    `select id, session::text as session from ${name} tablesample system (least(100, ${maxPages} * 100.0 / greatest(1, ${pages})))` +
      ` where session is not null and expiry > now() and ${notRecordSql()} and pg_column_size(session) < ${maxSessionBytes}` +
      ` limit ${maxSessions}`,
    [name],
  )
  const causes: string[] = []
  for (const { id, session } of rows)
    try {
      await fromColumn(settings.codec, session as string, { id: handleOf(id as string) })
    } catch (error) {
      causes.push(error instanceof Error ? error.message : String(error))
    }
  return { sessions: rows.length, undecoded: causes.length, cause: causes[0] ?? '' }
}

/** Returns what to say if some can't be decoded. */
export function undecodedSessions({ sessions, undecoded, cause }: CodecSample): string {
  return (
    `${undecoded} of ${sessions} stored sessions that were looked at fail to be decoded, and so do requests with them: ${cause}.` +
    ' Codecs and keys are changed in the steps of docs/guides/encryption.md'
  )
}
