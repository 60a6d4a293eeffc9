// The servers that the bench starts and stops: PostgreSQL with its default durability, Redis without persistence.
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import pg from 'pg'
import { startPostgres } from '../../test/support/postgres/server.js'

const redisServer = 'redis-server'

export interface Database {
  readonly version: string
  /** A database of its own: whoever listens in one is woken by every notification in it. */
  create(name: string): Promise<string>
  stop(): Promise<void>
}

export interface RedisServer {
  readonly version: string
  /** A logical database of its own. */
  url(number: number): string
  stop(): Promise<void>
}

export async function startDatabase(): Promise<Database> {
  const server = await startPostgres({ sync: true, settings: { max_connections: '300' } })
  const admin = new pg.Client(server.url)
  admin.on('error', () => {})
  await admin.connect()
  const { rows } = await admin.query<{ server_version: string }>('show server_version')
  return {
    version: rows[0]?.server_version ?? '',
    async create(name) {
      await admin.query(`create database ${pg.escapeIdentifier(name)}`)
      return server.url.replace(/postgres$/, encodeURIComponent(name))
    },
    async stop() {
      await admin.end().catch(() => {})
      await server.stop()
    },
  }
}

export function hasRedis(): boolean {
  return spawnSync(redisServer, ['--version']).status === 0
}

/** `undefined` where there is no redis-server. */
export async function startRedis(): Promise<RedisServer | undefined> {
  const found = await output(redisServer, ['--version'])
  if (found === undefined) return undefined
  const folder = await mkdtemp(join(tmpdir(), 'koa-pg-store-redis-'))
  const port = await freePort()
  const child = spawn(
    redisServer,
    ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no'],
    { stdio: 'ignore' },
  )
  const ended = once(child, 'exit')
  const url = (number: number): string => `redis://127.0.0.1:${port}/${number}`
  const client = new Redis(url(0))
  client.on('error', () => {})
  await Promise.race([
    client.ping(),
    ended.then(() => Promise.reject(new Error('redis-server ended as it was started'))),
  ])
  client.disconnect()
  return {
    version: /v=([\d.]+)/.exec(found)?.[1] ?? '',
    url,
    async stop() {
      child.kill()
      await ended
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** What a program prints, `undefined` if it isn't there or fails. */
export async function output(
  file: string,
  args: string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<string | undefined> {
  try {
    return (await promisify(execFile)(file, args, { env })).stdout
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') console.error(`${file}: ${error}`)
    return undefined
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
