// The interface of a command, and what several commands need to read their arguments.
import type { ParseArgsConfig } from 'node:util'
import type { Connection } from '../postgres/connection.js'
import type { Table } from '../schema/table.js'
import { toUserId } from '../session/user-id.js'
import type { PgStoreOptions } from '../types/options.js'
import { messageOf } from '../util/driver-errors.js'
import type { Terminal } from './terminal.js'

/** What a command runs with. */
export interface Context {
  readonly values: Readonly<Record<string, string | boolean | undefined>>
  /** The arguments that are no options, for a command that takes handles. */
  readonly positionals: readonly string[]
  readonly terminal: Terminal
  /** The options of the store: those of `--config`, with the schema and table that were given. */
  readonly options: PgStoreOptions
  /** The database, not connected yet. */
  readonly connection: Connection
}

export interface Command {
  /** One line for the list of commands. */
  readonly summary: string
  /** The usage and the command's own options. */
  readonly help: string
  readonly options: NonNullable<ParseArgsConfig['options']>
  /** Whether handles of sessions may be given as arguments. */
  readonly takesHandles?: boolean
  /** Whether a call with these options needs a database. Default: true. */
  needsDatabase?(values: Context['values']): boolean
  /** Resolves with the exit status. An error is printed in one line, with exit status 1. */
  run(context: Context): Promise<number>
}

/** A mistake in the command line: exit status 2. */
export class UsageError extends Error {}

/** Whether a text has the form of a handle, as `list` prints it and `revoke` takes it. */
export function isHandle(text: string): boolean {
  return /^[\w-]{43}$/.test(text)
}

/** Returns the whole number that was given as `--name`, if any. */
export function readInteger(values: Context['values'], name: string, min: number): number | undefined {
  const text = values[name]
  if (text === undefined) return undefined
  const value = Number(text)
  if (!/^\d+$/.test(String(text)) || !Number.isSafeInteger(value) || value < min)
    throw new UsageError(`--${name} must be a whole number, ${min} or more; received ${JSON.stringify(text)}`)
  return value
}

/** Returns the user that was given as `--user`, if any. */
export function readUserId({ values }: Context): string | undefined {
  if (values.user === undefined) return undefined
  try {
    return toUserId(values.user, '--user')
  } catch (error) {
    throw new UsageError(messageOf(error))
  }
}

export function assertUserColumn({ name, columns }: Table): void {
  if (!columns.has('user_id'))
    throw new Error(`${name} has no column user_id, so its sessions can't be found by user: run migrate`)
}
