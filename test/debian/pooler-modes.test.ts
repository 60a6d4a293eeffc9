// Through PgBouncer: a small pool in session mode, transaction mode, and statement mode, which isn't supported.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { PgStore, type PgStoreOptions, SetupError } from '../../lib/index.js'
import { AdvisoryLock } from '../../lib/postgres/advisory-lock.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { unprivilegedUser } from '../support/postgres/binaries.js'

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

describe('through PgBouncer', () => {
  let direct: string
  let url: string
  let folder: string
  let bouncer: ChildProcess | undefined
  const stores: PgStore[] = []

  async function start(mode: 'session' | 'transaction' | 'statement', poolSize = 20): Promise<void> {
    direct = await freshDatabase()
    const { hostname, port: serverPort, username, password, pathname } = new URL(direct)
    const user = await unprivilegedUser()
    const port = await freePort()
    folder = await mkdtemp(join(tmpdir(), 'koa-pg-store-'))
    const file = join(folder, 'pgbouncer.ini')
    const server = `host=${hostname} port=${serverPort} user=${username} password=${password}`
    await writeFile(
      file,
      `[databases]
${pathname.slice(1)} = ${server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = ${mode}
default_pool_size = ${poolSize}
max_client_conn = 500
`,
    )
    if (user.uid !== undefined && user.gid !== undefined)
      for (const path of [folder, file]) await chown(path, user.uid, user.gid)
    bouncer = spawn('/usr/sbin/pgbouncer', ['-q', file], { ...user, cwd: folder, stdio: 'ignore' })
    url = at(direct, { port })
    await until(() =>
      sql(url, 'select 1').then(
        () => true,
        () => false,
      ),
    )
  }

  const open = (options: PgStoreOptions = {}, queryTimeout = 10_000): PgStore => {
    const connection = {
      connectionString: url,
      query_timeout: queryTimeout,
      connectionTimeoutMillis: queryTimeout,
    }
    const store = new PgStore(connection, { listen: direct, cleanup: false, ...options })
    stores.push(store)
    return store
  }

  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close()
    if (bouncer?.exitCode === null) {
      bouncer.kill()
      await once(bouncer, 'exit')
    }
    await rm(folder, { recursive: true, force: true })
  })

  it('in statement mode, setup says what to do', async () => {
    await start('statement')
    const error = await rejection(open().setup())
    expect(error).to.be.instanceOf(SetupError)
    expect(error.message).to.match(
      /pooler in statement mode, which isn't supported.*pool_mode = transaction or session$/,
    )
    expect(await sql(direct, `select from pg_class where relname = 'session'`)).to.have.length(0)
  })

  it('in session mode, the idle connections of one process leave those of the server to others', async () => {
    const poolSize = 12
    await start('session', poolSize)
    const used = async (): Promise<number> =>
      (
        await sql(
          direct,
          `select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
        )
      ).length
    const busy = open({ listen: false, cache: false })
    await busy.setup()
    // Waits for the server's connections, not for a second of idleness: a statement may take 4 s, an idle connection 10.
    for (const [round, store] of [open({}, 4_000), open({}, 4_000)].entries()) {
      // As many statements at once as the store sends.
      await Promise.all(
        Array.from({ length: 40 }, async (_, n) => {
          await busy.set(`s${round}-${n}`, { n, userId: 'ann' })
          await Promise.all([
            busy.get(`s${round}-${n}`),
            busy.touch(`s${round}-${n}`),
            busy.count(),
            busy.sessionsOf('ann'),
          ])
        }),
      )
      expect(await used()).to.be.at.least(8)
      expect(await store.destroySessionsOf('ann')).to.equal(40)
      await Promise.all(
        Array.from({ length: 40 }, (_, n) => store.count().then(() => store.get(`s${round}-${n}`))),
      )
    }
  })

  it('in transaction mode, a lock stays on no connection', async () => {
    await start('transaction', 1)
    const options = { config: { connectionString: url }, key: 'test', connectTimeoutMs: 10_000, name: 'test' }
    const take = () =>
      AdvisoryLock.take({ ...options, config: { connectionString: url }, keepsProcessAlive: true })
    const lock = await take()
    expect(lock).not.to.equal(undefined)
    await lock?.release()
    const locks = `select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
    await until(async () => (await sql(direct, locks)).length === 0)
    const another = await take()
    expect(another).not.to.equal(undefined)
    await another?.release()
  })

  it('in transaction mode, a sweep runs with onExpired', async () => {
    await start('transaction', 3)
    let shown = 0
    const store = open({ cleanup: { cron: false, onExpired: () => shown++ } })
    await store.setup()
    await sql(
      direct,
      `insert into session (id, expiry, session, version) select 's' || i, now() - interval '1 s', '{"a":1}', 1 from generate_series(1, 120) i`,
    )
    expect((await store.sweep()).deleted).to.equal(120)
    expect(shown).to.equal(120)
  })
})
