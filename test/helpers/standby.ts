// Starts a primary with a hot standby that streams from it.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chown, copyFile, mkdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { unprivilegedUser } from '../support/postgres/binaries.js'
import { type PostgresServer, startPostgres } from '../support/postgres/server.js'
import { ownServer } from './server.js'

export interface Cluster {
  readonly primary: PostgresServer
  readonly standby: PostgresServer
}

/** Runs with a primary and a standby that applies changes `lagMs` late. Needs `pg_basebackup`, and so TEST_POSTGRES_BIN. */
export async function withStandby(lagMs: number, run: (cluster: Cluster) => Promise<void>): Promise<void> {
  const bin = process.env.TEST_POSTGRES_BIN ?? ''
  const user = await unprivilegedUser()
  const folder = join(tmpdir(), `koa-pg-store-${randomBytes(6).toString('hex')}`)
  const primary = await ownServer({ wal_level: 'replica' }, true)
  let standby: PostgresServer | undefined
  try {
    const { hostname, port, username, password } = new URL(primary.url)
    const source = `host=${hostname} port=${port} user=${username} password=${password} application_name=standby`
    await mkdir(folder, { mode: 0o700 })
    if (user.uid !== undefined && user.gid !== undefined) await chown(folder, user.uid, user.gid)
    await promisify(execFile)(
      join(bin, 'pg_basebackup'),
      ['--dbname', source, '--pgdata', join(folder, 'data'), '--write-recovery-conf', '--checkpoint=fast'],
      { ...user, cwd: folder },
    )
    await copyFile(join(primary.folder, 'password'), join(folder, 'password'))
    const settings = { primary_conninfo: source, recovery_min_apply_delay: `${lagMs}ms` }
    standby = await startPostgres({ bin, folder, settings })
    await run({ primary, standby })
  } finally {
    await primary.stop()
    await standby?.stop()
    await rm(folder, { recursive: true, force: true })
  }
}
