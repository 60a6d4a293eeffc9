// sessionKey: typed access to one attribute of a session, with an optional schema, default and ttl.
import { AttributeError } from '../types/errors.js'
import type { InputOf, OutputOf, StandardSchemaResult, StandardSchemaV1 } from '../types/standard-schema.js'
import { assertDuration, describe, withDefaults } from '../util/validate.js'
import { isExpiring } from './stored-session.js'

/** A session as the middlewares provide it; `null` after signing out. */
type MaybeSession = object | null | undefined

/** A typed attribute of a session. `Input` is the type of what is saved, `Output` of what the schema makes of it. */
export interface SessionKey<Input, Output, Missing = undefined> {
  /** The attribute's name in the session. */
  readonly name: string
  /**
   * Returns the value, or the default (without one, `undefined`) if it is missing or has expired. Each call returns a new
   * object: to change the attribute, use `set` or `update`.
   *
   * @throws {AttributeError} if the stored value doesn't match the schema
   */
  get(session: MaybeSession): Output | Missing
  /**
   * Sets the attribute, to be saved with the session, and restarts its ttl.
   *
   * @throws {AttributeError} if there is no session, or if the value can't be stored as JSON or doesn't match the schema
   * when it is read back. The attribute keeps its old value.
   */
  set(session: MaybeSession, value: Input): void
  /**
   * Sets the attribute to what `change` returns for the current value, and returns the new value as `get` would.
   *
   * @throws {AttributeError} as `get` and `set` do
   * @example
   * visits.update(ctx.session, (n) => n + 1)
   */
  update(session: MaybeSession, change: (value: Output | Missing) => Input): Output
  /** Removes the attribute. */
  delete(session: MaybeSession): void
}

/** Options of `sessionKey`. */
export interface SessionKeyOptions {
  /**
   * How long after it was set the attribute expires, in ms.
   * @default no limit: it stays as long as the session
   */
  ttl?: number | undefined
  /**
   * The clock that `ttl` is measured by, in ms since 1970. The default is the application's clock: where the clocks of
   * several machines differ, the attribute expires that much earlier or later.
   * @default Date.now
   */
  now?: (() => number) | undefined
}

/** Options of `sessionKey` for a key whose `get` never returns `undefined`. */
export interface SessionKeyOptionsWithDefault<Input> extends SessionKeyOptions {
  /** What `get` returns if the attribute is missing. The schema checks it as it checks a value. */
  default: Input
}

/**
 * Returns a key for one attribute of sessions. Any Standard Schema (zod, valibot, arktype) checks the value when it is set
 * and when it is read; it must do so synchronously. What is saved is the value as JSON; `get` returns what the schema makes
 * of it.
 *
 * With `ttl`, the attribute expires by itself. It is saved as `{ '~value', '~expires' }`, so that code that doesn't use the
 * key can't mistake it for the value. Once it has expired, the key returns the default, and the stores of this package
 * neither return the attribute nor save it again. Unlike a session's expiry, this is measured by the clock `now`, not by the
 * database's: it limits a sign-in to five minutes, but doesn't protect against someone who can set that clock.
 *
 * @throws {TypeError | RangeError} if an argument can't be used; the message names it
 * @throws {AttributeError} if the default doesn't match the schema
 * @example
 * const cart = sessionKey('cart', z.array(z.number()), { default: [] })
 *
 * cart.set(ctx.session, [7])
 * cart.get(ctx.session) // [7]
 */
export function sessionKey<Schema extends StandardSchemaV1>(
  name: string,
  schema: Schema,
  options: SessionKeyOptionsWithDefault<InputOf<Schema>>,
): SessionKey<InputOf<Schema>, OutputOf<Schema>, never>
export function sessionKey<Schema extends StandardSchemaV1>(
  name: string,
  schema: Schema,
  options?: SessionKeyOptions,
): SessionKey<InputOf<Schema>, OutputOf<Schema>>
/** Returns a key without a schema: nothing is checked, and the caller states the type, as in `sessionKey<number>('visits')`. */
export function sessionKey<Value>(
  name: string,
  schema: undefined,
  options: SessionKeyOptionsWithDefault<Value>,
): SessionKey<Value, Value, never>
export function sessionKey<Value = unknown>(
  name: string,
  schema?: undefined,
  options?: SessionKeyOptions,
): SessionKey<Value, Value>
export function sessionKey(
  name: string,
  schema?: StandardSchemaV1,
  options: SessionKeyOptions & { default?: unknown } = {},
): SessionKey<unknown, unknown> {
  return new AttributeKey(name, schema, options)
}

const defaults = { default: undefined as unknown, ttl: undefined as number | undefined, now: Date.now }

