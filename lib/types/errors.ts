// The errors that the package throws, and what it lets through of those it was given: never an id or a session.

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

const kept = ['code', 'severity', 'hint', 'schema', 'table', 'column', 'constraint', 'routine'] as const

/** What is shorter may stand in any message, and protects nobody. */
const shortestSecret = 8

/**
 * A copy of a driver's error without what may hold ids or sessions: PostgreSQL's `detail` and `where` quote values, and
 * other drivers hang statement and parameters on their errors.
 */
export function withoutSecrets(error: unknown, secrets: readonly string[] = []): Error {
  let message = messageOf(error)
  for (const secret of secrets) {
    if (secret.length < shortestSecret) continue
    // As it is, and as it stands inside JSON.
    for (const form of [secret, JSON.stringify(secret).slice(1, -1)]) message = message.replaceAll(form, '…')
  }
  const copy = new Error(message)
  if (!(error instanceof Error)) return copy
  copy.name = error.name
  const frames = error.stack?.split('\n').filter((line) => /^\s+at /.test(line))
  if (frames?.length) copy.stack = [`${copy.name}: ${message}`, ...frames].join('\n')
  for (const key of kept) {
    const value: unknown = Reflect.get(error, key)
    if (typeof value === 'string') Object.defineProperty(copy, key, { value, enumerable: true })
  }
  return copy
}

/** What an error says; Node's AggregateError (a host with several addresses) itself says nothing. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0)
    return [...new Set(error.errors.map(messageOf))].join('; ')
  if (!(error instanceof Error)) return String(error)
  return error.message || codeOf(error) || error.name
}

/** The code of a driver's error: an SQLSTATE such as `42501`, or Node's, such as `ECONNREFUSED`. */
export function codeOf(error: unknown): string | undefined {
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined
  return typeof code === 'string' ? code : undefined
}

/** A value as an error names it. */
export function describe(value: unknown): string {
  if (typeof value === 'string')
    return `${JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)} (a string)`
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object' && value !== null) return 'an object'
  if (typeof value === 'function') return 'a function'
  return String(value)
}
