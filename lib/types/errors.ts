// The errors that the package throws.

/**
 * The session store can't serve a request now. Koa answers 503 to a request that fails with it, with the headers, and
 * doesn't show the message to the client.
 */
abstract class UnavailableError extends Error {
  readonly status = 503
  readonly expose = false
  /** Within this many seconds the store tries again. How long an outage will last is unknown. */
  readonly headers: Readonly<Record<string, string>> = { 'Retry-After': '5' }
}

/**
 * A session is larger than `maxBytes`, or one of its attributes is larger than `maxAttributeBytes`. Nothing was written: the
 * stored session is unchanged.
 */
export class SessionTooLargeError extends RangeError {
  override readonly name = 'SessionTooLargeError'
  readonly code = 'ERR_SESSION_TOO_LARGE'
  constructor(
    /** The size of the session, or of the attribute, in bytes of its JSON in UTF-8. */
    readonly bytes: number,
    /** The limit that the option sets. */
    readonly maxBytes: number,
    /** The attribute that exceeds `maxAttributeBytes`; `undefined` if the session exceeds `maxBytes`. */
    readonly attribute?: string,
  ) {
    const subject =
      attribute === undefined ? 'the session' : `the session attribute ${JSON.stringify(attribute)}`
    const option = attribute === undefined ? 'maxBytes' : 'maxAttributeBytes'
    super(`${subject} is ${bytes} bytes of JSON; ${option} allows ${maxBytes}. Nothing was written`)
  }
}

/**
 * Another request changed the session after it was loaded, and the option `concurrency` is `'reject'`; or it kept changing
 * faster than it could be merged. Nothing was written: load the session again.
 *
 * @example
 * try {
 *   await store.set(sid, session)
 * } catch (error) {
 *   if (error instanceof ConflictError) ctx.throw(409)
 *   throw error
 * }
 */
export class ConflictError extends Error {
  override readonly name = 'ConflictError'
  readonly code = 'ERR_SESSION_CONFLICT'
}

/** The session table can't be used. The message says why and what to run. The next call of the store tries again. */
export class SetupError extends UnavailableError {
  override readonly name = 'SetupError'
  readonly code = 'ERR_SESSION_SETUP'
}

/** Why a call failed with a `DatabaseError`. */
export type DatabaseErrorCode =
  | 'ERR_SESSION_DATABASE'
  | 'ERR_SESSION_UNREACHABLE'
  | 'ERR_SESSION_TIMEOUT'
  | 'ERR_SESSION_BUSY'

/**
 * The database could not be reached, or it rejected the statement. After a read that fails with this error it is unknown
 * whether the session exists; a write that fails with it may still have been made. `cause` has the driver's message and
 * code.
 *
 * The error has a `code` of its own because koa-generic-session treats `ENOENT`, the driver's code for a missing unix
 * socket, as "no such session", which would sign users out.
 *
 * `code` is
 * - `'ERR_SESSION_UNREACHABLE'` if the server is known to be unreachable, and was not asked for this call;
 * - `'ERR_SESSION_TIMEOUT'` if the call took longer than a connection and a statement may take: because of a lock, say;
 * - `'ERR_SESSION_BUSY'` if too many calls wait, or the call waited too long for those before it: nothing was written;
 * - `'ERR_SESSION_DATABASE'` for anything else.
 *
 * `status` is 503, and `headers` has `Retry-After`: Koa answers with both.
 */
export class DatabaseError extends UnavailableError {
  override readonly name = 'DatabaseError'
  readonly code: DatabaseErrorCode
  constructor(message: string, options?: ErrorOptions & { code?: DatabaseErrorCode }) {
    super(message, options)
    this.code = options?.code ?? 'ERR_SESSION_DATABASE'
  }
}

/** The value of a session attribute doesn't match its `sessionKey`, or can't be checked. The message doesn't contain the value. */
export class AttributeError extends TypeError {
  override readonly name = 'AttributeError'
  readonly code = 'ERR_SESSION_ATTRIBUTE'
  constructor(
    /** The name of the attribute. */
    readonly attribute: string,
    problem: string,
  ) {
    super(`session attribute ${JSON.stringify(attribute)}: ${problem}`)
  }
}

/**
 * A stored session can't be decoded: its key isn't configured, or the row was modified outside the store. The row is left as
 * it is and is never treated as an empty session. The message contains no session data.
 */
export class DecodeError extends Error {
  override readonly name = 'DecodeError'
  readonly code = 'ERR_SESSION_DECODE'
  constructor(
    message: string,
    /** The id of the key that is missing, if that is the reason. */
    readonly key?: string,
  ) {
    super(message)
  }
}

/** The option `codec` failed to encode a session. Nothing was written. The message contains no session data. */
export class EncodeError extends Error {
  override readonly name = 'EncodeError'
  readonly code = 'ERR_SESSION_ENCODE'
}
