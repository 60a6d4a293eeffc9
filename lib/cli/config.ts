// Reads the application's own module: its connection and the options of its store.
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { ConnectionSource, PgStoreOptions } from '../types/options.js'
import { messageOf } from '../util/driver-errors.js'
import { describe } from '../util/validate.js'
import { UsageError } from './command.js'

export interface Config {
  /** `undefined` if the module doesn't say. */
  readonly connection: Exclude<ConnectionSource, (...args: never[]) => unknown> | undefined
  readonly options: PgStoreOptions
}

/** Imports the module that was given as `--config`. */
export async function loadConfig(path: string): Promise<Config> {
  const value = await importDefault('--config', path)
  const example = 'export default { connection: process.env.DATABASE_URL, table: "session" }'
  if (typeof value !== 'object' || value === null || typeof Reflect.get(value, 'get') === 'function')
    throw new UsageError(
      `--config: the default export of ${path} must be an object with the options of the store, such as ${example}; received ${typeof value === 'object' && value !== null ? 'a store' : describe(value)}`,
    )
  const { connection, ...options } = value as PgStoreOptions & { connection?: ConnectionSource }
  if (typeof connection === 'function')
    throw new UsageError(
      `--config: connection in ${path} must be a connection string, a pg configuration or a pg.Pool for the command line; received a function`,
    )
  return { connection, options }
}

/** Imports a module of the application by a path from here, and returns its default export. */
export async function importDefault(option: string, path: string): Promise<unknown> {
  try {
    return ((await import(pathToFileURL(resolve(path)).href)) as { default?: unknown }).default
  } catch (error) {
    throw new Error(`${option}: ${path} can’t be loaded: ${messageOf(error)}`, { cause: error })
  }
}
