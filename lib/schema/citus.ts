// Asks Citus whether and how it has distributed the table.
import type { Connection } from '../postgres/connection.js'

/** What Citus knows of the table. */
export interface Distribution {
  /** The server is a worker of the cluster, not its coordinator. */
  readonly isWorker: boolean
  /** The table is distributed, or copied to every node as a reference table. */
  readonly isDistributed: boolean
  /** The least hash of each shard, in their order; empty if the rows are not distributed by hash. */
  readonly shardStarts: readonly number[]
}

/** `relation`: schema and table, quoted. Only for databases with the extension. */
export async function inspectDistribution(connection: Connection, relation: string): Promise<Distribution> {
  const [row] = await connection.query(
    `select pg_catalog.json_build_object(
      'isWorker', (select groupid <> 0 from pg_catalog.pg_dist_local_group limit 1),
      'isDistributed', exists (select from pg_catalog.pg_dist_partition where logicalrelid = to_regclass($1::text)),
      'shardStarts', (select coalesce(pg_catalog.json_agg(s.shardminvalue::int order by s.shardminvalue::int), '[]')
        from pg_catalog.pg_dist_shard s join pg_catalog.pg_dist_partition p on p.logicalrelid = s.logicalrelid
        where s.logicalrelid = to_regclass($1::text) and p.partmethod = 'h')
    )::text as distribution`,
    [relation],
  )
  return JSON.parse(row?.distribution as string) as Distribution
}

/** In a database without Citus. */
export const notDistributed: Distribution = { isWorker: false, isDistributed: false, shardStarts: [] }
