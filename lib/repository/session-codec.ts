// Encodes and decodes the sessions of a batch, so that one that takes long doesn't hold up the others.
import { fromColumn, plainToColumn, toColumn } from '../codec/codec.js'
import { isSealedJson } from '../codec/seal.js'
import { cancelledCode } from '../postgres/connection.js'
import { handleOf } from '../session/session-id.js'
import type { StoredSession } from '../session/stored-session.js'
import type { Codec } from '../types/options.js'
import type { TimeLimit } from '../util/deadlines.js'
import { messageOf } from '../util/driver-errors.js'
import { settledWithin, withTimeout } from '../util/timeout.js'
import type { Replacement, Write } from './row-mapper.js'

/** A session that was read: `undefined` if there is none, an error if it can't be decoded. */
export type Read = StoredSession | undefined | Error

/** How long the other sessions of a batch wait for one that takes long to decode. */
export const patientMs = 250

const encodeOverdue = 'the session was not encoded'

/** A session that takes too long makes the others wait no longer than a lock would. */
export async function encodeAll<T extends Write | Replacement>(
  codec: Codec,
  writes: readonly T[],
  limit?: TimeLimit,
): Promise<readonly T[]> {
  const encode = async (write: T): Promise<T> =>
    write.json === null
      ? write
      : { ...write, json: await toColumn(codec, write.json, { id: handleOf(write.id) }) }
  const encoded = Promise.all(writes.map(encode))
  if (limit === undefined) return encoded
  const { deadline, statementMs = Number.POSITIVE_INFINITY } = limit
  const ms = Math.min(statementMs, deadline - performance.now())
  return withTimeout(encoded, Math.max(ms, 0), encodeOverdue).catch((error) => {
    throw messageOf(error).startsWith(encodeOverdue) ? Object.assign(error, { code: cancelledCode }) : error
  })
}

/** Resolves with the sessions, an error where one can't be decoded, and a promise where decoding takes long. */
export function decodeAll(
  codec: Codec | undefined,
  sessions: readonly (StoredSession | undefined)[],
): Promise<(Read | Promise<Read>)[]> {
  const decoded = sessions.map(async (session) => session && decode(codec, session).catch(toError))
  return settledWithin<Read>(decoded, patientMs)
}

/** Whether a session was stored without a codec. */
export function isPlain(session: StoredSession | undefined): boolean {
  return session === undefined || !isSealedJson(session.json)
}

/** Returns what no codec is to encode. Throws an `EncodeError` if any of it looks encoded. */
export function assertPlain<T extends Write | Replacement>(writes: readonly T[]): readonly T[] {
  for (const { json } of writes) if (json !== null) plainToColumn(json)
  return writes
}

async function decode(codec: Codec | undefined, session: StoredSession): Promise<StoredSession> {
  return { ...session, json: await fromColumn(codec, session.json, { id: handleOf(session.id) }) }
}

function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}
