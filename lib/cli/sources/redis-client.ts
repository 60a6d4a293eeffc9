// Connects to Redis with the driver that the application has: ioredis or redis. Neither is a dependency of this package.
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { messageOf } from '../../util/driver-errors.js'
import { withTimeout } from '../../util/timeout.js'
import { UsageError } from '../command.js'

export interface RedisClient {
  /** Runs one command. */
  call(...command: string[]): Promise<unknown>
  end(): Promise<void>
}

const connectTimeoutMs = 5_000
const commandTimeoutMs = 30_000

/** The parts of both drivers that are used. */
interface IoRedis {
  new (
    url: string,
    options: object,
  ): {
    connect(): Promise<void>
    call(command: string, ...args: string[]): Promise<unknown>
    on(event: 'error', listener: (error: Error) => void): unknown
    disconnect(): void
  }
}
interface NodeRedis {
  createClient(options: object): {
    connect(): Promise<unknown>
    sendCommand(command: string[]): Promise<unknown>
    on(event: 'error', listener: (error: Error) => void): unknown
    destroy?(): void
    disconnect(): Promise<void>
  }
}

/** Connects to a Redis server. Rejects within seconds if it can't. */
export async function connectRedis(url: string): Promise<RedisClient> {
  const { name, driver } = await loadDriver()
  // ioredis rejects with "Connection is closed", and only its event says why.
  let reason: Error | undefined
  const onError = (error: Error): void => {
    reason ??= error
  }
  const client =
    name === 'ioredis'
      ? openIoRedis(driver as IoRedis, url, onError)
      : openNodeRedis(driver as NodeRedis, url, onError)
  try {
    await withTimeout(client.connect(), connectTimeoutMs, 'Redis did not accept the connection')
  } catch (error) {
    await client.end()
    throw new Error(`can't connect to Redis: ${messageOf(reason ?? error)}`, { cause: error })
  }
  return {
    call: (...command) =>
      withTimeout(client.call(...command), commandTimeoutMs, `Redis did not answer ${command[0]}`),
    end: () => client.end(),
  }
}

type Opened = RedisClient & { connect(): Promise<unknown> }

function openIoRedis(Redis: IoRedis, url: string, onError: (error: Error) => void): Opened {
  // A lost connection ends the import, which can be run again.
  const client = new Redis(url, { lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 })
  client.on('error', onError)
  return {
    connect: () => client.connect(),
    call: (command = '', ...args) => client.call(command, ...args),
    end: async () => client.disconnect(),
  }
}

function openNodeRedis({ createClient }: NodeRedis, url: string, onError: (error: Error) => void): Opened {
  const client = createClient({ url, disableOfflineQueue: true, socket: { reconnectStrategy: false } })
  client.on('error', onError)
  return {
    connect: () => client.connect(),
    call: (...command) => client.sendCommand(command),
    end: async () => {
      try {
        if (client.destroy) client.destroy()
        else await client.disconnect()
      } catch {
        // It is closed already.
      }
    },
  }
}

/** Looks in the folder where the command runs, then where this package is installed. */
async function loadDriver(): Promise<{ name: string; driver: unknown }> {
  for (const base of [resolve('package.json'), import.meta.url]) {
    const require = createRequire(base)
    for (const name of ['ioredis', 'redis']) {
      let file: string
      try {
        file = require.resolve(name)
      } catch {
        continue
      }
      const module = (await import(pathToFileURL(file).href)) as Record<string, unknown>
      const driver = name === 'ioredis' ? (module.Redis ?? module.default) : (module.default ?? module)
      return { name, driver: Reflect.get(Object(driver), 'default') ?? driver }
    }
  }
  throw new UsageError(
    'reading from Redis needs the package ioredis or redis: run npm install --no-save ioredis',
  )
}
