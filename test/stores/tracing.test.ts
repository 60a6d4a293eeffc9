// The tracing channels: what a subscriber receives of each operation, and that it is never a session or an id.
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { trusted } from '../helpers/instance.js'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, sql } from '../helpers/server.js'

interface Message extends Record<string, unknown> {
  error?: Error
}

const names = ['get', 'set', 'touch', 'destroy', 'batch', 'flush', 'setup', 'sweep'] as const
const events = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const

describe('the tracing channels', () => {
  let log: { name: string; event: string; message: Message }[] = []
  const stops: (() => void)[] = []
  beforeEach(() => {
    log = []
    for (const name of names)
      for (const event of events) {
        const listener = (message: unknown): void =>
          void log.push({ name, event, message: message as Message })
        subscribe(`tracing:koa-pg-store:${name}:${event}`, listener)
        stops.push(() => unsubscribe(`tracing:koa-pg-store:${name}:${event}`, listener))
      }
  })
  afterEach(() => {
    for (const stop of stops.splice(0)) stop()
  })
  /** The contexts of the operations that have ended, in this order. */
  const ended = (name: (typeof names)[number]): Message[] =>
    log.filter((entry) => entry.name === name && entry.event === 'asyncEnd').map(({ message }) => message)

  it('publish setup, calls, batches, flushes and sweeps, each from start to end', async () => {
    const url = await freshDatabase()
    const store = await trusted(url, { schema: 'app', table: 'visits' })
    const table = 'app.visits'
    expect(ended('setup')).to.deep.equal([{ table, result: undefined }])
    const sids = await Promise.all([1, 2, 3].map((n) => store.create({ n })))
    expect(ended('set')).to.have.length(3)
    expect(ended('batch').map(({ operation, batchSize }) => [operation, batchSize])).to.deep.equal([
      ['set', 3],
    ])
    await store.get(sids[0] ?? '')
    await store.getWithTtl(sids[0] ?? '')
    await store.get(sids[0] ?? '', { fresh: true })
    expect(ended('get').map(({ cached }) => cached)).to.deep.equal([true, true, false])
    for (const sid of sids) await store.touch(sid)
    expect(ended('touch')).to.have.length(3)
    await sql(url, `update app.visits set expiry = now() - interval '1 hour' where session->>'n' = '3'`)
    await store.destroy(sids[0] ?? '')
    await store.sweep()
    expect(ended('destroy')).to.have.length(1)
    expect(ended('sweep')).to.deep.equal([{ table, deleted: 1, result: undefined }])
    await store.close()
    expect(ended('flush').map(({ batchSize }) => batchSize)).to.deep.equal([2])
    for (const name of names) {
      const of = (event: string) => log.filter((entry) => entry.name === name && entry.event === event)
      for (const event of events) expect(of(event)).to.have.length(event === 'error' ? 0 : of('start').length)
      for (const { message } of of('asyncEnd')) expect(message.table).to.equal(table)
    }
  })

  it('publish the error that a call rejects with', async () => {
    const url = await freshDatabase()
    await using store = await trusted(url)
    await sql(url, 'drop table session')
    const error = await rejection(store.get('x'))
    expect(ended('get').map((message) => message.error)).to.deep.equal([error])
  })

  it('carry no session, no session id and no handle', async () => {
    await using store = await trusted(await freshDatabase(), { hashIds: false })
    const sid = await store.create({ userId: 'ann', note: 'x-secret-x' })
    await store.get(sid)
    await store.get(sid, { fresh: true })
    await store.touch(sid)
    await store.destroy(sid)
    const text = JSON.stringify(log)
    expect(log.length).to.be.above(20)
    for (const secret of [sid, store.handleOf(sid), 'x-secret-x', 'ann'])
      expect(text).not.to.include(JSON.stringify(secret).slice(1, -1))
  })

  it('are silent for a store whose connection is refused, except that they report the failure', async () => {
    const store = new PgStore('postgres://localhost:1/app')
    await rejection(store.get('x'))
    expect(ended('setup')[0]?.error).to.be.instanceOf(Error)
    await store.close()
  })
})

describe('stats().calls', () => {
  it('counts calls, errors and batches, and has a cumulative histogram of their durations', async () => {
    const url = await freshDatabase()
    await using store = await trusted(url)
    const sids = await Promise.all([1, 2, 3].map((n) => store.create({ n })))
    await Promise.all(sids.map((sid) => store.get(sid)))
    await Promise.all(sids.map((sid) => store.get(sid, { fresh: true })))
    await store.destroy(sids[0] ?? '')
    const { calls, cache } = await store.stats()
    expect(calls.set).to.include({ count: 3, errors: 0, batches: 1 })
    // What the cache served is counted there, and only there.
    expect(calls.get).to.include({ count: 3, errors: 0, batches: 1 })
    expect(cache).to.include({ hits: 3 })
    expect(calls.destroy).to.include({ count: 1, errors: 0, batches: 1 })
    const { buckets, sum } = calls.get.latency
    expect(buckets.at(-1)).to.deep.equal({ le: Number.POSITIVE_INFINITY, count: 3 })
    for (const [n, { le, count }] of buckets.entries()) {
      expect(le).to.be.above(buckets[n - 1]?.le ?? 0)
      expect(count).to.be.at.least(buckets[n - 1]?.count ?? 0)
    }
    expect(sum).to.be.above(0)
    await sql(url, 'drop table session')
    await rejection(store.get('x'))
    expect((await store.stats()).calls.get).to.include({ count: 4, errors: 1 })
  })

  it('counts the sweeps of this instance and the rows that they deleted', async () => {
    const url = await freshDatabase()
    await using store = await trusted(url, { cleanup: false })
    await store.create({}, { ttl: 1 })
    await sql(url, `update session set expiry = now() - interval '1 hour'`)
    await store.sweep()
    await store.sweep()
    expect((await store.stats()).sweeps).to.deep.equal({ count: 2, deleted: 1 })
  })
})
