// Changes that notify commit asynchronously, and are acknowledged when one shared flush has reached the disk.
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { run } from '../helpers/command.js'
import { trusted } from '../helpers/instance.js'
import { recordingClient } from '../helpers/recording-client.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const emits = (text: string): boolean => text.includes('pg_logical_emit_message(')
const setsAsync = (text: string): boolean => text.includes(`set_config('synchronous_commit', 'off'`)

describe('the flush of the log', () => {
  let url: string
  const closing: (() => Promise<unknown>)[] = []

  beforeEach(async () => {
    url = await freshDatabase()
  })

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close()
  })

  const closeAfter = (store: PgStore): PgStore => {
    closing.push(() => store.close())
    return store
  }

  it('goes along with a change that is alone', async () => {
    const { Client, texts } = recordingClient()
    const store = closeAfter(new PgStore({ connectionString: url, Client, max: 1 }, { cache: false }))
    await store.set('a', { n: 1 })
    texts.length = 0
    await store.set('a', { n: 2 })
    expect(texts.map(emits)).to.deep.equal([false, true])
  })

  it('is shared by changes that are made at the same time', async () => {
    const { Client, texts } = recordingClient()
    const store = closeAfter(new PgStore({ connectionString: url, Client }, { cache: false }))
    const sids = Array.from({ length: 512 }, (_, n) => `s${n}`)
    await Promise.all(sids.map((sid) => store.set(sid, { n: 1 })))
    texts.length = 0
    await Promise.all(sids.map((sid) => store.set(sid, { n: 2 })))
    const flushes = texts.filter(emits).length
    expect(flushes).to.be.within(1, 4)
    expect(texts.filter(setsAsync).length).to.be.at.least(4)
  })

  it('does not wait for another change that waits for the lock of a row', async () => {
    const store = closeAfter(new PgStore(url, { cache: false, touch: { interval: 0 } }))
    for (const sid of ['locked', 'free', 'free too']) await store.set(sid, { n: 1 })
    const [row] = await sql<{ id: string }>(
      url,
      `select id from session where session->>'n' = '1' order by created_at limit 1`,
    )
    const other = new pg.Client(url)
    await other.connect()
    await other.query('begin')
    await other.query('select from session where id = $1 for update', [row?.id])
    let isWritten = false
    const waiting = store.set('locked', { n: 2 }).then(() => {
      isWritten = true
    })
    const isWaiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
    await until(async () => (await sql(url, isWaiting)).length > 0)
    await Promise.all(['free', 'free too'].map((sid) => store.set(sid, { n: 2 })))
    await store.destroy('free')
    expect(isWritten).to.equal(false)
    await other.query('rollback')
    await waiting
    await other.end()
  })

  it('is left out where the connection commits asynchronously, and after a first insert', async () => {
    const { Client, texts } = recordingClient()
    const options = '-c synchronous_commit=off'
    const store = closeAfter(new PgStore({ connectionString: url, Client, options }, { cache: false }))
    await store.set('a', { n: 1 })
    texts.length = 0
    const [before] = await sql(url, 'select pg_snapshot_xmax(pg_current_snapshot())::text::int as xid')
    await store.set('a', { n: 2 })
    await Promise.all(Array.from({ length: 10 }, (_, n) => store.set(`b${n}`, { n: 1 })))
    await Promise.all(Array.from({ length: 10 }, (_, n) => store.set(`b${n}`, { n: 2 })))
    const [after] = await sql(url, 'select pg_snapshot_xmax(pg_current_snapshot())::text::int as xid')
    // A transaction id for each statement that changes rows, and none for a flush.
    expect((after?.xid as number) - (before?.xid as number)).to.equal(texts.filter(changesRows).length)
  })

  it('rejects the changes that wait for it if it fails, and the cache forgets them', async () => {
    const store = closeAfter(await trusted(url))
    await store.set('a', { n: 1 })
    await store.get('a')
    await createRole(url)
    closing.unshift(() => dropRole(url))
    await sql(url, 'grant select, insert, update, delete on session to restricted')
    await sql(url, `grant execute on function ${await signature(url)} to restricted`)
    const other = closeAfter(
      await trusted(at(url, { user: 'restricted', password: 'pw' }), { create: false }),
    )
    await other.get('a')
    await sql(url, `revoke execute on function ${await signature(url)} from restricted`)
    const lone = await rejection(other.set('a', { n: 2 }))
    expect(lone.message).to.match(/permission denied for function pg_logical_emit_message/)
    expect((await other.stats()).cache).to.include({ size: 0 })
    const several = await Promise.allSettled(['a', 'a', 'b'].map((sid, n) => other.set(sid, { n: 3 + n })))
    expect(several.map(({ status }) => status)).to.deep.equal(['rejected', 'rejected', 'fulfilled'])
    expect(await other.get('a'), 'it was committed').to.deep.equal({ n: 4 })
    await sql(url, `grant execute on function ${await signature(url)} to public`)
    await other.set('a', { n: 9 })
    expect(await other.get('a')).to.deep.equal({ n: 9 })
  })
})

describe('a role that may not call pg_logical_emit_message', () => {
  it('is warned once, commits as before, and is told by doctor what to run', async () => {
    const url = await freshDatabase()
    await createRole(url)
    await sql(url, 'grant create on schema public to restricted')
    const own = at(url, { user: 'restricted', password: 'pw' })
    const { Client, texts } = recordingClient()
    const store = new PgStore({ connectionString: own, Client }, { cleanup: false })
    const warnings: string[] = []
    store.on('warning', ({ message }) => warnings.push(message))
    await store.set('a', { n: 0 })
    const other = await trusted(url)
    for (const n of [1, 2, 3]) await store.set('a', { n })
    expect(await other.get('a')).to.deep.equal({ n: 3 })
    await store.set('a', { n: 4 })
    await until(async () => (await other.get('a'))?.n === 4)
    await store.destroy('a')
    await until(async () => (await other.get('a')) === undefined)
    expect(texts.some((text) => emits(text) && !text.includes('pg_proc'))).to.equal(false)
    expect(texts.filter(changesRows).some(setsAsync)).to.equal(false)
    const grant = `grant execute on function ${await signature(url)} to "restricted"`
    expect(warnings).to.have.length(1)
    expect(warnings[0]).to.include(grant)
    const said = await run(own, 'doctor')
    expect(said.out).to.match(/^note +commits: changes of sessions are committed one at a time/m)
    expect(said.out).to.include(grant)
    expect(said.status).to.equal(0)
    await sql(url, grant)
    expect((await run(own, 'doctor')).out).to.match(/^ok +commits: /m)
    await store.close()
    await other.close()
    await dropRole(url)
  })
})

function changesRows(text: string): boolean {
  return /^with changed as|^insert into|^update /.test(text)
}

/** Creates the role `restricted`, which has no right to call the function, nor does any other. */
async function createRole(url: string): Promise<void> {
  await sql(url, `revoke execute on function ${await signature(url)} from public`)
  await sql(url, `create role restricted login password 'pw'`)
}

async function dropRole(url: string): Promise<void> {
  await sql(url, 'drop owned by restricted; drop role restricted')
}

/** Returns the name and the argument types of the function: PostgreSQL 17 added an argument. */
async function signature(url: string): Promise<string> {
  const [row] = await sql<{ name: string }>(
    url,
    `select oid::regprocedure::text as name from pg_proc where proname = 'pg_logical_emit_message' and proargtypes[2] = 'text'::regtype`,
  )
  return row?.name as string
}
