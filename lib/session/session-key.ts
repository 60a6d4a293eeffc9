// sessionKey: one attribute of a session with its type, its check, its default and its end.

import { AttributeError } from '../types/errors.js'
import type { InputOf, OutputOf, StandardSchemaResult, StandardSchemaV1 } from '../types/standard-schema.js'
import { assertDuration, describe, withDefaults } from '../util/validate.js'
import { isExpiring } from './expiring-attribute.js'

/** A session as the middlewares have it; `null` once it was signed out. */
type MaybeSession = object | null | undefined

/** A typed attribute of a session. `Input` is what is saved, `Output` what the schema makes of it. */
export interface SessionKey<Input, Output, Missing = undefined> {
  /** The attribute's name in the session. */
  readonly name: string
  /**
   * The value; the default, or `undefined`, where there is none, or no more. An object of the caller's own: change it by
   * `set` or `update`. Throws an `AttributeError` if what is stored isn't what the schema allows.
   */
  get(session: MaybeSession): Output | Missing
  /**
   * Gives the attribute a value, to be saved with the session; its time begins anew. Throws an `AttributeError`, and leaves
   * the attribute as it was, for what the schema doesn't allow or wouldn't when it comes back from JSON.
   */
  set(session: MaybeSession, value: Input): void
  /** Sets what `change` makes of the value, and answers it as `get` would. */
  update(session: MaybeSession, change: (value: Output | Missing) => Input): Output
  /** Takes the attribute away. */
  delete(session: MaybeSession): void
}

/** Options of `sessionKey`. */
export interface SessionKeyOptions {
  /** How long the value lives after it was set, in ms. Default: as long as the session. */
  ttl?: number | undefined
  /**
   * The clock of `ttl`: milliseconds since 1970. Default `Date.now`, the application's: where the clocks of an
   * application's machines differ, the value lives longer or shorter by as much.
   */
  now?: (() => number) | undefined
}

export interface SessionKeyOptionsWithDefault<Input> extends SessionKeyOptions {
  /** What `get` answers where there is no value. Checked by the schema as a value would be. */
  default: Input
}

/**
 * A key to one attribute of sessions: `const cart = sessionKey('cart', z.array(z.number()), { default: [] })`, then
 * `cart.get(ctx.session)` and `cart.set(ctx.session, [7])`. Any Standard Schema checks the value on its way in and out
 * (zod, valibot, arktype); it must do that synchronously. What is saved is the value as JSON, not what the schema makes
 * of it, which `get` answers.
 *
 * With `ttl` the attribute ends by itself: `{ '~value', '~expires' }` is what is saved, so nobody takes it for the value
 * who doesn't ask the key. Once it is over, the key answers as if it weren't there, and the stores of this package neither
 * answer it to anybody nor save it again. This is measured by the clock `now`, not by the database's, as a session knows
 * no other; it bounds a sign-in that is to last five minutes, and proves nothing against who can turn the clock.
 *
 * Throws a `TypeError` or a `RangeError`, naming the argument, for what it can't use.
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
/** Without a schema nothing is checked: the type is what the caller knows, `sessionKey<number>('visits')`. */
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
  return new Key(name, schema, options)
}

const defaults = { default: undefined as unknown, ttl: undefined as number | undefined, now: Date.now }

class Key implements SessionKey<unknown, unknown> {
  readonly name: string
  readonly #schema: StandardSchemaV1 | undefined
  readonly #ttl: number | undefined
  readonly #now: () => number
  /** The default as JSON. */
  readonly #default: string | undefined

  constructor(name: string, schema: StandardSchemaV1 | undefined, options: object) {
    if (typeof name !== 'string') throw new TypeError(`name must be a string; received ${describe(name)}`)
    // koa-session saves no such attribute, and `__proto__` is none.
    if (name === '' || name.startsWith('_'))
      throw new RangeError(`name must not be empty or begin with "_"; received ${describe(name)}`)
    if (schema !== undefined && typeof Object(schema)['~standard']?.validate !== 'function')
      throw new TypeError(`schema must be a Standard Schema, such as zod's; received ${describe(schema)}`)
    const { default: initial, ttl, now } = withDefaults('options', defaults, options)
    if (ttl !== undefined) assertDuration('ttl', ttl)
    if (typeof now !== 'function')
      throw new TypeError(`option "now" must be a function; received ${describe(now)}`)
    this.name = name
    this.#schema = schema
    this.#ttl = ttl
    this.#now = now
    if (initial !== undefined) {
      this.#default = this.#toJson(initial, 'the default')
      this.#check(this.#default, 'the default')
    }
  }

  get(session: MaybeSession): unknown {
    const json = this.#read(session)
    return json === undefined ? undefined : this.#check(json, 'what is stored')
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

  /** The attribute as JSON, or the default. */
  #read(session: MaybeSession): string | undefined {
    const found: unknown =
      this.#isSession(session) && Object.hasOwn(session, this.name)
        ? Reflect.get(session, this.name)
        : undefined
    if (found === undefined) return this.#default
    if (!isExpiring(found)) return this.#toJson(found, 'what is stored')
    return found['~expires'] > this.#now() ? this.#toJson(found['~value'], 'what is stored') : this.#default
  }

  #write(session: MaybeSession, value: unknown): unknown {
    if (!this.#isSession(session)) throw new AttributeError(this.name, 'there is no session to set it in')
    const json = this.#toJson(value, 'what was to be set')
    const checked = this.#check(json, 'what was to be set')
    const kept: unknown = JSON.parse(json)
    const expiring = { '~value': kept, '~expires': this.#now() + (this.#ttl ?? 0) }
    Reflect.set(session, this.name, this.#ttl === undefined ? kept : expiring)
    return checked
  }

  #toJson(value: unknown, where: string): string {
    let json: string | undefined
    try {
      json = JSON.stringify(value)
    } catch {
      // Its message may quote the value.
    }
    if (json === undefined) throw new AttributeError(this.name, `${where} is nothing that JSON can hold`)
    return json
  }

  /** What the schema makes of a value; always an object of the caller's own. */
  #check(json: string, where: string): unknown {
    const value: unknown = JSON.parse(json)
    if (this.#schema === undefined) return value
    let result: StandardSchemaResult<unknown> | Promise<StandardSchemaResult<unknown>>
    try {
      result = this.#schema['~standard'].validate(value)
    } catch {
      throw new AttributeError(this.name, `${where} could not be checked: its schema throws`)
    }
    if (result instanceof Promise) {
      // Nobody waits for it.
      result.catch(() => undefined)
      throw new AttributeError(this.name, 'its schema checks asynchronously, and a key can’t wait for it')
    }
    // The issues' messages quote what they found.
    if (result.issues) throw new AttributeError(this.name, `${where} is not what its schema allows`)
    return result.value
  }

  #isSession(session: MaybeSession): session is object {
    if (session === null || session === undefined) return false
    if (typeof session !== 'object' || typeof Reflect.get(session, 'then') === 'function')
      throw new AttributeError(this.name, 'there is no session but a promise or the like; await it first')
    return true
  }
}
