// Checks the argument `connection` and makes a Connection of it, without opening it.
import pg, { type ClientConfig, type Pool, type PoolConfig } from 'pg'
import type { ConnectionSource } from '../types/options.js'
import { codeOf } from '../util/driver-errors.js'
import { describe } from '../util/validate.js'
import { type Connection, defaultConnectTimeoutMs } from './connection.js'
import { FunctionConnection } from './function-connection.js'
import { PoolConnection } from './pool-connection.js'

/**
 * Makes the connection without opening it. `warn` gets the errors of idle connections, which nobody waits for. Throws a
 * `TypeError` for what can't be one; its message never quotes a connection string, which may hold a password.
 */
export function connect(source: ConnectionSource, warn: (error: Error) => void, prepare = true): Connection {
  if (typeof source === 'function') return new FunctionConnection(source)
  if (typeof source === 'object' && source !== null && isPool(source))
    return new PoolConnection(source, warn, false, prepare)
  return new PoolConnection(new pg.Pool(poolConfig(source)), warn, true, prepare)
}

/** What the listener connects with: its own configuration, or the same as the store; `undefined`: it can't. */
export function listenConfig(
  listen: string | ClientConfig | false | undefined,
  connection: Connection,
): ClientConfig | undefined {
  if (listen === false) return undefined
  return listen === undefined
    ? connection.clientConfig
    : poolConfig(listen, 'option "listen"', 'a connection string, a pg configuration or false')
}

const connectionForms = 'a connection string, a pg configuration, a pg.Pool or a query function'

function poolConfig(source: string | PoolConfig, what = 'connection', forms = connectionForms): PoolConfig {
  const config = typeof source === 'string' ? { connectionString: connectionString(source, what) } : source
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new TypeError(`${what} must be ${forms}; received ${describe(config)}`)
  if (config instanceof pg.Client || typeof Reflect.get(config, 'query') === 'function')
    throw new TypeError(
      `${what} must be ${forms}; received a client: give (text, values) => client.query(text, values)`,
    )
  if ('connectionString' in config && config.connectionString !== undefined)
    connectionString(config.connectionString, what)
  return {
    connectionTimeoutMillis: defaultConnectTimeoutMs,
    keepAlive: true,
    // No idle connection keeps the process alive (promise 14).
    allowExitOnIdle: true,
    fallback_application_name: 'koa-pg-store',
    ...config,
  }
}

function connectionString(value: unknown, what: string): string {
  const right = `${what} string must look like postgres://user:password@host:5432/database`
  if (typeof value !== 'string') throw new TypeError(`${right}; received ${describe(value)}`)
  if (value.trim() === '') throw new TypeError(`${right}; received an empty one`)
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(value)?.[1]?.toLowerCase()
  if (scheme === undefined && !value.startsWith('/') && !value.startsWith('socket:'))
    throw new TypeError(`${right}; received one without postgres:// (not shown: it may hold a password)`)
  if (scheme !== undefined && !['postgres', 'postgresql', 'socket'].includes(scheme))
    throw new TypeError(`${right}; received one that begins with ${scheme}://`)
  try {
    new pg.Client(value)
  } catch (error) {
    throw new TypeError(`${right}; received one that can't be read (${codeOf(error) ?? 'not shown'})`)
  }
  return value
}

/** By form, not by class: the application's `pg` may be another copy than ours. */
function isPool(source: object): source is Pool {
  const has = (name: string) => typeof Reflect.get(source, name) === 'function'
  return has('connect') && has('query') && typeof Reflect.get(source, 'totalCount') === 'number'
}
