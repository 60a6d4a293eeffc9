// The row that records how far sessions were searched for their users, with which option and by which process.
import type { Connection } from '../postgres/connection.js'
import { type Table, usersRecordId } from '../schema/table.js'

/** Processes with the earlier option may still have saved sessions behind the first pass, so there is a second one. */
export const passesNeeded = 2

/** In the past: a statement that began a moment before the record was written must not take it for an active session. */
const expirySql = `now() - interval '1 hour'`

/** What the row `usersRecordId` holds as its session. */
export interface UserFillRecord {
  /** A digest of the source of the option `userId` that is searched with. */
  readonly option: string
  /** The process that searches. */
  readonly owner: string
  /** The last id that was searched; `null`: the end was reached. */
  readonly lastId: string | null
  /** The number of passes that have reached the end. */
  readonly passes: number
}

export interface StoredRecord extends UserFillRecord {
  readonly version: string
  readonly ageMs: number
}

/** Whether nothing is left to be searched. */
export function isFilled({ lastId, passes }: UserFillRecord): boolean {
  return lastId === null && passes >= passesNeeded
}

/** Resolves with `undefined` if nothing was searched yet. */
export async function readUserFillRecord(
  connection: Connection,
  { name }: Table,
): Promise<StoredRecord | undefined> {
  const age = `(extract(epoch from ${expirySql} - expiry::timestamptz) * 1000)::float8`
  const [row] = await connection.query(
    `select session::text as session, version::text as version, ${age} as age_ms from ${name} where id = '${usersRecordId}'`,
  )
  if (row === undefined) return undefined
  const record = JSON.parse(row.session as string) as UserFillRecord
  return { ...record, version: row.version as string, ageMs: Number(row.age_ms) }
}

/** Whether the table has the columns for it. */
export function canFillUserIds({ columns }: Table): boolean {
  return columns.has('user_id') && columns.has('version')
}

/** Resolves with the new version of the record, or `undefined` if another process has written it since `version`. */
export async function writeUserFillRecord(
  connection: Connection,
  { name }: Table,
  record: UserFillRecord,
  version: string | undefined,
): Promise<string | undefined> {
  const [row] = await connection.query(
    `insert into ${name} as t (id, expiry, session, version) select '${usersRecordId}', ${expirySql}, $1::text::json, 1` +
      ` on conflict (id) do update set expiry = excluded.expiry, session = excluded.session, version = t.version + 1` +
      ` where t.version = $2::text::bigint returning t.version::text as version`,
    [JSON.stringify(record), version ?? null],
  )
  return row?.version as string | undefined
}
