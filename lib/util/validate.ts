// Checks options and arguments: each check throws a `TypeError` or `RangeError` that names the option and the value.
import { didYouMean } from './did-you-mean.js'

/** Returns the defaults overridden by the given options, of which `undefined` counts as not given. */
export function withDefaults<T extends object>(name: string, defaults: T, given: object): T {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new TypeError(
      `${name === 'options' ? name : `option "${name}"`} must be an object; received ${describe(given)}`,
    )
  const known = Object.keys(defaults)
  const unknown = Object.keys(given).find((key) => !known.includes(key))
  if (unknown !== undefined) {
    const prefix = name === 'options' ? '' : `${name}.`
    throw new TypeError(
      `option "${prefix}${unknown}" is unknown; known options: ${known.join(', ')}${didYouMean(unknown, known)}`,
    )
  }
  return {
    ...defaults,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  }
}

export function assertInteger(name: string, value: unknown, unit: string, min: number): void {
  if (typeof value !== 'number') invalidType(name, `a number of ${unit}`, value)
  if (!Number.isSafeInteger(value) || value < min)
    outOfRange(name, `a whole number of ${unit}, ${min} or more`, value)
}

export function assertIdentifier(name: string, value: unknown): void {
  if (typeof value !== 'string') invalidType(name, 'a string', value)
  // PostgreSQL truncates longer names silently, so that two names could mean one table.
  if (value === '' || value.includes('\0') || Buffer.byteLength(value) > 63)
    outOfRange(name, 'a name of 1 to 63 bytes without NUL', value)
}

export function assertBoolean(name: string, value: unknown): void {
  if (typeof value !== 'boolean') invalidType(name, 'true or false', value)
}

export function assertDuration(name: string, value: unknown): void {
  if (typeof value !== 'number') invalidType(name, 'a number of milliseconds', value)
  if (!Number.isFinite(value) || value <= 0) outOfRange(name, 'a number of milliseconds above 0', value)
}

export function invalidType(name: string, expected: string, value: unknown): never {
  throw new TypeError(`option "${name}" must be ${expected}; received ${describe(value)}`)
}

export function outOfRange(name: string, expected: string, value: unknown, reason = ''): never {
  throw new RangeError(`option "${name}" must be ${expected}; received ${describe(value)}${reason}`)
}

/** Describes a value for an error message: objects and functions by their kind only. */
export function describe(value: unknown): string {
  if (typeof value === 'string')
    return `${JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)} (a string)`
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object' && value !== null) return 'an object'
  if (typeof value === 'function') return 'a function'
  return String(value)
}

export function assertString(value: unknown, name: string): void {
  if (typeof value !== 'string') throw new TypeError(`${name} must be a string; received ${describe(value)}`)
}
