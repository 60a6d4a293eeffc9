// The users. Anyone may sign in to this example with the same password; an application looks its users up instead, and keeps
// hashes of their passwords.
import { timingSafeEqual } from 'node:crypto'

export interface User {
  /** Saved in the session, and what the store knows the user by. */
  readonly id: string
  readonly name: string
}

export const maxNameLength = 50

const password = Buffer.from('koa')

/** Returns the user, or undefined if the name or the password is wrong. */
export function authenticate(name: string, given: string): User | undefined {
  const user = userOf(name.trim())
  if (user.name === '' || user.name.length > maxNameLength) return undefined
  const bytes = Buffer.from(given)
  return bytes.length === password.length && timingSafeEqual(bytes, password) ? user : undefined
}

/** Returns the user whose id a session holds. */
export function userOf(id: string): User {
  return { id, name: id }
}
