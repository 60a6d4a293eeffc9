// What a command of the command line is, and what it is given.
import type { ParseArgsConfig } from 'node:util'
import type { Connection } from '../postgres/connection.js'
import type { PgStoreOptions } from '../types/options.js'
import type { Terminal } from './terminal.js'

/** What the user typed after the command's name, and whom it is typed to. */
export interface Context {
  readonly values: Readonly<Record<string, string | boolean | undefined>>
  /** What stood there without an option, where the command takes that. */
  readonly positionals: readonly string[]
  readonly terminal: Terminal
  /** Schema and table, as the store's options. */
  readonly options: Pick<PgStoreOptions, 'schema' | 'table'>
  /** The database that was named; not connected yet. */
  readonly connection: Connection
}

export interface Command {
  /** One line for the list of commands. */
  readonly summary: string
  /** What it is for, and its own options. */
  readonly help: string
  readonly options: NonNullable<ParseArgsConfig['options']>
  /** Whether it takes anything without an option. */
  readonly takesHandles?: boolean
  /** Whether it talks to a database when it is called like this. */
  needsDatabase?(values: Context['values']): boolean
  /** Answers the exit status. What it throws is told in one line, with status 1. */
  run(context: Context): Promise<number>
}

/** The command line can't be understood: exit status 2. */
export class UsageError extends Error {}

/** Whether it has the form of a session's handle: what `list` prints, and `revoke` takes. */
export function isHandle(text: string): boolean {
  return /^[\w-]{43}$/.test(text)
}

/** A whole number that the user gave, if they did. */
export function wholeNumber(values: Context['values'], name: string, least: number): number | undefined {
  const text = values[name]
  if (text === undefined) return undefined
  const number = Number(text)
  if (!/^\d+$/.test(String(text)) || !Number.isSafeInteger(number) || number < least)
    throw new UsageError(
      `--${name} must be a whole number, ${least} or more; received ${JSON.stringify(text)}`,
    )
  return number
}
