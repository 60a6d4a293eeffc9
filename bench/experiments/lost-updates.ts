// npm run bench:lost: what each store loses when two requests of one browser overlap, behind koa-generic-session.
import { setTimeout as sleep } from 'node:timers/promises'
import Koa from 'koa'
import koaSession from 'koa-generic-session'
import { listen } from '../../test/helpers/http.js'
import { startRedis } from '../../test/support/redis.js'
import type { Adapter } from '../comparison/adapter.js'
import { connectPgSimple } from '../comparison/postgres-peers.js'
import { koaRedis } from '../comparison/redis-peers.js'
import { environment, saveJson } from '../report/files.js'
import { count, table } from '../report/markdown.js'
import { startDatabase } from '../support/database.js'
import { openStore } from '../support/store.js'

type Store = Pick<Adapter, 'get' | 'set' | 'destroy' | 'close'>
type Context = Omit<Koa.Context, 'session'> & { session: Record<string, unknown> | null }

interface Outcome {
  readonly store: string
  /** Attributes that a request added and that the session doesn't have at the end. */
  readonly attributesLost: number
  /** Sessions that exist after the sign-out, where a slow request changed `ctx.session`, or replaced it. */
  readonly restoredByChange: number
  readonly restoredByReplacement: number
}

const rounds = 1_000
/** Rounds that run at the same time, each with its own session. */
const concurrency = 50
/** How long a request takes. */
const requestMs = 5
/** Enough for notifications to reach the other instance. */
const notificationMs = 50

/** Makes the slow requests wait until all users have signed out. */
class Gate {
  #arrivals = 0
  arrived = () => {}
  readonly allArrived = new Promise<void>((resolve) => {
    this.arrived = resolve
  })
  open = () => {}
  readonly #opened = new Promise<void>((resolve) => {
    this.open = resolve
  })

  pass(): Promise<void> {
    if (++this.#arrivals === concurrency) this.arrived()
    return this.#opened
  }
}
let gate = new Gate()

const routes: Record<string, (ctx: Context) => unknown> = {
  '/': ({ session }) => JSON.stringify(session ?? {}),
  '/sign-in': (ctx) => {
    Object.assign(ctx.session ?? {}, { name: 'ann' })
  },
  '/sign-out': (ctx) => {
    ctx.session = null
  },
  '/add': async (ctx) => {
    await sleep(requestMs)
    Object.assign(ctx.session ?? {}, { [String(ctx.query.name)]: true })
  },
  '/slow/change': async (ctx) => {
    await gate.pass()
    Object.assign(ctx.session ?? {}, { late: true })
  },
  '/slow/replace': async (ctx) => {
    const { name } = ctx.session ?? {}
    await gate.pass()
    ctx.session = { name, late: true }
  },
}

function createApp(store: Store): Koa {
  const app = new Koa()
  app.use(koaSession({ store: store as koaSession.SessionStore, cookie: { signed: false } }))
  app.use(async (ctx) => {
    ctx.body = (await routes[ctx.path]?.(ctx as unknown as Context)) ?? 'done'
  })
  return app
}

async function request(url: string, cookie = ''): Promise<{ text: string; cookie: string }> {
  const response = await fetch(url, { headers: cookie ? { cookie } : {} })
  if (response.status !== 200) throw new Error(`${url} responded with ${response.status}`)
  return { text: await response.text(), cookie: response.headers.getSetCookie()[0]?.split(';')[0] ?? '' }
}

/** Runs two instances, each with its own store. */
async function measure(name: string, open: () => Promise<Store>): Promise<Outcome> {
  const stores = await Promise.all([open(), open()])
  const servers = await Promise.all(stores.map((store) => listen(createApp(store))))
  const sites = servers.map(({ url }) => url)
  const [here = '', there = ''] = sites
  const signIn = async (): Promise<string[]> =>
    Promise.all(Array.from({ length: concurrency }, async () => (await request(`${here}/sign-in`)).cookie))

  const countAdded = async (): Promise<number> => {
    const cookies = await signIn()
    for (let round = 0; round < rounds / concurrency; round++)
      await Promise.all(
        cookies.flatMap((cookie) => [
          request(`${here}/add?name=here${round}`, cookie),
          request(`${there}/add?name=there${round}`, cookie),
        ]),
      )
    const sessions = await Promise.all(cookies.map((cookie) => request(`${here}/`, cookie)))
    const names = sessions.flatMap(({ text }) => Object.keys(JSON.parse(text) as object))
    return names.filter((name) => /^(here|there)\d/.test(name)).length
  }

  const countRestored = async (action: string): Promise<number> => {
    let restored = 0
    for (let round = 0; round < rounds / concurrency; round++) {
      gate = new Gate()
      const cookies = await signIn()
      const slow = cookies.map((cookie) => request(`${here}/slow/${action}`, cookie))
      await gate.allArrived
      await Promise.all(cookies.map((cookie) => request(`${there}/sign-out`, cookie)))
      gate.open()
      await Promise.all(slow)
      await sleep(notificationMs)
      const responses = await Promise.all(
        cookies.map((cookie) => Promise.all(sites.map((site) => request(`${site}/`, cookie)))),
      )
      restored += responses.filter((all) => all.some(({ text }) => text.includes('ann'))).length
    }
    return restored
  }

  try {
    return {
      store: name,
      attributesLost: 2 * rounds - (await countAdded()),
      restoredByChange: await countRestored('change'),
      restoredByReplacement: await countRestored('replace'),
    }
  } finally {
    await Promise.all(servers.map((server) => server.stop()))
    await Promise.all(stores.map((store) => store.close()))
  }
}

const database = await startDatabase()
const redis = await startRedis()
try {
  const [own, simple] = [await database.create('own'), await database.create('simple')]
  // Creates the table, as the two instances would race to create it.
  const first = connectPgSimple(simple)
  await first.get('none')
  await first.close()
  const outcomes = [
    await measure('koa-pg-store', () => openStore(own)),
    await measure('connect-pg-simple', async () => connectPgSimple(simple)),
  ]
  if (redis) outcomes.push(await measure('koa-redis', async () => koaRedis(redis.url(1))))
  else
    console.error('Not measured: koa-redis, as redis-server isn’t installed (apt-get install redis-server)')
  console.log(
    table(
      [
        'two concurrent requests',
        `attributes lost of ${count(2 * rounds)}`,
        `signed in after sign-out of ${count(rounds)}`,
        '… with ctx.session replaced',
      ],
      outcomes.map((row) => [
        row.store,
        count(row.attributesLost),
        count(row.restoredByChange),
        count(row.restoredByReplacement),
      ]),
    ),
  )
  await saveJson('lost.json', {
    ...environment(database),
    redis: redis?.version ?? '',
    rounds,
    outcomes,
  })
} finally {
  await redis?.stop()
  await database.stop()
}
