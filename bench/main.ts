// The bench: everybody in one run on one machine. npm run bench -- [--seconds 0.4] [--rounds 3] [--only name]…
import { parseArgs } from 'node:util'
import { startRedis } from '../test/support/redis.js'
import { measure } from './comparison/measure.js'
import { type Contender, open } from './comparison/peers.js'
import { hasPgbench, measureFloor } from './comparison/pgbench.js'
import { measureRequests, measureRolling } from './comparison/requests.js'
import { chart } from './report/chart.js'
import { markdown, type Results, summary } from './report/markdown.js'
import { environment, intoReadme, json, save } from './report/results.js'
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
const plan = { seconds: Number(values.seconds), rounds: Number(values.rounds) }
if (!(plan.seconds > 0 && plan.rounds >= 1)) throw new RangeError('--seconds and --rounds must be above 0')
const { only } = values

const cleanups: (() => Promise<unknown>)[] = []
async function cleanUp(): Promise<void> {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup().catch((error) => console.error(error))
}
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => cleanUp().finally(() => process.exit(1)))

try {
  await run()
} catch (error) {
  // At once: what the clean-up finds out is not what went wrong.
  console.error(error)
  process.exitCode = 1
}
await cleanUp()
// koa-pg-session's timer would run for 45 minutes.
process.exit()

async function run(): Promise<void> {
  const database = await startDatabase()
  cleanups.push(() => database.stop())
  const redis = await startRedis()
  if (redis) cleanups.push(() => redis.stop())
  const withFloor = await hasPgbench()
  const leftOut = [
    ...(redis ? [] : ['koa-redis and ioredis: there is no redis-server (apt-get install redis-server)']),
    ...(withFloor ? [] : ['the floor: there is no pgbench (apt-get install postgresql-contrib)']),
  ]
  for (const who of leftOut) console.error(`Left out: ${who}`)

  const ids = newIds()
  const contenders = await open(only, ids, database, redis, (contender: Contender) => {
    cleanups.push(contender.close)
  })
  const found: Omit<Results, 'ratios'> = {
    ...environment(database),
    redis: redis?.version ?? '',
    ...plan,
    leftOut,
    figures: await measure(contenders, ids, plan),
    floor: withFloor && wants('pgbench') ? await measureFloor(database, plan) : [],
    requests: wants('requests') ? await measureRequests(database, plan) : [],
    rolling: wants('rolling') ? await measureRolling(database, plan) : [],
  }
  const results: Results = { ...found, ratios: ratios(found) }
  console.log(markdown(results))
  // A part of a run isn't what the README shows.
  if (only.length === 0) await saveAll(results)
}

function wants(name: string): boolean {
  return only.length === 0 || only.some((part) => name.includes(part))
}

async function saveAll(results: Results): Promise<void> {
  await save('latest.json', json(results))
  await save('table.md', `${markdown(results)}\n`)
  await save('chart.svg', chart(results))
  await intoReadme(summary(results))
}