class AttributeKey implements SessionKey<unknown, unknown> {
  readonly name: string
  readonly #schema: StandardSchemaV1 | undefined
  readonly #ttl: number | undefined
  readonly #now: () => number
  /** The default as JSON. */
  readonly #default: string | undefined

  constructor(name: string, schema: StandardSchemaV1 | undefined, options: object) {
    if (typeof name !== 'string') throw new TypeError(`name must be a string; received ${describe(name)}`)
    // koa-session doesn't save attributes that begin with "_", and `__proto__` can't be one.
    if (name === '' || name.startsWith('_'))
      throw new RangeError(`name must not be empty or begin with "_"; received ${describe(name)}`)
    if (schema !== undefined && typeof Object(schema)['~standard']?.validate !== 'function')
      throw new TypeError(`schema must be a Standard Schema, such as zod's; received ${describe(schema)}`)
    const { default: defaultValue, ttl, now } = withDefaults('options', defaults, options)
    if (ttl !== undefined) assertDuration('ttl', ttl)
    if (typeof now !== 'function')
      throw new TypeError(`option "now" must be a function; received ${describe(now)}`)
    this.name = name
    this.#schema = schema
    this.#ttl = ttl
    this.#now = now
    if (defaultValue !== undefined) {
      this.#default = this.#toJson(defaultValue, 'the default')
      this.#validate(this.#default, 'the default')
    }
  }

  get(session: MaybeSession): unknown {
    const json = this.#read(session)
    return json === undefined ? undefined : this.#validate(json, 'the stored value')
  }

  set(session: MaybeSession, value: unknown): void {
    this.#write(session, value)
  }

  update(session: MaybeSession, change: (value: unknown) => unknown): unknown {
    return this.#write(session, change(this.get(session)))
  }

  delete(session: MaybeSession): void {
    if (this.#isSession(session)) Reflect.deleteProperty(session, this.name)
  }

  /** Returns the attribute as JSON, or the default. */
  #read(session: MaybeSession): string | undefined {
    const stored: unknown =
      this.#isSession(session) && Object.hasOwn(session, this.name)
        ? Reflect.get(session, this.name)
        : undefined
    if (stored === undefined) return this.#default
    if (!isExpiring(stored)) return this.#toJson(stored, 'the stored value')
    return stored['~expires'] > this.#now()
      ? this.#toJson(stored['~value'], 'the stored value')
      : this.#default
  }

  #write(session: MaybeSession, value: unknown): unknown {
    if (!this.#isSession(session)) throw new AttributeError(this.name, 'there is no session to set it in')
    // koa-session's accessors (length, populated), and methods: a value of this name couldn't be stored, or would break them.
    const prototype: unknown = Object.getPrototypeOf(session)
    if (prototype !== null && prototype !== Object.prototype && this.name in (prototype as object))
      throw new AttributeError(
        this.name,
        'the session has an accessor or method of this name: choose another name',
      )
    const json = this.#toJson(value, 'the new value')
    const output = this.#validate(json, 'the new value')
    const plain: unknown = JSON.parse(json)
    const expiring = { '~value': plain, '~expires': this.#now() + (this.#ttl ?? 0) }
    Reflect.set(session, this.name, this.#ttl === undefined ? plain : expiring)
    return output
  }

  #toJson(value: unknown, what: string): string {
    let json: string | undefined
    try {
      json = JSON.stringify(value)
    } catch {
      // The error is dropped, as its message may quote the value.
    }
    if (json === undefined) throw new AttributeError(this.name, `${what} can't be stored as JSON`)
    return json
  }

  /** Returns what the schema makes of a value: a new object at each call. */
  #validate(json: string, what: string): unknown {
    const value: unknown = JSON.parse(json)
    if (this.#schema === undefined) return value
    let result: StandardSchemaResult<unknown> | Promise<StandardSchemaResult<unknown>>
    try {
      result = this.#schema['~standard'].validate(value)
    } catch {
      throw new AttributeError(this.name, `${what} can't be checked: its schema threw an error`)
    }
    if (result instanceof Promise) {
      // Its rejection must not be reported as unhandled.
      result.catch(() => undefined)
      throw new AttributeError(
        this.name,
        "its schema validates asynchronously, which session keys don't support",
      )
    }
    // The messages of the issues may quote the value.
    if (result.issues) throw new AttributeError(this.name, `${what} doesn't match its schema`)
    return result.value
  }

  #isSession(session: MaybeSession): session is object {
    if (session === null || session === undefined) return false
    if (typeof session !== 'object' || typeof Reflect.get(session, 'then') === 'function')
      throw new AttributeError(this.name, 'the session must be an object; if it is a promise, await it first')
    return true
  }
}
