// Keeps what the option `device` returns in a session's JSON, and takes it out again for lists. Pure.
import type { Session } from '../types/session-store.js'
import { parse } from './json.js'

/** The attribute that holds it. Saved with the session, so that a codec encrypts it too. */
const attribute = '~device'

/** A client chooses its headers: without a limit it could fill the table. */
const maxChars = 2_048

/** Returns a session's JSON with the device in it; without a device, the JSON as it is. */
export function withDevice(json: string, device: unknown): string {
  if (device === undefined || device === null) return json
  const text = toJson(device)
  if (json.includes(`"${attribute}"`))
    return JSON.stringify({ ...parse(json), [attribute]: JSON.parse(text) as unknown })
  const start = json === '{}' ? '{' : `${json.slice(0, -1)},`
  return `${start}"${attribute}":${text}}`
}

function toJson(device: unknown): string {
  // JSON.stringify would turn a promise into an empty object.
  const isPromise = typeof Reflect.get(Object(device), 'then') === 'function'
  const text: string | undefined = isPromise ? undefined : JSON.stringify(device)
  if (text === undefined)
    throw new TypeError(
      `the result of the option "device" must be a value that JSON can hold; received ${isPromise ? 'a promise' : typeof device}`,
    )
  if (text.length > maxChars)
    throw new RangeError(
      `the result of the option "device" must have at most ${maxChars} characters of JSON; received ${text.length}`,
    )
  return text
}

/** Takes the device out of a session that was loaded for a list. */
export function splitDevice(stored: Session): { session: Session; device: unknown } {
  if (!(attribute in stored)) return { session: stored, device: undefined }
  const { [attribute]: device, ...session } = stored
  return { session, device }
}
