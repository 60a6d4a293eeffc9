// The checks of koa-pg-store doctor for a table that Citus has distributed: they look at the workers, and at the shards.
import type { Connection } from '../../postgres/connection.js'
import { qualifiedName } from '../../schema/table.js'
import { duration, number } from '../terminal.js'
import { note, ok, problem, type TableCheck, type VacuumState } from './finding.js'

/** Sessions end this much earlier or later, at most, if a worker's clock differs from the coordinator's. */
const maxClockDifferenceMs = 1_000

/** Runs a statement that returns one value on every worker. */
async function onWorkers(
  connection: Connection,
  text: string,
): Promise<{ worker: string; result: string }[]> {
  const rows = await connection.query(
    `select nodename || ':' || nodeport as worker, success, result, clock_timestamp() from run_command_on_workers($1)`,
    [text],
  )
  const failed = rows.find(({ success }) => success !== true)
  if (failed) throw new Error(`${failed.worker}: ${failed.result}`)
  return rows.map(({ worker, result }) => ({ worker: String(worker), result: String(result) }))
}

/** Expiries are written by the coordinator's clock, and compared with the clock of the worker that has the session. */
export const checkWorkerClocks: TableCheck = async ({ connection }, { isDistributed }) => {
  if (!isDistributed) return []
  const epochMs = 'select (extract(epoch from clock_timestamp()) * 1000)::float8'
  const coordinatorMs = async (): Promise<number> =>
    Number((await connection.query(`${epochMs} as now`))[0]?.now)
  const before = await coordinatorMs()
  const workers = await onWorkers(connection, epochMs)
  const after = await coordinatorMs()
  // A worker's clock was read at some time in between.
  const differences = workers.map(({ worker, result }) => ({
    worker,
    ms: Math.max(before - Number(result), Number(result) - after, 0),
  }))
  const [largest] = differences.sort((a, b) => b.ms - a.ms)
  if (largest === undefined) return []
  const accuracy = `measured to within ${duration(after - before)}`
  const message = `${largest.worker} and the coordinator are ${duration(largest.ms)} apart, ${accuracy}`
  return largest.ms > maxClockDifferenceMs
    ? [
        problem(
          'worker clocks',
          `${message}: its sessions expire that much too early or too late`,
          'synchronize the clocks of all nodes, as with chrony or ntpd',
        ),
      ]
    : [ok('worker clocks', `at most ${duration(largest.ms)} apart, ${accuracy}`)]
}

/** A change is committed by the worker that has the session, as that worker's settings say. */
export const checkWorkerCommits: TableCheck = async ({ connection }) => {
  const workers = await onWorkers(connection, 'show synchronous_commit')
  const asynchronous = workers.filter(({ result }) => result === 'off').map(({ worker }) => worker)
  return asynchronous.length === 0
    ? [ok('commits', 'each change is committed by one worker, and flushed there')]
    : [
        note(
          'commits',
          `synchronous_commit is off on ${asynchronous.join(', ')}: a crash there loses what was saved last`,
          `alter system set synchronous_commit = on, on these workers`,
        ),
      ]
}

/** The sum over all shards, of what `checkVacuum` asks of a table of PostgreSQL's own. */
export async function readShards(
  connection: Connection,
  table: { schema: string; table: string },
): Promise<VacuumState> {
  const rows = await connection.query(
    `select nodename || ':' || nodeport as worker, success, result from run_command_on_placements($1::text::regclass, $command$
       select pg_catalog.json_build_object('isOn', current_setting('autovacuum') = 'on',
         'isOffForTable', coalesce('autovacuum_enabled=false' = any(c.reloptions), false),
         'deadRows', coalesce(s.n_dead_tup, 0), 'liveRows', coalesce(s.n_live_tup, 0), 'tableBytes', pg_table_size(c.oid),
         'lastVacuumAgoMs', extract(epoch from now() - greatest(s.last_autovacuum, s.last_vacuum)) * 1000)
       from pg_class c left join pg_stat_user_tables s on s.relid = c.oid where c.oid = '%s'::regclass
     $command$)`,
    [qualifiedName(table)],
  )
  const failed = rows.find(({ success }) => success !== true)
  if (failed) throw new Error(`${failed.worker}: ${failed.result}`)
  const shards = rows.map(({ result }) => JSON.parse(result as string) as VacuumState)
  const sum = (name: 'deadRows' | 'liveRows' | 'tableBytes'): number =>
    shards.reduce((total, shard) => total + shard[name], 0)
  const vacuumed = shards.flatMap(({ lastVacuumAgoMs }) =>
    lastVacuumAgoMs === null ? [] : [lastVacuumAgoMs],
  )
  return {
    isOn: shards.every(({ isOn }) => isOn),
    isOffForTable: shards.some(({ isOffForTable }) => isOffForTable),
    deadRows: sum('deadRows'),
    liveRows: sum('liveRows'),
    tableBytes: sum('tableBytes'),
    lastVacuumAgoMs: vacuumed.length === 0 ? null : Math.min(...vacuumed),
  }
}

/** How the sessions are spread over the workers. */
export const checkShards: TableCheck = async ({ connection, settings }, { isDistributed }) => {
  if (!isDistributed) return []
  const rows = await connection.query(
    `select nodename || ':' || nodeport as worker, count(*)::int as shards
     from pg_catalog.pg_dist_shard s join pg_catalog.pg_dist_placement p on p.shardid = s.shardid
       join pg_catalog.pg_dist_node n on n.groupid = p.groupid and n.noderole = 'primary'
     where s.logicalrelid = $1::text::regclass group by 1 order by 1`,
    [qualifiedName(settings)],
  )
  const counts = rows.map(({ shards }) => shards as number)
  const message = rows.map(({ worker, shards }) => `${number(shards as number)} on ${worker}`).join(', ')
  return [ok('shards', counts.length === 0 ? 'none' : message)]
}
