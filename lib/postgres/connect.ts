// Checks the argument `connection`, and makes a Connection of it without opening it.
import pg, { type ClientConfig, type Pool, type PoolConfig } from 'pg'
import type { ConnectionSource } from '../types/options.js'
import { codeOf } from '../util/driver-errors.js'
import { describe } from '../util/validate.js'
import { type Connection, defaultConnectTimeoutMs } from './connection.js'
import { FunctionConnection } from './function-connection.js'
import { assertKnownKeys } from './pg-config.js'
import { PoolConnection } from './pool-connection.js'

const connectionForms = 'a connection string, a pg configuration, a pg.Pool or a query function'

export interface ConnectOptions {
  /** Receives the errors of idle connections. */
  readonly warn: (error: Error) => void
  /** The option `prepare`. */
  readonly prepare?: boolean
  /** The names of the store's options, which belong in the second argument. */
  readonly storeOptions?: readonly string[]
}

/**
 * Makes the connection without opening it. Without a `source`, the environment says where the database is. Throws a
 * `TypeError` for what can't be a connection; its message never quotes a connection string, which may hold a password.
 */
export function connect(
  source: ConnectionSource | undefined,
  { warn, prepare = true, storeOptions = [] }: ConnectOptions,
): Connection {
  if (typeof source === 'function') return new FunctionConnection(source)
  if (typeof source === 'object' && source !== null && isPool(source))
    return new PoolConnection(source, warn, false, prepare)
  const config =
    source === undefined
      ? poolConfig(requireEnvironment(), 'DATABASE_URL')
      : poolConfig(source, undefined, storeOptions)
  const pool = new pg.Pool(config)
  if (config.idleTimeoutMillis === undefined) closeSurplusEarly(pool)
  return new PoolConnection(pool, warn, true, prepare)
}

/** How long connections stay open that were only needed for a while: all idle ones but one. */
const surplusIdleMs = 1_000

/**
 * Behind a pooler in session mode, an idle connection keeps a connection of the server from other processes. The last one
 * stays for pg's 10 seconds, so that a request after a pause needn't open one.
 */
function closeSurplusEarly(pool: Pool): void {
  const idleMs = pool.options.idleTimeoutMillis
  // The pool reads this when it has emitted the event.
  pool.on('release', () => {
    pool.options.idleTimeoutMillis = pool.idleCount === 0 ? idleMs : surplusIdleMs
  })
}

/** Returns what `DATABASE_URL` says, or `{}` if libpq's variables do, which pg reads itself; `undefined` without both. */
export function fromEnvironment(): PoolConfig | undefined {
  const { DATABASE_URL, PGHOST, PGPORT, PGUSER, PGDATABASE, PGSERVICE, PGTARGETSESSIONATTRS } = process.env
  if (DATABASE_URL) return { connectionString: DATABASE_URL }
  if (PGSERVICE) throw new TypeError(`PGSERVICE is set; ${noServices}`)
  if (PGHOST?.includes(',')) throw new TypeError(`PGHOST ${severalHosts}`)
  if (PGTARGETSESSIONATTRS && PGTARGETSESSIONATTRS !== 'any')
    throw new TypeError(`PGTARGETSESSIONATTRS is set, ${ignoredTarget}`)
  return PGHOST || PGPORT || PGUSER || PGDATABASE ? {} : undefined
}

/** `pg` ignores services, and would connect to another server. */
const noServices =
  'service files are not read: set DATABASE_URL=postgres://user:password@host:5432/database, or PGHOST, PGDATABASE and so on'

/** What to do where libpq would choose among several servers. */
const onePrimary =
  "use one host name that always leads to the primary, such as the provider's endpoint, HAProxy or a pooler"
const severalHosts = `names several hosts, of which pg can't choose one: ${onePrimary}`
const ignoredTarget = `which pg ignores: remove it, and ${onePrimary}`

