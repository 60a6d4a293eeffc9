// Creates tables in the Citus cluster of TEST_CITUS_URL, each in a schema of its own.
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { connect } from '../../lib/postgres/connect.js'
import { distribute } from '../../lib/schema/distribute.js'
import { readOptions } from '../../lib/stores/options.js'

const { TEST_CITUS_URL } = process.env
const schemas: string[] = []

/** Few, so that a table is created quickly. */
const shards = 8

/** The database of the coordinator. */
export function citusUrl(): string {
  if (!TEST_CITUS_URL)
    throw new Error('set TEST_CITUS_URL to a database of the coordinator of a Citus cluster')
  return TEST_CITUS_URL
}

/** The same, where tables are distributed over few shards. */
export function fewShardsUrl(): string {
  const url = new URL(citusUrl())
  url.searchParams.set('options', `-c citus.shard_count=${shards}`)
  return url.href
}

/** Creates and distributes a table for stores with these options, and resolves with the options that find it. */
export async function distributedTable<T extends PgStoreOptions>(
  options: T,
  schema = `test_${randomBytes(4).toString('hex')}`,
): Promise<T & { schema: string }> {
  if (schema !== 'public') schemas.push(schema)
  const found = { ...options, schema }
  const store = new PgStore(fewShardsUrl(), { ...found, cache: false })
  await store.setup()
  await store.close()
  const connection = connect(fewShardsUrl(), { warn: () => undefined })
  try {
    await distribute(connection, readOptions(found))
  } finally {
    await connection.end()
  }
  return found
}

/** Runs a statement on the coordinator. */
export async function onCluster<T extends pg.QueryResultRow>(
  text: string,
  values: unknown[] = [],
): Promise<T[]> {
  const client = new pg.Client(citusUrl())
  await client.connect()
  try {
    return (await client.query<T>(text, values)).rows
  } finally {
    await client.end()
  }
}

export async function dropTables(): Promise<void> {
  for (const schema of schemas.splice(0)) await onCluster(`drop schema if exists ${schema} cascade`)
}
