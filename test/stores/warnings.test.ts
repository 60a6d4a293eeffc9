// What is printed without a listener for `warning`: each kind once, and when it has ended.
import { EventEmitter } from 'node:events'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import type { PgStoreEvents } from '../../lib/stores/events.js'
import { Warnings } from '../../lib/stores/warnings.js'
import { at, freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

interface Printed extends Error {
  code?: string
  detail?: string
}

describe('warnings without a listener', function () {
  this.timeout(60_000)
  let printed: Printed[] = []
  const onWarning = (warning: Printed): void => {
    if (warning.name === 'PgStoreWarning') printed.push(warning)
  }
  const texts = (code: string): string[] =>
    printed.filter((warning) => warning.code === code).map(({ message }) => message)

  beforeEach(() => {
    printed = []
    process.on('warning', onWarning)
  })
  afterEach(() => process.off('warning', onWarning))

  it('say that nothing is cached over a query function, and what to do', async () => {
    const url = await freshDatabase()
    const store = new PgStore((text, values) => sql(url, text, values))
    await store.set('a-session', { n: 1 })
    await store.close()
    await until(() => printed.length > 0)
    expect(printed.map(({ code, message }) => [code, message])).to.deep.equal([
      [
        'KOA_PG_STORE_CACHE',
        'koa-pg-store: cache disabled, cannot receive notifications of changes: a query function cannot listen.' +
          ' Set the option "listen" to a connection, or set cache.ttl to accept sessions that are as old as that',
      ],
    ])
    expect(printed[0]?.detail).to.include('store.on("warning", …)')
  })

  it('say that a listener of another event has thrown, which fails no call', async () => {
    const url = await freshDatabase()
    const [here, there] = [new PgStore(url, { cache: false }), new PgStore(url, { cache: false })]
    for (const event of ['conflict', 'connect', 'sweep'] as const)
      here.on(event, () => {
        throw new Error(`no ${event}`)
      })
    await here.set('x', { a: 1 })
    const mine = (await here.get('x')) ?? {}
    await there.set('x', Object.assign((await there.get('x')) ?? {}, { b: 1 }))
    await here.set('x', Object.assign(mine, { c: 1 }))
    expect(await there.get('x')).to.deep.equal({ a: 1, b: 1, c: 1 })
    const warnings: string[] = []
    here.on('warning', ({ message }) => warnings.push(message))
    await here.sweep()
    expect(warnings).to.deep.equal(['a listener for "sweep" failed: no sweep'])
    for (const store of [here, there]) await store.close()
    await until(() => texts('KOA_PG_STORE_LISTENER').length > 0)
  })

  it('say once that touches and sweeps fail, and when they work again', async () => {
    const url = await freshDatabase()
    const owner = new PgStore(url, { cleanup: false })
    await owner.setup()
    await owner.close()
    await sql(
      url,
      `do 'begin create role toucher login password ''pw''; exception when duplicate_object then null; end';
       grant select, insert, update, delete on session to toucher`,
    )
    const store = new PgStore(at(url, { user: 'toucher', password: 'pw' }), {
      touch: { interval: 50 },
      cleanup: '* * * * * *',
      cache: false,
    })
    await store.set('a-session', { n: 1 }, 600_000)
    await sql(url, 'revoke update, delete on session from toucher')
    await until(async () => {
      await store.touch('a-session', 1_200_000)
      return texts('KOA_PG_STORE_TOUCH').length > 0 && texts('KOA_PG_STORE_SWEEP').length > 0
    })
    await store.touch('a-session', 1_300_000)
    expect(texts('KOA_PG_STORE_TOUCH')).to.have.length(1)
    expect(texts('KOA_PG_STORE_TOUCH')[0]).to.match(
      /^koa-pg-store: deferred touches could not be written yet, and are tried again: permission denied for table session\. Until then, sessions may expire earlier/,
    )
    await sql(url, 'grant update, delete on session to toucher')
    await until(async () => {
      await store.touch('a-session', 1_400_000)
      return texts('KOA_PG_STORE_TOUCH').length > 1 && texts('KOA_PG_STORE_SWEEP').length > 1
    })
    expect(texts('KOA_PG_STORE_TOUCH')[1]).to.equal('koa-pg-store: touches are written again')
    expect(texts('KOA_PG_STORE_SWEEP')[0]).to.match(/^koa-pg-store: can't sweep: .*permission denied/)
    expect(texts('KOA_PG_STORE_SWEEP')[1]).to.equal('koa-pg-store: expired sessions are deleted again')
    await store.close()
  })

  it('say that the LISTEN connection was lost, and when it is back', async () => {
    const server = await ownServer()
    const store = new PgStore(server.url, { cleanup: false })
    try {
      const trusted = new Promise<void>((resolve) => store.once('trust', resolve))
      await store.setup()
      await trusted
      await sql(
        server.url,
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener%'`,
      )
      await until(() => texts('KOA_PG_STORE_CACHE').length === 2)
      expect(texts('KOA_PG_STORE_CACHE')[0]).to.match(
        /^koa-pg-store: LISTEN connection lost, serving sessions from the database/,
      )
      expect(texts('KOA_PG_STORE_CACHE')[1]).to.equal(
        'koa-pg-store: notifications arrive again; sessions are served from the cache',
      )
    } finally {
      await store.close()
      await server.stop()
    }
  })

  for (const [options, hint] of [
    [
      { ttl: 60 },
      'option "ttl" is 60 ms, and durations are in milliseconds. If 60 seconds were meant, write ttl: 60 * 1000',
    ],
    [
      { table: 'app.session' },
      'option "table" is "app.session": a name with a dot, in the schema "public". If the schema "app" was meant, write' +
        " { schema: 'app', table: 'session' }",
    ],
  ] as const)
    it(`say what ${JSON.stringify(options)} was probably meant to be`, async () => {
      const store = new PgStore('postgres://localhost/app', options)
      await until(() => printed.length > 0)
      expect(texts('KOA_PG_STORE_OPTIONS')).to.deep.equal([`koa-pg-store: ${hint}`])
      await store.close()
    })

  it('are not printed if there is a listener', async () => {
    const store = new PgStore('postgres://localhost/app', { ttl: 60 })
    const received: Error[] = []
    store.on('warning', (error) => received.push(error))
    await until(() => received.length > 0)
    await new Promise((resolve) => setImmediate(resolve))
    expect(printed).to.deep.equal([])
    await store.close()
  })

  it('are printed once in an hour, if they begin and end all the time', async () => {
    let now = 0
    const warnings = new Warnings(new EventEmitter<PgStoreEvents>(), () => now)
    for (; now < 3_600_000; now += 60_000) {
      warnings.warn('touch', new Error('no connection'))
      warnings.end('touch')
    }
    await new Promise((resolve) => setImmediate(resolve))
    expect(printed).to.have.length(2)
    warnings.warn('touch', new Error('no connection'))
    await until(() => printed.length === 3)
  })
})