function requireEnvironment(): PoolConfig {
  const config = fromEnvironment()
  if (config !== undefined) return config
  const isEmpty = process.env.DATABASE_URL === '' ? 'is empty' : 'is not set'
  throw new TypeError(
    `no database given, and DATABASE_URL ${isEmpty}: pass ${connectionForms}, or set` +
      ' DATABASE_URL=postgres://user:password@host:5432/database, or PGHOST, PGUSER, PGPASSWORD and PGDATABASE',
  )
}

/** The configuration of the LISTEN connection: its own, or the store's; `undefined` if there can be none. */
export function listenConfig(
  listen: string | ClientConfig | false | undefined,
  connection: Connection,
): ClientConfig | undefined {
  if (listen === false) return undefined
  return listen === undefined
    ? connection.clientConfig
    : poolConfig(listen, 'option "listen"', [], 'a connection string, a pg configuration or false')
}

function poolConfig(
  source: string | PoolConfig,
  name = 'connection',
  storeOptions: readonly string[] = [],
  forms = connectionForms,
): PoolConfig {
  const config = typeof source === 'string' ? { connectionString: checkString(source, name) } : source
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new TypeError(`${name} must be ${forms}; received ${describe(config)}`)
  if (config instanceof pg.Client || typeof Reflect.get(config, 'query') === 'function')
    throw new TypeError(
      `${name} must be ${forms}; received a client: pass (text, values) => client.query(text, values)`,
    )
  assertKnownKeys(config, name, storeOptions)
  if (typeof config.host === 'string' && config.host.includes(','))
    throw new TypeError(`${name} has a "host" that ${severalHosts}`)
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
  if (/[?&]service=/.test(value)) throw new TypeError(`${name} string names a service; ${noServices}`)
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(value)?.[1]?.toLowerCase()
  if (scheme === undefined && !value.startsWith('/') && !value.startsWith('socket:'))
    throw new TypeError(`${form}; received one without postgres:// (not shown: it may hold a password)`)
  if (scheme !== undefined && !['postgres', 'postgresql', 'socket'].includes(scheme))
    throw new TypeError(`${form}; received one that begins with ${scheme}://`)
  const hosts = /^[a-z]+:\/\/(?:[^/?#]*@)?([^/?#]*)/i.exec(value)?.[1] ?? ''
  if (hosts.includes(',') || /[?&]host=[^&]*(?:,|%2c|&(?:.*&)?host=)/i.test(value))
    throw new TypeError(`${name} string ${severalHosts}`)
  const target = /[?&]target_session_attrs=([^&]*)/.exec(value)?.[1]
  if (target !== undefined && target !== 'any')
    throw new TypeError(`${name} string has target_session_attrs=${target}, ${ignoredTarget}`)
  if (hasUnescapedAt(value))
    throw new TypeError(`${form}; received one with an "@" after the host. ${passwordAdvice}`)
  try {
    new pg.Client(value)
  } catch (error) {
    throw new TypeError(
      `${form}; received one that can't be parsed (${codeOf(error) ?? 'not shown'}). ${passwordAdvice}`,
    )
  }
  return value
}

const passwordAdvice = 'In a password, write "@" as %40, "/" as %2F, "#" as %23, "?" as %3F and "%" as %25'

/**
 * Whether a `/`, `#` or `?` in the password made pg take a part of it for the host, as in `postgres://u:a@b/c@host/db`. That
 * part must not get into an error message, such as that of a name server.
 */
function hasUnescapedAt(url: string): boolean {
  const afterHost = /^[a-z+]+:\/\/[^/?#]*([/?#].*)$/is.exec(url)?.[1] ?? ''
  const [beforeQuery = '', ...query] = afterHost.split('?')
  return beforeQuery.includes('@') || /^[^=&]*@/.test(query.join('?'))
}

/** By its form, not its class: the application's `pg` may be another copy than ours. */
function isPool(source: object): source is Pool {
  const has = (name: string) => typeof Reflect.get(source, name) === 'function'
  return has('connect') && has('query') && typeof Reflect.get(source, 'totalCount') === 'number'
}
