// Starts PgBouncer in front of a PostgreSQL server, for the tests that want a real pooler.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { unprivilegedUser } from './postgres/binaries.js'

/** Debian's, which isn't on every user's path. */
const program = '/usr/sbin/pgbouncer'

export interface PgBouncer {
  /** Returns the connection string that goes through the pooler. */
  through(url: string): string
  stop(): Promise<void>
}

/** Starts a pooler with four connections to each database. Its clients log in as they do at the server itself. */
export async function startPgBouncer(server: string, mode: 'session' | 'transaction'): Promise<PgBouncer> {
  const user = await unprivilegedUser()
  const folder = await mkdtemp(join(tmpdir(), 'koa-pg-store-pgbouncer-'))
  const { hostname, port: serverPort, username, password } = new URL(server)
  const port = await freePort()
  const file = join(folder, 'pgbouncer.ini')
  const users = join(folder, 'users.txt')
  await writeFile(users, `"${username}" "${decodeURIComponent(password)}"\n`)
  await writeFile(
    file,
    `[databases]
* = host=${hostname} port=${serverPort}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
pool_mode = ${mode}
default_pool_size = 4
max_client_conn = 200
server_login_retry = 1
`,
  )
  if (user.uid !== undefined && user.gid !== undefined)
    for (const path of [folder, file, users]) await chown(path, user.uid, user.gid)
  const child = spawn(program, [file], { ...user, cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  const exited = once(child, 'exit')
  let log = ''
  await new Promise<void>((resolve, reject) => {
    child.on('error', reject)
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log += text
      if (log.includes('process up')) resolve()
    })
    exited.then(() => reject(new Error(`${program} exited before it accepted connections: ${log}`)))
  })
  return {
    through(url) {
      const changed = new URL(url)
      changed.port = String(port)
      return changed.href
    },
    async stop() {
      child.kill()
      await exited
      await rm(folder, { recursive: true, force: true })
    },
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
