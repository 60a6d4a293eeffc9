// The schedule of sweeps: by cron expression or interval, and by one of several processes.
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const lockHolders = `select a.application_name as name from pg_locks l join pg_stat_activity a using (pid)
  join pg_database d on d.oid = l.database and d.datname = current_database()
  where locktype = 'advisory' and objsubid = 2 and l.granted`

async function insertSessions(url: string, count: number, prefix: string, expiry: string): Promise<void> {
  await sql(
    url,
    `insert into session (id, expiry, session, version)
     select '${prefix}-' || i, now() + interval '${expiry}', '{"a":1}', 1 from generate_series(1, ${count}) i`,
  )
}

/** Returns the number of rows, without the one that records the last sweep. */
async function countRows(url: string, condition = 'true'): Promise<number> {
  const [row] = await sql<{ n: number }>(
    url,
    `select count(*)::int as n from session where id not like 'sha256:koa-pg-store-%' and ${condition}`,
  )
  return row?.n as number
}

async function createTable(url: string): Promise<void> {
  await using store = new PgStore(url, { cleanup: false, hashIds: false, cache: false })
  await store.setup()
}

describe('the schedule of sweeps', () => {
  it('follows a cron expression, also after a failed sweep', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url, { hashIds: false, cleanup: '* * * * * *', create: false })
    const warnings: Error[] = []
    store.on('warning', (error) => warnings.push(error))
    await createTable(url)
    await store.setup()
    await insertSessions(url, 10, 'expired', '-1 second')
    await until(async () => (await countRows(url)) === 0)
    await sql(url, 'alter table session rename to elsewhere')
    await until(() => warnings.some(({ message }) => message.includes('session')))
    await sql(url, 'alter table elsewhere rename to session')
    await insertSessions(url, 10, 'expired', '-1 second')
    await until(async () => (await countRows(url)) === 0)
    await store.close()
  })

  it('repeats every cleanupTime ms', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url, { hashIds: false, cleanupTime: 200 })
    await store.setup()
    for (let round = 0; round < 3; round++) {
      await insertSessions(url, 10, 'expired', '-1 second')
      await until(async () => (await countRows(url)) === 0)
    }
    await store.close()
  })

  it('does not keep the process running', async () => {
    const url = await freshDatabase()
    for (const options of [{}, { cleanup: '* * * * * *' }, { cleanupTime: 50 }]) {
      const child = start('calls.js', [url, JSON.stringify(options)])
      child.send(['setup'])
      await message(child)
      child.disconnect()
      const [code] = await once(child, 'exit')
      expect(code).to.equal(0)
    }
  })

  it('has one of four processes sweep, another after that is killed, and keeps active sessions', async () => {
    const url = await freshDatabase()
    await createTable(url)
    await insertSessions(url, 300, 'active', '1 hour')
    // Makes a sweep wait at a row until the test lets it continue. A lock would not do: a sweep soon gives up on one, and would
    // repeat the batch while it holds its rows, also those that the test touches.
    await sql(
      url,
      `create table gate (id text);
       create function wait() returns trigger language plpgsql as
         'begin while exists (select from gate where id = old.id) loop perform pg_sleep(0.02); end loop; return old; end';
       create trigger wait before delete on session for each row execute function wait()`,
    )
    const sleeping = `select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`
    const children = new Map<string, ChildProcess>()
    try {
      for (const name of ['ann', 'bob', 'cid', 'dan']) {
        const child = start('sweep-app.js', [`${url}?application_name=${name}`, '200'])
        children.set(name, child)
        await message(child)
      }
      const expired = `id like 'expired%' and expiry <= now()`
      for (let round = 0; round < 3; round++) {
        // Stops at the row in the middle, in the order of a sweep: that of the table's pages.
        await sql(
          url,
          `begin;
           insert into session (id, expiry, session, version)
             select 'expired-' || i, now() - interval '1 second', '{"a":1}', 1 from generate_series(1, 5000) i;
           insert into gate select id from session where id like 'expired%' order by ctid offset 2500 limit 1; commit`,
        )
        await until(async () => (await sql(url, sleeping)).length > 0)
        // The other processes find the lock taken and skip their sweeps.
        await until(async () => (await sql(url, lockHolders)).length === 1)
        const [holder] = await sql<{ name: string }>(url, lockHolders)
        const touched = await sql<{ id: string }>(
          url,
          `update session set expiry = now() + interval '1 hour' where id in
             (select id from session where ${expired} order by ctid desc limit 100) returning id`,
        )
        expect(touched).to.have.length(100)
        const name = holder?.name ?? ''
        expect([...children.keys()]).to.include(name)
        if (round < 2) {
          children.get(name)?.kill('SIGKILL')
          children.delete(name)
        }
        await sql(url, 'delete from gate')
        await until(async () => (await countRows(url, expired)) === 0)
        expect(await countRows(url, `id like 'expired%'`)).to.equal(100)
        await sql(url, `delete from session where id like 'expired%'`)
      }
      expect(await countRows(url, `id like 'active%'`)).to.equal(300)
    } finally {
      const running = [...children.values()].filter(
        ({ exitCode, signalCode }) => exitCode === null && !signalCode,
      )
      const exits = running.map((child) => once(child, 'exit'))
      for (const child of running) child.disconnect()
      await Promise.all(exits)
    }
  })
})
