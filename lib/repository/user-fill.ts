// Finds the users of sessions that koa-pg-session saved: in the background, in small batches.
import { setTimeout as sleep } from 'node:timers/promises'
import { fromColumn } from '../codec/codec.js'
import type { Connection } from '../postgres/connection.js'
import type { Table } from '../schema/table.js'
import { parse } from '../session/json.js'
import { handleOf } from '../session/session-id.js'
import { findUserId } from '../session/user-id.js'
import type { Row } from '../types/options.js'
import type { Settings } from '../types/settings.js'
import { hashedIdSql } from './session-statements.js'

/** Each session may have a megabyte. */
const batchSize = 100

/** The pause after each batch, so that requests are served first. */
const pauseMs = 50

/** Versions that this package writes are times, and far greater. */
const maxForeignVersion = 1_000_000_000_000

/**
 * Goes once through the sessions without a user that this package hasn't saved, and writes the user that the option `userId`
 * finds. A session that can't be decoded, or in which the option fails, is left as it is. Aborting `signal` ends it.
 */
export async function fillUserIds(
  connection: Connection,
  table: Table,
  settings: Settings,
  signal: AbortSignal,
): Promise<void> {
  const { name, hasRawIds, columns } = table
  if (!columns.has('user_id') || !columns.has('version')) return
  const unassigned = `user_id is null and session is not null and version < ${maxForeignVersion}`
  const read =
    `select id, session::text as session, version::text as version from ${name}` +
    ` where id > $1 and ${unassigned} and expiry > now() order by id limit ${batchSize}`
  // The id of a row may be replaced by its digest after it was read.
  const matches = (row: string): string =>
    hasRawIds ? `${row}.id in (u.id, ${hashedIdSql('u.id')})` : `${row}.id = u.id`
  const lock = table.isDistributed ? '' : ' order by s.id for update of s'
  const update =
    `update ${name} as t set user_id = u.user_id from (select u.* from unnest($1::text[], $2::text[], $3::bigint[])` +
    ` as u (id, user_id, version) join ${name} as s on ${matches('s')}${lock}) as u` +
    ` where ${matches('t')} and t.version = u.version and t.user_id is null and t.session is not null`
  for (let lastId = ''; !signal.aborted; ) {
    const rows = await connection.query(read, [lastId])
    if (rows.length === 0) return
    lastId = rows.at(-1)?.id as string
    const users = await Promise.all(rows.map((row) => userOf(row, settings)))
    const found = rows.map((row, n) => ({ ...row, user: users[n] })).filter(({ user }) => user !== undefined)
    if (found.length > 0)
      await connection.query(update, [
        found.map((row) => Reflect.get(row, 'id')),
        found.map(({ user }) => user),
        found.map((row) => Reflect.get(row, 'version')),
      ])
    // Aborting rejects the pause, which ends the loop without an error.
    await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined)
  }
}

async function userOf({ id, session }: Row, { codec, userId }: Settings): Promise<string | undefined> {
  try {
    const value = parse(await fromColumn(codec, session as string, { id: handleOf(id as string) }))
    return value && findUserId(userId, value)
  } catch {
    return undefined
  }
}
