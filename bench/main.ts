// npm run bench: measures all peers in one run on one machine.
// npm run bench -- [--seconds 0.4] [--rounds 3] [--only part]…
// A part is an operation, or a part of a peer's name, or pgbench, requests or rolling: --only set --only redis --only cached
import { parseArgs } from 'node:util'
import { startRedis } from '../test/support/redis.js'
import { type Operation, operations } from './comparison/adapter.js'
import { measureOperations, readPlan } from './comparison/measure.js'
import { openPeers } from './comparison/peers.js'
import { hasPgbench, measureStatements } from './comparison/pgbench.js'
import { measureRequests, measureRolling } from './comparison/requests.js'
import { chart } from './report/chart.js'
import { environment, saveJson, saveText, saveTo } from './report/files.js'
import { markdown, summary } from './report/markdown.js'
import type { Results } from './report/results.js'
import { ratios } from './report/targets.js'
import { startDatabase } from './support/database.js'
import { newIds } from './support/sessions.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '0.4' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', multiple: true, default: [] },
  },
})
const plan = readPlan(values)
const { only } = values
const onlyOperations = operations.filter((operation) => only.includes(operation))
const onlyNames = only.filter((part) => !operations.includes(part as Operation))

const cleanups: (() => Promise<unknown>)[] = []
async function cleanUp(): Promise<void> {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup().catch((error) => console.error(error))
}
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => cleanUp().finally(() => process.exit(1)))

try {
  await run()
} catch (error) {
  // Printed first, as the clean-up may print errors that follow from this one.
  console.error(error)
  process.exitCode = 1
}
await cleanUp()
// A timer of koa-pg-session would keep the process running for 45 minutes.
process.exit()

async function run(): Promise<void> {
  const database = await startDatabase()
  cleanups.push(() => database.stop())
  const redis = await startRedis()
  if (redis) cleanups.push(() => redis.stop())
  const canRunPgbench = await hasPgbench()
  const skipped = [
    ...(redis
      ? []
      : ['koa-redis and ioredis, as redis-server isn’t installed (apt-get install redis-server)']),
    ...(canRunPgbench
      ? []
      : ['statements by pgbench, which isn’t installed (apt-get install postgresql-contrib)']),
  ]
  for (const reason of skipped) console.error(`Not measured: ${reason}`)

  const ids = newIds()
  const peers = await openPeers(isWanted, ids, database, redis, (peer) => {
    cleanups.push(peer.close)
  })
  const measured: Omit<Results, 'ratios'> = {
    ...environment(database),
    redis: redis?.version ?? '',
    ...plan,
    skipped,
    figures: await measureOperations(
      peers,
      ids,
      plan,
      onlyOperations.length > 0 ? onlyOperations : operations,
    ),
    statements: canRunPgbench && hasSection('pgbench') ? await measureStatements(database, plan) : [],
    requests: hasSection('requests') ? await measureRequests(database, plan) : [],
    rolling: hasSection('rolling') ? await measureRolling(database, plan) : [],
  }
  const results: Results = { ...measured, ratios: ratios(measured) }
  console.log(markdown(results))
  // The documents show complete runs only.
  if (only.length === 0) await saveAll(results)
}

function isWanted(peer: string): boolean {
  return onlyNames.length === 0 || onlyNames.some((part) => peer.includes(part))
}

/** Parts that name an operation leave out what measures none. */
function hasSection(name: string): boolean {
  return only.length === 0 || only.includes(name)
}

async function saveAll(results: Results): Promise<void> {
  await saveJson('latest.json', results)
  await saveText('chart.svg', chart(results))
  await saveTo('docs/internals/performance.md', markdown(results))
  await saveTo('README.md', summary(results))
}
