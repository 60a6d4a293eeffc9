// Waits and queues end while the server is silent or refuses connections, and whatever a codec or a hook does.
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { expect } from 'chai'
import { type DatabaseError, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { startProxy } from '../helpers/proxy.js'
import { rejection } from '../helpers/rejection.js'
import { at, freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

type TcpProxy = Awaited<ReturnType<typeof startProxy>>

/** The codes of the errors that calls reject with; "ok" for those that resolve. */
async function outcomes(calls: readonly PromiseLike<unknown>[]): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (const result of await Promise.allSettled(calls)) {
    const code = result.status === 'fulfilled' ? 'ok' : (result.reason as DatabaseError).code
    counts[code] = (counts[code] ?? 0) + 1
  }
  return counts
}

describe('a silent server', () => {
  let url: string
  let proxy: TcpProxy
  let store: PgStore
  const warnings: string[] = []

  async function open(options: PgStoreOptions = {}, queryTimeout = 700): Promise<void> {
    url = await freshDatabase()
    proxy = await startProxy(Number(new URL(url).port))
    store = new PgStore(
      {
        connectionString: at(url, { port: proxy.port }),
        connectionTimeoutMillis: 700,
        query_timeout: queryTimeout,
      },
      { cache: false, ...options },
    )
    warnings.length = 0
    store.on('warning', ({ message }) => warnings.push(message))
    await store.set('a', { a: 1 }, 600_000)
  }

  afterEach(async () => {
    await store.close({ timeout: 200 })
    await proxy.close()
  })

  it('makes calls fail in time, refuses those for which there is no room at once, and then all but one at a time', async () => {
    await open({ touch: { interval: 0 } })
    proxy.stall()
    const calls = Array.from({ length: 21_000 }, (_, n) => store.get(`s${n}`))
    const refused = await rejection(calls.at(-1) as Promise<unknown>)
    expect(refused).to.include({ code: 'ERR_SESSION_BUSY', status: 503 })
    const counts = await outcomes(calls)
    expect(Object.keys(counts)).to.not.include('ok')
    expect(counts.ERR_SESSION_BUSY).to.be.at.least(1_000)
    // It is known to be unreachable.
    const error = (await rejection(Promise.any([store.get('a'), store.get('b')]))) as AggregateError
    for (const { code } of error.errors)
      expect(code).to.be.oneOf(['ERR_SESSION_UNREACHABLE', 'ERR_SESSION_TIMEOUT'])
    const { errors } = await store.stats()
    expect(errors.ERR_SESSION_BUSY).to.equal(counts.ERR_SESSION_BUSY)
    proxy.resume()
    await until(() =>
      store.get('a').then(
        () => true,
        () => false,
      ),
    )
    // All are served as soon as one is.
    expect(await outcomes(Array.from({ length: 500 }, (_, n) => store.get(`s${n}`)))).to.deep.equal({
      ok: 500,
    })
  })

  it('refuses saves when those that wait are large', async () => {
    await open({}, 3_000)
    proxy.stall()
    const padding = 'x'.repeat(1_000_000)
    const calls = Array.from({ length: 80 }, (_, n) => store.set(`s${n}`, { padding }))
    const refused = await rejection(calls.at(-1) as Promise<unknown>)
    expect(refused).to.include({ code: 'ERR_SESSION_BUSY' })
    expect(refused.message).to.match(/characters of sessions wait to be written/)
    await outcomes(calls)
  })

  it('makes saves of one session fail in time, and none later', async () => {
    await open()
    proxy.stall()
    const counts = await outcomes(Array.from({ length: 300 }, (_, n) => store.set('a', { n }, 600_000)))
    expect(Object.keys(counts)).to.not.include('ok')
    proxy.resume()
    await until(() =>
      store.get('a').then(
        (session) => expect(session).to.deep.equal({ a: 1 }) !== undefined,
        () => false,
      ),
    )
  })

  for (const [name, call] of Object.entries({
    destroySessionsOf: (s: PgStore) => s.destroySessionsOf('u'),
    destroyAll: (s: PgStore) => s.destroyAll(),
    deleteAttribute: (s: PgStore) => s.deleteAttribute('u', 'role'),
    revoke: (s: PgStore) => s.revoke('x'.repeat(43)),
    count: (s: PgStore) => s.count(),
    sessionsOf: (s: PgStore) => s.sessionsOf('u'),
  }))
    it(`lets ${name} take no longer than a request`, async function () {
      this.timeout(20_000)
      await open()
      proxy.stall()
      expect(await rejection(call(store))).to.include({ code: 'ERR_SESSION_TIMEOUT' })
    })

  it('lets close() end in time, with a warning that says how many touches are lost', async () => {
    await open({ touch: { interval: 60_000 } })
    for (let n = 0; n < 30; n++) {
      await store.set(`s${n}`, { n }, 600_000)
      await store.get(`s${n}`)
    }
    proxy.stall()
    const pending = rejection(store.get('a'))
    await store.close({ timeout: 500 })
    await pending
    expect(warnings.join('\n')).to.match(/\b30 touches could not be written before the store was closed/)
    expect((await store.stats()).touches.lost).to.equal(30)
  })

  it('loses no touches if it comes back before close() has to end', async () => {
    await open({ touch: { interval: 60_000 } })
    await store.get('a')
    await sql(url, `update session set last_access = now() - interval '1 hour'`)
    proxy.stall()
    const closed = store.close({ timeout: 20_000 })
    await until(() => warnings.some((message) => message.includes('tried again')))
    proxy.resume()
    await closed
    const [row] = await sql(url, `select last_access > now() - interval '1 minute' as written from session`)
    expect(row).to.deep.equal({ written: true })
  })
})

describe('a server that refuses connections', () => {
  it('is not asked by each call: attempts back off', async () => {
    let attempts = 0
    const server = createServer((socket: Socket) => {
      attempts++
      socket.destroy()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const store = new PgStore(`postgres://user:password@127.0.0.1:${port}/app`, { cache: false })
    for (let n = 0; n < 1_000; n++) {
      const { message } = await rejection(store.get('a'))
      expect(message).to.match(/Connection terminated|ECONNRESET|socket/)
    }
    expect(attempts).to.be.below(50)
    await store.close()
    server.close()
  })
})

describe('a codec that hangs for one session', () => {
  const hangs = (value: object): boolean => JSON.stringify(value).includes('hang')
  const never = new Promise<never>(() => undefined)

  for (const cache of [false, {}] as const)
    it(`does not stop the others, ${cache ? 'with' : 'without'} a cache, nor close()`, async () => {
      const url = await freshDatabase()
      let isHanging = false
      const store = new PgStore(url, {
        cache,
        codec: {
          encode: (value) => (isHanging && hangs(value) ? never : Promise.resolve({ e: value })),
          decode: (value) =>
            isHanging && hangs(value) ? never : Promise.resolve(Reflect.get(value, 'e') as object),
        },
      })
      await store.set('s7', { name: 'hang' })
      isHanging = true
      let settled = 0
      const count = (): void => {
        settled++
      }
      void store.set('s7', { name: 'hang', n: 1 }).then(count, count)
      await Promise.all(Array.from({ length: 40 }, (_, n) => store.set(`t${n}`, { n })))
      const reader = new PgStore(url, {
        cache,
        codec: {
          encode: (value) => value,
          decode: (value) => (hangs(value) ? never : Promise.resolve({ ...value })),
        },
      })
      void reader.get('s7').then(count, count)
      await Promise.all(Array.from({ length: 40 }, (_, n) => reader.get(`t${n}`)))
      expect(settled).to.equal(0)
      await Promise.all([store.close({ timeout: 500 }), reader.close({ timeout: 500 })])
    })

  it('fails itself, in time', async function () {
    this.timeout(40_000)
    const store = new PgStore(await freshDatabase(), {
      cache: false,
      codec: { encode: (value) => value, decode: () => never },
    })
    await store.set('a', {})
    expect(await rejection(store.get('a'))).to.include({
      code: 'ERR_SESSION_DECODE',
      message: "the session can't be decoded: codec.decode did not resolve within 10000 ms",
    })
    await store.close()
  })
})

describe('onExpired that never resolves', () => {
  it('does not stop close()', async () => {
    const url = await freshDatabase()
    let isCalled = false
    const store = new PgStore(url, {
      cache: false,
      cleanup: {
        onExpired: () => {
          isCalled = true
          return new Promise<void>(() => undefined)
        },
      },
    })
    await store.set('a', {}, 1)
    const swept = store.sweep().catch(() => undefined)
    await until(() => isCalled)
    await store.close({ timeout: 300 })
    void swept
  })
})
