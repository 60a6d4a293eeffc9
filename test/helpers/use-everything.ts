// Uses every method of a store, for tests of drivers and poolers.
import { expect } from 'chai'
import { type ConnectionSource, type ExpiredSession, PgStore, type PgStoreOptions } from '../../lib/index.js'
import { until } from './until.js'

/** Uses every method of a store, and checks what it returns. `rows` queries the database outside the store. */
export async function useEverything(
  connection: ConnectionSource,
  rows: (text: string) => Promise<unknown[]>,
  options: PgStoreOptions = {},
): Promise<void> {
  const expired: ExpiredSession[] = []
  const store = new PgStore(connection, {
    cleanup: { cron: false, onExpired: (session) => expired.push(session) },
    cache: { ttl: 60_000 },
    maxSessionsPerUser: 5,
    ...options,
  })
  const warnings: string[] = []
  store.on('warning', ({ message }) => warnings.push(message))
  try {
    await store.setup()
    await store.set('a-session-of-7', { userId: 7, visits: 1 }, 60_000)
    const session = await store.get<{ visits: number }>('a-session-of-7', { fresh: true })
    expect(session).to.deep.equal({ userId: 7, visits: 1 })
    await store.set('a-session-of-7', { ...session, visits: 2 }, 60_000)
    await store.touch('a-session-of-7', 120_000)
    await Promise.all([1, 2, 3].map((n) => store.set(`another-session-${n}`, { n })))
    expect(await store.get('another-session-2', { fresh: true })).to.deep.equal({ n: 2 })

    const [info] = await store.sessionsOf(7)
    expect(info?.session).to.deep.equal({ userId: 7, visits: 2 })
    for (const time of [info?.createdAt, info?.lastAccessedAt, info?.expiresAt])
      expect(Math.abs((time?.getTime() ?? 0) - Date.now())).to.be.below(200_000)
    const handles: string[] = []
    for await (const { handle } of store.sessions()) handles.push(handle)
    expect(handles).to.have.length(4)
    expect(await store.count()).to.equal(4)
    expect(await store.deleteAttribute(7, 'visits')).to.equal(1)

    await store.create({ cart: [1] }, { ttl: 1 })
    await until(async () => (await store.sweep()).deleted === 1)
    expect(expired.map(({ session, expiresAt }) => [session, expiresAt.getTime() > 0])).to.deep.equal([
      [{ cart: [1] }, true],
    ])
    expect(
      await rows(`select json_typeof(session) as type from session where id like '%sweep%'`),
    ).to.deep.equal([{ type: 'object' }])

    const { notifications } = await store.stats()
    expect(notifications.queueUsage).to.be.a('number')
    const { error, ...health } = await store.health()
    expect([health.healthy, error]).to.deep.equal([true, undefined])
    expect(await store.revoke(info?.handle ?? '')).to.equal(true)
    expect(await store.get('a-session-of-7')).to.equal(undefined)
    await store.destroy('another-session-1')
    expect(await store.destroyAll()).to.equal(2)
    expect(warnings).to.deep.equal([])
  } finally {
    await store.close()
  }
}
