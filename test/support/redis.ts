// Starts a Redis without persistence, for the tests and benches that want one.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'

const program = 'redis-server'

export interface RedisServer {
  readonly version: string
  readonly pid: number
  /** The connection string of one of its logical databases. */
  url(number: number): string
  stop(): Promise<void>
}

export function hasRedis(): boolean {
  return version() !== undefined
}

/** Resolves with `undefined` where redis-server isn't installed. */
export async function startRedis(): Promise<RedisServer | undefined> {
  const installed = version()
  if (installed === undefined) return undefined
  const folder = await mkdtemp(join(tmpdir(), 'koa-pg-store-redis-'))
  const port = await freePort()
  const child = spawn(
    program,
    ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no'],
    { stdio: 'ignore' },
  )
  const exited = once(child, 'exit')
  const url = (number: number): string => `redis://127.0.0.1:${port}/${number}`
  const client = new Redis(url(0))
  client.on('error', () => {})
  await Promise.race([
    client.ping(),
    exited.then(() => Promise.reject(new Error(`${program} exited before it accepted connections`))),
  ])
  client.disconnect()
  return {
    version: installed,
    pid: child.pid ?? 0,
    url,
    async stop() {
      child.kill()
      await exited
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** The version of the installed redis-server. */
function version(): string | undefined {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' })
  return status === 0 ? (/v=([\d.]+)/.exec(stdout)?.[1] ?? '') : undefined
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
