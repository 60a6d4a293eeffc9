// Starts the example application, for `npm start`. Without DATABASE_URL it starts a PostgreSQL too, and deletes it at the end.
import { randomBytes } from 'node:crypto'
import { startPostgres } from '../../test/support/postgres/server.js'
import { type AppOptions, type RunningApp, startApp } from './app.js'

const { PORT, DATABASE_URL, KEYS } = process.env
const developmentKey = 'public, as it stands in the source code'

try {
  await main()
} catch (error) {
  console.error(messageOf(error))
  process.exit(1)
}

async function main(): Promise<void> {
  const port = readPort()
  const keys = readKeys()
  const postgres = DATABASE_URL ? undefined : await startPostgres()
  if (postgres) {
    console.log(`Started a PostgreSQL of its own in ${postgres.folder}; the sessions end with it.`)
    console.log(
      'To keep them, set DATABASE_URL to a PostgreSQL of yours: postgres://user:password@host/database',
    )
  }
  const databaseUrl = DATABASE_URL || (postgres?.url ?? '')
  const app = await startOnFreePort({ databaseUrl, keys, port }).catch(async (error) => {
    await postgres?.stop()
    throw error
  })
  console.log(`Listening on http://localhost:${app.port}`)

  let stoppingSince = 0
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, async () => {
      if (stoppingSince > 0) {
        // A second signal ends the process at once, unless it is the first one, which npm has passed on.
        if (Date.now() - stoppingSince > 1_000) process.exit(1)
        return
      }
      stoppingSince = Date.now()
      await app.stop()
      await postgres?.stop()
      process.exit()
    })
  }
}

/** Takes another port if the default one is in use. */
async function startOnFreePort(options: AppOptions): Promise<RunningApp> {
  try {
    return await startApp(options)
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (syscall !== 'listen') throw error
    if (PORT || code !== 'EADDRINUSE')
      throw new Error(`Can't listen on port ${options.port}: ${messageOf(error)}. Set PORT to another.`)
    console.log(`Port ${options.port} is taken, so it is another one. Set PORT to choose it.`)
    return startApp({ ...options, port: 0 })
  }
}

function readPort(): number {
  const port = PORT ? Number(PORT) : 3000
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port
  throw new Error(`PORT is ${JSON.stringify(PORT)}; it has to be a number from 0 (any free port) to 65535.`)
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

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
