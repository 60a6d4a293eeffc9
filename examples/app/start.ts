// Starts the example for `npm start`: two instances of the application, as processes, on one database. Without DATABASE_URL it
// starts a PostgreSQL too, and deletes it at the end.
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type PostgresServer, startPostgres } from '../../test/support/postgres/server.js'
import { type InstanceProcess, startInstance } from './instance-process.js'

const { PORT, DATABASE_URL, KEYS } = process.env
const instanceCount = 2
const developmentKey = 'public, as it stands in the source code'

let isStopping = false
let isDatabaseStopped = false
let postgres: PostgresServer | undefined
const instances: InstanceProcess[] = []

try {
  await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  await stop()
  process.exit(1)
}

async function main(): Promise<void> {
  const firstPort = readPort()
  const keys = readKeys()
  if (!DATABASE_URL) {
    postgres = await startPostgres()
    console.log(`Started a PostgreSQL of its own in ${postgres.folder}; the sessions end with it.`)
    console.log(
      'To keep them, set DATABASE_URL to a PostgreSQL of yours: postgres://user:password@host/database',
    )
  }
  for (let number = 1; number <= instanceCount; number++) {
    const port = firstPort && firstPort + number - 1
    const env = {
      DATABASE_URL: DATABASE_URL || postgres?.url,
      KEYS: keys.join(','),
      INSTANCE: String(number),
    }
    const instance = await startInstance({ env, port, mayChooseAnother: !PORT })
    instances.push(instance)
    instance.ended.then((reason) => reportEnd(number, reason))
    instance.onStopDatabase = (seconds) =>
      stopDatabase(seconds).catch(({ message }) => console.error(message))
  }
  const ports = instances.map(({ port }) => port)
  for (const instance of instances) instance.tell({ ports, ownsDatabase: postgres !== undefined })
  for (const [n, { port, pid }] of instances.entries())
    console.log(`Instance ${n + 1}: http://localhost:${port} (process ${pid})`)
  console.log('Sign in at one instance, and you are signed in at the other. Ctrl+C stops everything.')

  let stoppingSince = 0
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, async () => {
      if (stoppingSince > 0) {
        // A second signal ends the process at once, unless it is the first one, which npm has passed on.
        if (Date.now() - stoppingSince > 1_000) process.exit(1)
        return
      }
      stoppingSince = Date.now()
      await stop()
      process.exit()
    })
  }
}

async function stop(): Promise<void> {
  isStopping = true
  await Promise.all(instances.map((instance) => instance.stop()))
  await postgres?.stop()
}

async function reportEnd(number: number, reason: string): Promise<void> {
  if (isStopping) return
  const left = instances.filter(({ hasEnded }) => !hasEnded)
  const addresses = left.map(({ port }) => `http://localhost:${port}`).join(' and ')
  const rest = addresses ? `${addresses} still answers, with all sessions.` : 'No instance is left.'
  console.error(`Instance ${number} has ended (${reason}). ${rest}`)
  if (addresses) return
  await stop()
  process.exit(1)
}

async function stopDatabase(seconds: number): Promise<void> {
  if (!postgres || isStopping || isDatabaseStopped) return
  isDatabaseStopped = true
  console.log(`PostgreSQL is stopped for ${seconds} s.`)
  await postgres.kill()
  await sleep(seconds * 1000)
  if (isStopping) return
  await postgres.start()
  isDatabaseStopped = false
  console.log('PostgreSQL is running again.')
}

function readPort(): number {
  const port = PORT ? Number(PORT) : 3000
  const max = 65_535 - instanceCount + 1
  if (Number.isInteger(port) && port >= 0 && port <= max) return port
  throw new Error(
    `PORT is ${JSON.stringify(PORT)}; it has to be a number from 0 (any free ports) to ${max}: the first of ${instanceCount} ports.`,
  )
}

function readKeys(): string[] {
  const keys = (KEYS ?? '')
    .split(',')
    .map((key) => key.trim())
    .filter(Boolean)
  if (keys.length > 0) return keys
  if (!DATABASE_URL) return [randomBytes(32).toString('hex')]
  console.log(
    'Signing cookies with the development key. Set KEYS to secrets of your own, separated by commas.',
  )
  return [developmentKey]
}
