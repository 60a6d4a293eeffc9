// Re-encrypts every session of a table with the first key of a codec, while the application keeps running.
import { fromColumn, toColumn } from '../../codec/codec.js'
import type { Connection } from '../../postgres/connection.js'
import { notRecordSql, type Table } from '../../schema/table.js'
import { parse } from '../../session/json.js'
import { handleOf } from '../../session/session-id.js'
import { DecodeError, EncodeError } from '../../types/errors.js'
import type { Codec, Row } from '../../types/options.js'

/** Sessions that are read and written at a time: each may have a megabyte. */
const batchSize = 100

/** How often a session is read again because the application saved it in between. */
const maxAttempts = 20

/** How many different decoding errors are reported. */
const maxCauses = 5

/** These statements may take longer than those of a request. */
const countTimeoutMs = 600_000
const batchTimeoutMs = 60_000

export interface Reencrypted {
  /** All sessions of the table. Expired ones too, as `onExpired` may receive them. */
  sessions: number
  /** Those that were re-encrypted; the others had been written with the first key. */
  written: number
  /** Those that can't be decoded, and were left unchanged. */
  undecoded: number
  /** Those that can't be encoded, or that the application saved at every attempt. They were left unchanged. */
  unwritten: number
  /** Why sessions can't be decoded. The messages name the missing keys. */
  causes: string[]
}

/**
 * Changes only the column `session` of a row: neither expiry, last access nor version, so caches and saves in flight stay
 * valid. If the application saves a session at the same time, its save wins. `onProgress` receives a share between 0 and 1.
 * Rejects if the database fails; what was re-encrypted until then remains.
 */
export async function reencryptAll(
  connection: Connection,
  table: Table,
  codec: Codec,
  onProgress: (done: number, soFar: Reencrypted) => void,
): Promise<Reencrypted> {
  const { name } = table
  const condition = `session is not null and ${notRecordSql()}`
  const [counted] = await connection.query(
    `select count(*)::float8 as n from ${name} where ${condition}`,
    [],
    countTimeoutMs,
  )
  const result: Reencrypted = { sessions: 0, written: 0, undecoded: 0, unwritten: 0, causes: [] }
  const read = `select id, session::text as session from ${name} where ${condition}`
  const update = updateStatement(table)
  for (let lastId = ''; ; ) {
    const rows = await connection.query(
      `${read} and id > $1 order by id limit ${batchSize}`,
      [lastId],
      batchTimeoutMs,
    )
    if (rows.length === 0) return result
    lastId = rows.at(-1)?.id as string
    result.sessions += rows.length
    let pending: Row[] = rows
    for (let attempt = 0; attempt < maxAttempts && pending.length > 0; attempt++) {
      const changes = await reencode(codec, pending, result)
      const values = [
        changes.map(({ id }) => id),
        changes.map(({ oldText }) => oldText),
        changes.map(({ newText }) => newText),
      ]
      const written = changes.length === 0 ? [] : await connection.query(update, values, batchTimeoutMs)
      result.written += written.length
      const unwrittenIds = new Set(changes.map(({ id }) => id))
      for (const { id } of written) unwrittenIds.delete(id as string)
      pending =
        unwrittenIds.size === 0
          ? []
          : await connection.query(`${read} and id = any($1::text[])`, [[...unwrittenIds]])
    }
    result.unwritten += pending.length
    onProgress(Math.min(1, result.sessions / Math.max(1, counted?.n as number)), result)
  }
}

interface Change {
  readonly id: string
  readonly oldText: string
  readonly newText: string
}

/** Resolves with the rows that the first key hasn't written. Counts those that the codec can't decode or encode. */
async function reencode(codec: Codec, rows: readonly Row[], result: Reencrypted): Promise<Change[]> {
  const changes: Change[] = []
  for (const row of rows) {
    const id = row.id as string
    const oldText = row.session as string
    const context = { id: handleOf(id) }
    try {
      const newText = await toColumn(codec, await fromColumn(codec, oldText, context), context)
      if (!isEquivalent(oldText, newText)) changes.push({ id, oldText, newText })
    } catch (error) {
      if (error instanceof EncodeError) result.unwritten++
      else if (error instanceof DecodeError) {
        result.undecoded++
        if (result.causes.length < maxCauses && !result.causes.includes(error.message))
          result.causes.push(error.message)
      } else throw error
    }
  }
  return changes
}

/** Whether both texts of a session are equal, or encrypted with the same key. */
function isEquivalent(oldText: string, newText: string): boolean {
  if (oldText === newText) return true
  const keyId = keyIdOf(newText)
  return keyId !== undefined && keyIdOf(oldText) === keyId
}

/** The id of the key that `encrypted` used for this text. */
function keyIdOf(column: string): string | undefined {
  const keyId: unknown = Reflect.get(Object(parse(column)), '~aes256gcm')
  return typeof keyId === 'string' ? keyId : undefined
}

/**
 * Writes the texts `$3` of the ids `$1` whose texts still are `$2`. Locks rows in the order of ids, as all statements that
 * lock several rows do, to prevent deadlocks. The setting makes the trigger of sql/006-notify.sql ignore the update.
 */
function updateStatement({ name, isDistributed }: Table): string {
  const lock = isDistributed ? '' : ' order by s.id for update of s'
  const withoutTrigger = isDistributed
    ? ''
    : ` and (select set_config('koa_pg_store.reencrypt', 'on', true)) is not null`
  return (
    `update ${name} as t set session = u.text::json from (select u.* from unnest($1::text[], $2::text[], $3::text[])` +
    ` as u (id, old, text) join ${name} as s on s.id = u.id where s.session::text = u.old${lock}) as u` +
    ` where t.id = u.id and t.session::text = u.old${withoutTrigger} returning t.id`
  )
}
