// The options: their defaults, their checks, and a frozen copy that the rest of the store reads.
import { describe } from './errors.js'
import type { PgStoreOptions } from './types.js'

/** The options as the store uses them. */
export interface Settings {
  readonly schema: string
  readonly table: string
  readonly create: boolean
  readonly ttl: number
  readonly maxLifetime: number | undefined
  readonly maxBytes: number
  readonly hashIds: boolean
}

const defaults: Settings = {
  schema: 'public',
  table: 'session',
  create: true,
  ttl: 24 * 60 * 60 * 1000,
  maxLifetime: undefined,
  maxBytes: 1024 * 1024,
  hashIds: true,
}

/** Checks what the user gave and fills in the rest. Throws `TypeError` or `RangeError`, naming the option. */
export function readOptions(options: PgStoreOptions = {}): Settings {
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw new TypeError(`options must be an object; received ${describe(options)}`)
  const known = Object.keys(defaults)
  for (const name of Object.keys(options))
    if (!known.includes(name))
      throw new TypeError(`option "${name}" is unknown; known are ${known.join(', ')}`)
  const given = Object.entries(options).filter(([, value]) => value !== undefined)
  const settings: Settings = { ...defaults, ...Object.fromEntries(given) }
  identifier('schema', settings.schema)
  identifier('table', settings.table)
  boolean('create', settings.create)
  boolean('hashIds', settings.hashIds)
  milliseconds('ttl', settings.ttl)
  if (settings.maxLifetime !== undefined) milliseconds('maxLifetime', settings.maxLifetime)
  if (typeof settings.maxBytes !== 'number') wrong('maxBytes', 'a number of bytes', settings.maxBytes)
  if (!Number.isInteger(settings.maxBytes) || settings.maxBytes < 2)
    outOfRange('maxBytes', 'a whole number of bytes, 2 or more', settings.maxBytes)
  return Object.freeze(settings)
}

function identifier(name: string, value: unknown): void {
  if (typeof value !== 'string') wrong(name, 'a string', value)
  // PostgreSQL cuts longer names silently, and two tables could become one.
  if (value === '' || value.includes('\0') || Buffer.byteLength(value) > 63)
    outOfRange(name, 'a name of 1 to 63 bytes without NUL', value)
}

function boolean(name: string, value: unknown): void {
  if (typeof value !== 'boolean') wrong(name, 'true or false', value)
}

function milliseconds(name: string, value: unknown): void {
  if (typeof value !== 'number') wrong(name, 'a number of milliseconds', value)
  if (!Number.isFinite(value) || value <= 0) outOfRange(name, 'a number of milliseconds above 0', value)
}

function wrong(name: string, right: string, value: unknown): never {
  throw new TypeError(`option "${name}" must be ${right}; received ${describe(value)}`)
}

function outOfRange(name: string, right: string, value: unknown): never {
  throw new RangeError(`option "${name}" must be ${right}; received ${describe(value)}`)
}
