// The command line in child processes: usage, errors, sweep, migrate, stats and doctor.
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { Command, run } from '../helpers/command.js'
import { at, freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const fill = (count: number, expiry = '-1 second', id = 'expired'): string =>
  `insert into session (id, expiry, session, version) select '${id}-' || i, now() + interval '${expiry}', '{"a":1}', 1
   from generate_series(1, ${count}) i`

/** Creates a session table with expired and active sessions, and resolves with the URL of its database. */
async function table(expired: number, active = 3): Promise<string> {
  const url = await freshDatabase()
  const store = new PgStore(url, { cleanup: false })
  await store.setup()
  await store.close()
  await sql(url, fill(expired))
  await sql(url, fill(active, '1 hour', 'active'))
  return url
}

const count = async (url: string, id: string): Promise<number> =>
  (await sql<{ n: number }>(url, `select count(*)::int as n from session where id like '${id}%'`))[0]?.n ?? -1

const handle = 'A'.repeat(43)

describe('koa-pg-store', () => {
  describe('usage', () => {
    it('prints its usage: without arguments with status 2, with --help and help with 0', async () => {
      for (const [args, status] of [
        [[], 2],
        [['--help'], 0],
        [['-h'], 0],
        [['help'], 0],
      ] as const) {
        const said = await run(undefined, ...args)
        expect(said.status).to.equal(status)
        expect(said.out).to.match(/^Usage: koa-pg-store <command> \[options\]$/m)
        for (const name of ['sweep', 'migrate', 'stats', 'list', 'revoke', 'doctor'])
          expect(said.out).to.match(new RegExp(`^  ${name} +\\w`, 'm'))
      }
    })

    for (const name of ['sweep', 'migrate', 'stats', 'list', 'revoke', 'doctor'])
      it(`describes ${name}, without a database`, async () => {
        const said = await run(undefined, name, '--help')
        expect(said).to.include({ status: 0, errors: '' })
        expect(said.out).to.match(new RegExp(`^Usage: koa-pg-store ${name}`))
        expect(await run(undefined, 'help', name)).to.deep.equal(said)
        for (const line of said.out.split('\n')) expect(line.length, line).to.be.at.most(80)
      })

    it('prints its version, with or without a command', async () => {
      const { version } = JSON.parse(
        await readFile(new URL('../../../package.json', import.meta.url), 'utf8'),
      )
      for (const args of [['--version'], ['-v'], ['stats', '--version']])
        expect(await run(undefined, ...args)).to.deep.equal({ status: 0, out: `${version}\n`, errors: '' })
    })

    it('takes options before the command too', async () => {
      const url = await table(1)
      const before = await run(undefined, '--url', url, '--json', '--table', 'session', 'stats')
      expect(before).to.include({ status: 0, errors: '' })
      expect(JSON.parse(before.out)).to.include({ active: 3 })
      const help = await run(undefined, '--json', 'stats', '--help')
      expect(help.out).to.match(/^Usage: koa-pg-store stats/)
    })

    it('recommends migrate where the table is missing', async () => {
      const url = await freshDatabase()
      for (const name of ['stats', 'list', 'sweep']) {
        const { status, errors } = await run(url, name)
        expect(status).to.equal(1)
        expect(errors).to.match(/doesn't exist: run .*002-table.*\. Or run koa-pg-store migrate\n$/)
      }
      const { out } = await run(url, 'doctor')
      expect(out).to.match(/^problem +table: .*doesn't exist.*\n +→ or run koa-pg-store migrate\n/m)
      expect((await run(url, 'migrate')).status).to.equal(0)
      expect((await run(url, 'doctor')).out).to.match(/^The store works\.$/m)
    })

    it('ends doctor with "works, with notes" where something is missing that the store can do without', async () => {
      const url = await freshDatabase()
      await sql(url, 'create table session (id text primary key, expiry timestamptz not null, session json)')
      const { status, out } = await run(url, 'doctor')
      expect(status).to.equal(0)
      expect(out).to.match(/^The store works, with 3 notes\.$/m)
    })

    const mistakes: [string[], RegExp][] = [
      [
        ['swep'],
        /^koa-pg-store: unknown command "swep"; commands: sweep, migrate, stats, list, revoke, import, export, doctor; did you mean "sweep"\?\n/,
      ],
      [['toString'], /unknown command "toString"/],
      [['--table', 'x'], /^koa-pg-store: no command given; commands: sweep, /],
      [['sweep', '--nope'], /^koa-pg-store: unknown option "--nope"\n/],
      [['sweep', '--tabel', 'x'], /^koa-pg-store: unknown option "--tabel"; did you mean "--table"\?\n/],
      [['sweep', 'now'], /^koa-pg-store: Unexpected argument 'now'/],
      [['sweep'], /^koa-pg-store: no database given, and DATABASE_URL is not set: set DATABASE_URL=/],
      [['sweep', '--url', 'mysql://x'], /received one that begins with mysql:/],
      [['stats', '--table', ''], /^koa-pg-store: --table must be a name of 1 to 63 bytes/],
      [
        ['sweep', '--url', 'postgres://x/y', '--batch-size', 'many'],
        /^koa-pg-store: --batch-size must be a whole number, 1 or more; received "many"/,
      ],
      [
        ['sweep', '--url', 'postgres://x/y', '--watch', '--cron', '* *'],
        /^koa-pg-store: --cron must be a cron expression such as/,
      ],
      [['sweep', '--url', 'postgres://x/y', '--cron', '* * * * *'], /--cron and --timezone need --watch/],
      [
        ['migrate', '--url', 'postgres://x/y', '--raw-ids', '--to-hashed-ids'],
        /--raw-ids and --to-hashed-ids contradict each other/,
      ],
      [['migrate', '--print', '--reencrypt', 'x.js'], /--print and --reencrypt contradict each other/],
      [['list', '--url', 'postgres://x/y', '--limit', '0'], /--limit must be a whole number, 1 or more/],
      [['list', '--url', 'postgres://x/y', '--user', ''], /--user must have 1 to 512 characters/],
      [['revoke', '--url', 'postgres://x/y'], /Give one of: a handle, --user or --all/],
      [['revoke', '--url', 'postgres://x/y', handle, '--all'], /Give one of: a handle, --user or --all/],
      [['revoke', '--url', 'postgres://x/y', handle, handle], /Give one of: a handle, --user or --all/],
      [
        ['revoke', '--url', 'postgres://x/y', '--user', 'a', '--all'],
        /Give one of: a handle, --user or --all/,
      ],
      [['revoke', '--url', 'postgres://x/y', handle, '--except', handle], /--except needs --user/],
      [
        ['revoke', '--url', 'postgres://x/y', '--all'],
        /--all destroys all sessions, and there is no terminal to ask: add --yes/,
      ],
    ]
    for (const [args, message] of mistakes)
      it(`refuses ${args.join(' ')} with status 2, in one line, and refers to --help`, async () => {
        const said = await run(undefined, ...args)
        expect(said.status).to.equal(2)
        expect(said.out).to.equal('')
        expect(said.errors).to.match(message)
        expect(said.errors).to.match(/^[^\n]+\nSee koa-pg-store (\w+ )?--help\n$/)
      })
  })

  describe('the database', () => {
    it('that fails is reported in one line, with status 1 and without a password; --verbose adds the stack', async () => {
      const url = await table(1)
      await sql(
        url,
        `do 'begin create role reader login password ''Sesame-pw''; exception when others then null; end'`,
      )
      const failures: [string, RegExp][] = [
        ['postgres://ann:Sesame-pw@127.0.0.1:1/app', /ECONNREFUSED.*is PostgreSQL running/],
        [
          at(url, { user: 'nobody', password: 'Sesame-pw' }),
          /authentication failed.*check user and password/,
        ],
        [
          at(url, { database: 'Nowhere', password: new URL(url).password }),
          /database "Nowhere" does not exist/,
        ],
        [at(url, { user: 'reader', password: 'Sesame-pw' }), /run grant select, insert, update, delete/],
      ]
      for (const [wrong, message] of failures)
        for (const command of ['sweep', 'stats', 'migrate']) {
          const said = await run(wrong, command)
          expect(said.status, said.errors).to.equal(1)
          expect(said.errors).to.match(message)
          expect(said.errors).to.match(/^koa-pg-store: [^\n]+\n$/)
          const verbose = await run(wrong, command, '--verbose')
          expect(verbose.errors).to.match(/\n +at /)
          for (const { out, errors } of [said, verbose])
            expect(out + errors).not.to.match(new RegExp(`Sesame|${new URL(url).password}`))
        }
      await sql(url, 'drop role reader')
    })

    it('is found by libpq’s variables too', async () => {
      const { hostname, port, username, password, pathname } = new URL(await table(2))
      const env = { PGHOST: hostname, PGPORT: port, PGUSER: username, PGDATABASE: pathname.slice(1) }
      const said = await new Command(['sweep', '--json'], { ...env, PGPASSWORD: password }).ended
      expect(said).to.include({ status: 0, errors: '' })
      expect(JSON.parse(said.out)).to.include({ deleted: 2 })
    })
  })

  describe('sweep', () => {
    it('deletes expired sessions once, and prints how many', async () => {
      const url = await table(2_345)
      const said = await run(url, 'sweep')
      expect(said).to.include({ status: 0, errors: '' })
      expect(said.out).to.match(/^Swept: 2,345 deleted in [\d.]+ m?s \(\d+ batches, [\d,]+ a second\)\.\n$/)
      expect(await count(url, 'active')).to.equal(3)
      expect(await count(url, 'expired')).to.equal(0)
      expect(JSON.parse((await run(url, 'sweep', '--json')).out)).to.include({ deleted: 0 })
    })

    it('has options for the limits of the application', async () => {
      const url = await table(0, 3)
      await sql(url, `update session set last_access = now() - interval '1 hour' where id = 'active-1'`)
      await sql(url, `update session set created_at = now() - interval '1 hour' where id = 'active-2'`)
      const limits = [
        '--idle-timeout',
        '60000',
        '--max-lifetime',
        '60000',
        '--batch-size',
        '1',
        '--grace',
        '0',
      ]
      expect(JSON.parse((await run(url, 'sweep', '--json', ...limits)).out)).to.include({ deleted: 2 })
    })

    it('does nothing while another instance is sweeping', async () => {
      const url = await table(5)
      let resume = (): void => undefined
      const onExpired = () => new Promise<void>((resolve) => (resume = resolve))
      const store = new PgStore(url, { cleanup: { cron: false, onExpired } })
      const sweeping = store.sweep()
      await until(async () => (await sql(url, `select from pg_locks where locktype = 'advisory'`)).length > 0)
      const said = await run(url, 'sweep')
      expect(said).to.include({ status: 0, errors: '' })
      expect(said.out).to.equal('Nothing to do: another instance is sweeping, or has just swept.\n')
      const closed = store.close()
      resume()
      await sweeping
      await closed
    })

    /** Makes a sweep wait in the middle, until the returned function is called. */
    async function stall(url: string): Promise<() => Promise<void>> {
      await sql(
        url,
        `create function wait() returns trigger language plpgsql as
           'begin perform pg_advisory_xact_lock_shared(42); return old; end';
         create trigger wait before delete on session for each row when (old.id = 'expired-2500') execute function wait()`,
      )
      const gate = new pg.Client(url)
      await gate.connect()
      await gate.query('select pg_advisory_lock(42)')
      return () => gate.end()
    }
    const waitingSweep = `select from pg_locks where locktype = 'advisory' and objsubid = 1 and not granted`

    for (const signal of ['SIGTERM', 'SIGINT'] as const)
      it(`stops after its batch at a ${signal}, with status 1, and prints what it did`, async () => {
        const url = await table(20_000)
        const resume = await stall(url)
        const command = new Command(['sweep'], { DATABASE_URL: url })
        await until(async () => (await sql(url, waitingSweep)).length > 0)
        command.child.kill(signal)
        await until(() => command.errors.includes('Stopping after this batch'))
        await resume()
        const said = await command.ended
        expect(said.status).to.equal(1)
        expect(said.out).to.match(/^Interrupted: [\d,]+ deleted in .* The next sweep deletes the rest\.\n$/)
        expect(await count(url, 'expired')).to.be.within(1, 19_999)
        expect(await count(url, 'active')).to.equal(3)
      })

    it('stops at once at a second SIGINT', async () => {
      const url = await table(20_000)
      const resume = await stall(url)
      const command = new Command(['sweep', '--watch', '--cron', '* * * * * *'], { DATABASE_URL: url })
      await until(async () => (await sql(url, waitingSweep)).length > 0)
      command.child.kill('SIGINT')
      await until(() => command.errors.includes('Stopping after this batch'))
      await sleep(1_100)
      command.child.kill('SIGINT')
      expect((await command.ended).status).to.equal(1)
      await resume()
      expect(await count(url, 'active')).to.equal(3)
    })

    it('is a worker with --watch: survives an outage of its server, and stops with status 0 at a SIGTERM', async () => {
      const server = await ownServer()
      try {
        const store = new PgStore(server.url, { cleanup: false })
        await store.setup()
        await store.close()
        await sql(server.url, fill(10))
        const command = new Command(['sweep', '--watch', '--cron', '* * * * * *'], {
          DATABASE_URL: server.url,
        })
        await until(() => command.out.includes('Swept: 10 deleted'))
        await server.kill()
        await until(() => /Trying again at the next scheduled time/.test(command.errors))
        await server.start()
        await sql(server.url, fill(7))
        await until(() => command.out.includes('Swept: 7 deleted'))
        command.child.kill('SIGTERM')
        const { status, out, errors } = await command.ended
        expect(status).to.equal(0)
        expect(out).to.match(/^Sweeping on the schedule \* \* \* \* \* \*, until Ctrl-C or SIGTERM\.\n/)
        expect(out).to.match(/\nStopped after \d+ sweeps: 17 deleted\.\n$/)
        expect(errors).not.to.include(new URL(server.url).password)
      } finally {
        await server.stop()
      }
    })
  })

  describe('migrate', () => {
    it('creates the table, says so, and does nothing the next time', async () => {
      const url = await freshDatabase()
      for (let n = 0; n < 2; n++)
        expect(await run(url, 'migrate', '--schema', 'app', '--table', 'people')).to.deep.equal({
          status: 0,
          out: '"app"."people" is ready.\n',
          errors: '',
        })
      const store = new PgStore(url, { schema: 'app', table: 'people', create: false })
      await store.set('a', { a: 1 })
      expect(await store.get('a')).to.deep.equal({ a: 1 })
      await store.close()
    })

    it('prints with --print the SQL that creates the same table, without a database', async () => {
      const { status, out, errors } = await run('postgres://127.0.0.1:1/nowhere', 'migrate', '--print')
      expect({ status, errors }).to.deep.equal({ status: 0, errors: '' })
      const [printed, migrated] = [await freshDatabase(), await freshDatabase()]
      await sql(printed, out)
      await sql(printed, out)
      await run(migrated, 'migrate')
      const shape = `select attname, format_type(atttypid, -1), attnotnull, col_description(attrelid, attnum),
        (select count(*)::int from pg_trigger where tgrelid = attrelid) as triggers
        from pg_attribute where attrelid = 'session'::regclass and attnum > 0`
      expect(await sql(printed, shape)).to.deep.equal(await sql(migrated, shape))
      const json = JSON.parse((await run(undefined, 'migrate', '--print', '--json')).out)
      expect(json.sql).to.match(/^do /)
    })

    it('upgrades a table of koa-pg-session, and hashes its ids with --to-hashed-ids', async () => {
      const url = await freshDatabase()
      await sql(
        url,
        `create table session (id text primary key, expiry timestamptz not null, session json);
         insert into session select 'koa:sess:' || i, now() + interval '1 hour', '{"a":1}' from generate_series(1, 500) i`,
      )
      const raw = `select id from session where id like 'koa:%'`
      expect((await run(url, 'migrate', '--raw-ids')).status).to.equal(0)
      expect(await sql(url, raw)).to.have.length(500)
      expect((await run(url, 'migrate')).out).to.include('run migrate --to-hashed-ids now')
      const said = await run(url, 'migrate', '--to-hashed-ids')
      expect(said.status).to.equal(0)
      expect(said.out).to.include('500 session ids were replaced by their digests')
      expect(await sql(url, raw)).to.have.length(0)
      const store = new PgStore(url)
      expect(await store.get('koa:sess:7')).to.deep.equal({ a: 1 })
      await store.close()
    })
  })

  describe('stats', () => {
    it('counts, measures and draws, and prints no id and no user', async () => {
      const url = await table(4, 10)
      await sql(url, `update session set user_id = 'u' || (substr(id, 8)::int % 3) where id like 'active%'`)
      await sql(url, `update session set session = null where id = 'active-10'`)
      await run(url, 'sweep', '--grace', '86400000')
      const said = await run(url, 'stats')
      expect(said).to.include({ status: 0, errors: '' })
      for (const line of [
        /^active +9$/m,
        /^expired +4, until the next sweep$/m,
        /^destroyed +1, kept as tombstones for an hour$/m,
        /^users +3$/m,
        /^oldest +\d/m,
        /^size +[\d.]+ KiB \(table/m,
        /^last sweep +\d.* ago: 0 deleted/m,
        /^ +64 B +9 +█+$/m,
        /^ +< 6 h +9 +█+$|^ +< 1 h +9 +█+$/m,
      ])
        expect(said.out).to.match(line)
      expect(said.out).not.to.match(/active-|expired-|sha256/)
      const json = JSON.parse((await run(url, 'stats', '--json')).out)
      expect(json).to.include({ active: 9, expired: 4, destroyed: 1, users: 3 })
      expect(json.lastSweep).to.include({ deleted: 0 })
    })

    it('reads an empty table, and one of koa-pg-session', async () => {
      expect((await run(await table(0, 0), 'stats')).out).to.match(/^active +0$/m)
      const url = await freshDatabase()
      await sql(
        url,
        `create table session (id text primary key, expiry timestamp not null, session json);
         insert into session values ('a', now() + interval '1 hour', '{}')`,
      )
      const json = JSON.parse((await run(url, 'stats', '--json')).out)
      expect(json).to.include({ active: 1, users: null, oldestMs: null, lastSweep: null })
    })

    it('exits with status 0 and no error when its output is closed', async () => {
      const command = new Command(['stats'], { DATABASE_URL: await table(1) })
      command.child.stdout?.destroy()
      expect(await command.ended).to.include({ status: 0, errors: '' })
    })
  })

  describe('doctor', () => {
    it('finds no problems in a new table, with status 0', async () => {
      const said = await run(await table(1), 'doctor')
      expect(said.status, said.out).to.equal(0)
      expect(said.out).to.match(/^The store works\.$/m)
      for (const check of ['connection', 'server', 'clocks', 'table', 'notifications', 'triggers', 'indexes'])
        expect(said.out).to.match(new RegExp(`^ok +${check}: `, 'm'))
    })

    const problems: [string, string, RegExp][] = [
      ['no table', 'drop table session', /^problem +table: .*doesn't exist/m],
      ['a missing right', '', /^problem +table: .*run grant /m],
      [
        'an index on expiry',
        'create index slow on session (expiry)',
        /^problem +indexes: slow: .*\n +→ drop index concurrently "slow"$/m,
      ],
      [
        'a table without autovacuum',
        'alter table session set (autovacuum_enabled = false)',
        /^problem +autovacuum: off for this table.*\n +→ alter table/m,
      ],
      [
        'sessions that no sweep deletes',
        `update session set expiry = now() - interval '2 days' where id like 'expired%'`,
        /^problem +sweeps: last sweep: never; 4 rows expired more than a day ago/m,
      ],
    ]
    for (const [what, change, finding] of problems)
      it(`finds ${what}, with advice and status 1`, async () => {
        const url = await table(4)
        if (change) await sql(url, change)
        else await sql(url, `drop role if exists patient; create role patient login password 'pw'`)
        const who = change ? url : at(url, { user: 'patient', password: 'pw' })
        const said = await run(who, 'doctor')
        expect(said.status).to.equal(1)
        expect(said.out).to.match(finding)
        expect(said.out).to.match(/^The store doesn't work as it should: 1 problem to solve\.$/m)
        const json = JSON.parse((await run(who, 'doctor', '--json')).out)
        expect(json.healthy).to.equal(false)
        if (!change) await sql(url, 'drop role patient')
      })

    it('finds that notifications don’t arrive, where the listening connection is to another database', async () => {
      const url = await table(1)
      const said = await run(url, 'doctor', '--listen-url', await freshDatabase())
      expect(said.status).to.equal(1)
      expect(said.out).to.match(
        /^problem +notifications: no notification received within 3000 ms\n +→ behind a pooler/m,
      )
    })

    it('finds that the server can’t be reached', async () => {
      const said = await run('postgres://ann:Sesame-pw@127.0.0.1:1/app', 'doctor')
      expect(said.status).to.equal(1)
      expect(said.out).to.match(/^problem +connection: .*ECONNREFUSED.*\n +→ check DATABASE_URL/m)
      expect(said.out + said.errors).not.to.include('Sesame')
    })
  })
})
