// Checks the argument `connection`, and makes a Connection of it without opening it.
import pg, { type ClientConfig, type Pool, type PoolConfig } from 'pg'
import type { ConnectionSource } from '../types/options.js'
import { codeOf } from '../util/driver-errors.js'
import { describe } from '../util/validate.js'
import { type Connection, defaultConnectTimeoutMs } from './connection.js'
import { FunctionConnection } from './function-connection.js'
import { PoolConnection } from './pool-connection.js'

const connectionForms = 'a connection string, a pg configuration, a pg.Pool or a query function'

/**
 * Makes the connection without opening it. `warn` receives the errors of idle connections. Throws a `TypeError` for what
 * can't be a connection; its message never quotes a connection string, which may hold a password.
 */
export function connect(source: ConnectionSource, warn: (error: Error) => void, prepares = true): Connection {
  if (typeof source === 'function') return new FunctionConnection(source)
  if (typeof source === 'object' && source !== null && isPool(source))
    return new PoolConnection(source, warn, false, prepares)
  return new PoolConnection(new pg.Pool(poolConfig(source)), warn, true, prepares)
}

/** The configuration of the LISTEN connection: its own, or the store's; `undefined` if there can be none. */
export function listenConfig(
  listen: string | ClientConfig | false | undefined,
  connection: Connection,
): ClientConfig | undefined {
  if (listen === false) return undefined
  return listen === undefined
    ? connection.clientConfig
    : poolConfig(listen, 'option "listen"', 'a connection string, a pg configuration or false')
}

function poolConfig(source: string | PoolConfig, name = 'connection', forms = connectionForms): PoolConfig {
  const config = typeof source === 'string' ? { connectionString: checkString(source, name) } : source
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new TypeError(`${name} must be ${forms}; received ${describe(config)}`)
  if (config instanceof pg.Client || typeof Reflect.get(config, 'query') === 'function')
    throw new TypeError(
      `${name} must be ${forms}; received a client: pass (text, values) => client.query(text, values)`,
    )
  if ('connectionString' in config && config.connectionString !== undefined)
    checkString(config.connectionString, name)
  return {
    connectionTimeoutMillis: defaultConnectTimeoutMs,
    keepAlive: true,
    // Idle connections don't keep the process running.
    allowExitOnIdle: true,
    fallback_application_name: 'koa-pg-store',
    ...config,
  }
}

function checkString(value: unknown, name: string): string {
  const form = `${name} string must look like postgres://user:password@host:5432/database`
  if (typeof value !== 'string') throw new TypeError(`${form}; received ${describe(value)}`)
  if (value.trim() === '') throw new TypeError(`${form}; received an empty string`)
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(value)?.[1]?.toLowerCase()
  if (scheme === undefined && !value.startsWith('/') && !value.startsWith('socket:'))
    throw new TypeError(`${form}; received one without postgres:// (not shown: it may hold a password)`)
  if (scheme !== undefined && !['postgres', 'postgresql', 'socket'].includes(scheme))
    throw new TypeError(`${form}; received one that begins with ${scheme}://`)
  try {
    new pg.Client(value)
  } catch (error) {
    throw new TypeError(`${form}; received one that can't be parsed (${codeOf(error) ?? 'not shown'})`)
  }
  return value
}

/** By its form, not its class: the application's `pg` may be another copy than ours. */
function isPool(source: object): source is Pool {
  const has = (name: string) => typeof Reflect.get(source, name) === 'function'
  return has('connect') && has('query') && typeof Reflect.get(source, 'totalCount') === 'number'
}
