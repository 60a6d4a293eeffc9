// The errors that the package throws.
/** A session was larger than `maxBytes` allows, or one of its attributes than `maxAttributeBytes`. Nothing was written: the stored session is as it was. */
export class SessionTooLargeError extends RangeError {
  override readonly name = 'SessionTooLargeError'
  readonly code = 'ERR_SESSION_TOO_LARGE'
  constructor(
    /** The size, in bytes of JSON in UTF-8, of the session, or of the attribute. */
    readonly bytes: number,
    /** What the option allows. */
    readonly maxBytes: number,
    /** The attribute that exceeds `maxAttributeBytes`; `undefined`: the session exceeds `maxBytes`. */
    readonly attribute?: string,
  ) {
    const what =
      attribute === undefined ? 'the session' : `the session attribute ${JSON.stringify(attribute)}`
    const option = attribute === undefined ? 'maxBytes' : 'maxAttributeBytes'
    super(`${what} is ${bytes} bytes of JSON; ${option} allows ${maxBytes}. Nothing was written`)
  }
}

/**
 * Somebody else changed the session since it was loaded, and `concurrency: 'reject'` forbids to save over that, or it was
 * changed faster than it could be merged. Nothing was written: load it again.
 */
export class ConflictError extends Error {
  override readonly name = 'ConflictError'
  readonly code = 'ERR_SESSION_CONFLICT'
}

/** The session table can't be used; the message says why and what to run. The next use tries again. */
export class SetupError extends Error {
  override readonly name = 'SetupError'
  readonly code = 'ERR_SESSION_SETUP'
}

/**
 * The database couldn't be asked, or refused. A read that fails with it says nothing about whether the session exists;
 * a write that fails with it may have been made. `cause` has the driver's message and code.
 *
 * Its own `code` is never the driver's: koa-generic-session takes an error with the code `ENOENT` (a missing unix
 * socket) for "no such session", which would sign people out.
 */
export class DatabaseError extends Error {
  override readonly name = 'DatabaseError'
  readonly code = 'ERR_SESSION_DATABASE'
}

/** An attribute of a session isn't what its key allows, or can't be checked. The message doesn't say what it was. */
export class AttributeError extends TypeError {
  override readonly name = 'AttributeError'
  readonly code = 'ERR_SESSION_ATTRIBUTE'
  constructor(
    /** The name of the attribute. */
    readonly attribute: string,
    what: string,
  ) {
    super(`session attribute ${JSON.stringify(attribute)}: ${what}`)
  }
}

/**
 * What is stored of a session can't be decoded: its key is missing, or it was changed past the store. It is as it was; it
 * is never taken for an empty session. The message doesn't say what it was.
 */
export class DecodeError extends Error {
  override readonly name = 'DecodeError'
  readonly code = 'ERR_SESSION_DECODE'
  constructor(
    message: string,
    /** The name of the key that is needed, if that was it. */
    readonly key?: string,
  ) {
    super(message)
  }
}

/** The option `codec` couldn't encode a session. Nothing was written. The message doesn't say what the session holds. */
export class EncodeError extends Error {
  override readonly name = 'EncodeError'
  readonly code = 'ERR_SESSION_ENCODE'
}
