// Checks the keys of a connection configuration: pg ignores those that it doesn't know, so that a mistake would go unnoticed.
import type { PoolConfig } from 'pg'
import { didYouMean } from '../util/did-you-mean.js'

/** What pg and pg-pool read. Those after `verify` are missing from @types/pg. */
const poolKeys = {
  user: true,
  database: true,
  password: true,
  port: true,
  host: true,
  connectionString: true,
  keepAlive: true,
  stream: true,
  statement_timeout: true,
  ssl: true,
  enableChannelBinding: true,
  sslnegotiation: true,
  query_timeout: true,
  lock_timeout: true,
  keepAliveInitialDelayMillis: true,
  idle_in_transaction_session_timeout: true,
  application_name: true,
  fallback_application_name: true,
  connectionTimeoutMillis: true,
  types: true,
  options: true,
  client_encoding: true,
  pipeline: true,
  max: true,
  min: true,
  idleTimeoutMillis: true,
  log: true,
  Promise: true,
  allowExitOnIdle: true,
  maxUses: true,
  maxLifetimeSeconds: true,
  Client: true,
  onConnect: true,
  verify: true,
  binary: true,
  replication: true,
  poolSize: true,
  scramMaxIterations: true,
} satisfies Record<keyof PoolConfig, true> & Record<string, true>

/** What a parsed connection string has beside the `ssl` that was made of it. */
const parsedKeys = ['sslmode', 'sslcert', 'sslkey', 'sslrootcert', 'uselibpqcompat', 'channel_binding']

/** What other stores call it, and what libpq has in connection strings only. */
const advice: Record<string, string> = {
  conString: 'use "connectionString", or pass the string itself',
  connection: 'pass its value itself: new PgStore(connection)',
  conObject: 'pass its value itself: new PgStore(conObject)',
  pool: 'pass the pool itself: new PgStore(pool)',
  pgPromise: 'pass a query function: new PgStore((text, values) => db.query(text, values))',
  url: 'use "connectionString", or pass the string itself',
  tableName: 'use the option "table": new PgStore(connection, { table })',
  schemaName: 'use the option "schema": new PgStore(connection, { schema })',
  pruneSessionInterval: 'use the option "cleanup": new PgStore(connection, { cleanup })',
  createTableIfMissing: 'use the option "create": new PgStore(connection, { create })',
  target_session_attrs: 'remove it, and use a host name that always leads to the primary',
  username: 'use "user"',
  dbname: 'use "database"',
  sslmode: 'use "ssl", or sslmode in a connection string',
  sslrootcert: 'use ssl: { ca }, or sslrootcert in a connection string',
}

/** Throws a `TypeError` that names the first key that pg doesn't know. `storeOptions` are the names of the store's options. */
export function assertKnownKeys(config: object, name: string, storeOptions: readonly string[]): void {
  const known = [...Object.keys(poolKeys), ...('ssl' in config ? parsedKeys : [])]
  const unknown = Object.keys(config).find((key) => !known.includes(key))
  if (unknown === undefined) return
  const key = `${name} has the key ${JSON.stringify(unknown)}, which`
  if (storeOptions.includes(unknown))
    throw new TypeError(
      `${key} is an option of the store: pass it in the second argument, new PgStore(connection, { ${unknown} })`,
    )
  const help = Object.hasOwn(advice, unknown) ? `; ${advice[unknown]}` : didYouMean(unknown, known)
  throw new TypeError(`${key} pg doesn't know${help}`)
}
