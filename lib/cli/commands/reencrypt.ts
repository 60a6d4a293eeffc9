// Writes every session anew with the first key of a codec, while the application goes on.
import { fromColumn, toColumn } from '../../codec/codec.js'
import type { Connection } from '../../postgres/connection.js'
import { sweepRecordId, type Table } from '../../schema/table.js'
import { parse } from '../../session/json.js'
import { handleOf } from '../../session/session-id.js'
import { DecodeError, EncodeError } from '../../types/errors.js'
import type { Codec, Row } from '../../types/options.js'

/** How many sessions are read, and written, at a time: each may have a megabyte. */
const atOnce = 100

/** How often a session that is saved meanwhile is looked at again. */
const attempts = 20

/** How many reasons why sessions can't be decoded are told. */
const mostCauses = 5

/** Looking at the whole table takes longer than a request may. */
const countMs = 600_000
const batchMs = 60_000

export interface Reencrypted {
  /** How many there were to be looked at; those that have expired too, as `onExpired` may want them. */
  sessions: number
  /** How many of them the first key hadn't written, and has now. */
  written: number
  /** How many are as they were, as they can't be decoded. */
  undecoded: number
  /** How many are as they were, as they can't be encoded or were saved by somebody else again and again. */
  unwritten: number
  /** Why they can't be decoded. The messages name the keys that are wanted. */
  causes: string[]
}

/**
 * Changes nothing of a row but how its session is written: no expiry, no last access, no version, so that caches and saves
 * under way needn't know. A session that somebody saves at the same time is theirs. `onProgress` is told how far it
 * is, between 0 and 1. Rejects if the database can't be asked; what was written until then stays so.
 */
export async function reencryptAll(
  connection: Connection,
  table: Table,
  codec: Codec,
  onProgress: (done: number, soFar: Reencrypted) => void,
): Promise<Reencrypted> {
  const { name } = table
  const which = `session is not null and id <> '${sweepRecordId}'`
  const [all] = await connection.query(
    `select count(*)::float8 as n from ${name} where ${which}`,
    [],
    countMs,
  )
  const result: Reencrypted = { sessions: 0, written: 0, undecoded: 0, unwritten: 0, causes: [] }
  const read = `select id, session::text as session from ${name} where ${which}`
  const update = statement(table)
  for (let after = ''; ; ) {
    const rows = await connection.query(`${read} and id > $1 order by id limit ${atOnce}`, [after], batchMs)
    if (rows.length === 0) return result
    after = rows.at(-1)?.id as string
    result.sessions += rows.length
    let left: Row[] = rows
    for (let attempt = 0; attempt < attempts && left.length > 0; attempt++) {
      const changes = await encodedAnew(codec, left, result)
      const values = ['id', 'old', 'text'].map((key) => changes.map((change) => Reflect.get(change, key)))
      const written = changes.length === 0 ? [] : await connection.query(update, values, batchMs)
      result.written += written.length
      const ids = new Set(changes.map(({ id }) => id))
      for (const { id } of written) ids.delete(id as string)
      left = ids.size === 0 ? [] : await connection.query(`${read} and id = any($1::text[])`, [[...ids]])
    }
    result.unwritten += left.length
    onProgress(Math.min(1, result.sessions / Math.max(1, all?.n as number)), result)
  }
}

interface Change {
  readonly id: string
  readonly old: string
  readonly text: string
}

/** Those of the rows that the codec would write otherwise; counts those that it can't read or write. */
async function encodedAnew(codec: Codec, rows: readonly Row[], result: Reencrypted): Promise<Change[]> {
  const changes: Change[] = []
  for (const row of rows) {
    const [id, old] = [row.id as string, row.session as string]
    const context = { id: handleOf(id) }
    try {
      const text = await toColumn(codec, await fromColumn(codec, old, context), context)
      if (!isSame(old, text)) changes.push({ id, old, text })
    } catch (error) {
      if (error instanceof EncodeError) result.unwritten++
      else if (error instanceof DecodeError) {
        result.undecoded++
        if (result.causes.length < mostCauses && !result.causes.includes(error.message))
          result.causes.push(error.message)
      } else throw error
    }
  }
  return changes
}

/** Whether two columns of one session were written in the same way: equal, or encrypted with the same key. */
function isSame(old: string, text: string): boolean {
  if (old === text) return true
  const key = keyOf(text)
  return key !== undefined && keyOf(old) === key
}

/** The name of the key that `encrypted` has written it with. */
function keyOf(column: string): string | undefined {
  const key: unknown = Reflect.get(Object(parse(column)), '~aes256gcm')
  return typeof key === 'string' ? key : undefined
}

/**
 * Writes the texts `$3` for the ids `$1`, where the texts still are `$2`. In the order of ids, as all statements that lock
 * several rows. Tells the trigger of sql/006-notify.sql that the sessions are the same.
 */
function statement({ name, isDistributed: distributed }: Table): string {
  const lock = distributed ? '' : ' order by s.id for update of s'
  const quietly = distributed
    ? ''
    : ` and (select set_config('koa_pg_store.reencrypt', 'on', true)) is not null`
  return (
    `update ${name} as t set session = u.text::json from (select u.* from unnest($1::text[], $2::text[], $3::text[])` +
    ` as u (id, old, text) join ${name} as s on s.id = u.id where s.session::text = u.old${lock}) as u` +
    ` where t.id = u.id and t.session::text = u.old${quietly} returning t.id`
  )
}
