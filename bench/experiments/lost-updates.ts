// What is lost when two requests of one browser meet, with each store behind koa-generic-session. npm run bench:lost
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import Koa from 'koa'
import koaSession from 'koa-generic-session'
import { PgStore } from '../../lib/index.js'
import { startRedis } from '../../test/support/redis.js'
import type { Adapter } from '../comparison/peers.js'
import { connectPgSimple } from '../comparison/postgres-peers.js'
import { koaRedis } from '../comparison/redis-peers.js'
import { count, table } from '../report/markdown.js'
import { startDatabase } from '../support/database.js'

type Store = Pick<Adapter, 'get' | 'set' | 'destroy' | 'close'>
type Context = Omit<Koa.Context, 'session'> & { session: Record<string, unknown> | null }

interface Outcome {
  readonly store: string
  /** Of those that the requests of all rounds added. */
  readonly attributesLost: number
  /** Sessions that are answered after the sign-out, where the slow request kept or replaced `ctx.session`. */
  readonly aliveKept: number
  readonly aliveReplaced: number
}

const rounds = 1_000
/** Rounds at once, each with a session of its own. */
const lanes = 50
/** How long, in ms, a request has something to do. */
const work = 5

/** Where the slow requests of a lane wait until its person has signed out. */
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
    if (++this.#arrivals === lanes) this.arrived()
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
    await sleep(work)
    Object.assign(ctx.session ?? {}, { [String(ctx.query.name)]: true })
  },
  '/slow/keep': async (ctx) => {
    await gate.pass()
    Object.assign(ctx.session ?? {}, { late: true })
  },
  '/slow/replace': async (ctx) => {
    const { name } = ctx.session ?? {}
    await gate.pass()
    ctx.session = { name, late: true }
  },
}

async function serve(store: Store): Promise<{ url: string; stop(): void }> {
  const app = new Koa()
  app.use(koaSession({ store: store as koaSession.SessionStore, cookie: { signed: false } }))
  app.use(async (ctx) => {
    ctx.body = (await routes[ctx.path]?.(ctx as unknown as Context)) ?? 'done'
  })
  const server = createServer(app.callback()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop() {
      server.close()
      server.closeAllConnections()
    },
  }
}

async function ask(url: string, cookie = ''): Promise<{ text: string; cookie: string }> {
  const answer = await fetch(url, { headers: cookie ? { cookie } : {} })
  if (answer.status !== 200) throw new Error(`${url} answered ${answer.status}`)
  return { text: await answer.text(), cookie: answer.headers.getSetCookie()[0]?.split(';')[0] ?? '' }
}

/** Two instances, each with a store of its own. */
async function measure(name: string, open: () => Promise<Store>): Promise<Outcome> {
  const stores = await Promise.all([open(), open()])
  const servers = await Promise.all(stores.map(serve))
  const sites = servers.map(({ url }) => url)
  const [here = '', there = ''] = sites
  const signIn = async (): Promise<string[]> =>
    Promise.all(Array.from({ length: lanes }, async () => (await ask(`${here}/sign-in`)).cookie))

  const added = async (): Promise<number> => {
    const cookies = await signIn()
    for (let round = 0; round < rounds / lanes; round++)
      await Promise.all(
        cookies.flatMap((cookie) => [
          ask(`${here}/add?name=here${round}`, cookie),
          ask(`${there}/add?name=there${round}`, cookie),
        ]),
      )
    const sessions = await Promise.all(cookies.map((cookie) => ask(`${here}/`, cookie)))
    const names = sessions.flatMap(({ text }) => Object.keys(JSON.parse(text) as object))
    return names.filter((name) => /^(here|there)\d/.test(name)).length
  }

  const alive = async (way: string): Promise<number> => {
    let found = 0
    for (let round = 0; round < rounds / lanes; round++) {
      gate = new Gate()
      const cookies = await signIn()
      const slow = cookies.map((cookie) => ask(`${here}/slow/${way}`, cookie))
      await gate.allArrived
      await Promise.all(cookies.map((cookie) => ask(`${there}/sign-out`, cookie)))
      gate.open()
      await Promise.all(slow)
      // Time for what instances tell each other.
      await sleep(50)
      const answers = await Promise.all(
        cookies.map((cookie) => Promise.all(sites.map((site) => ask(`${site}/`, cookie)))),
      )
      found += answers.filter((all) => all.some(({ text }) => text.includes('ann'))).length
    }
    return found
  }

  try {
    return {
      store: name,
      attributesLost: 2 * rounds - (await added()),
      aliveKept: await alive('keep'),
      aliveReplaced: await alive('replace'),
    }
  } finally {
    for (const server of servers) server.stop()
    await Promise.all(stores.map((store) => store.close()))
  }
}

async function ours(url: string): Promise<Store> {
  const store = new PgStore(url)
  await Promise.all([once(store, 'trust'), store.setup()])
  return store
}

const database = await startDatabase()
const redis = await startRedis()
try {
  const [own, simple] = [await database.create('own'), await database.create('simple')]
  // So that the two instances needn't race to make its table.
  const first = connectPgSimple(simple)
  await first.get('nobody')
  await first.close()
  const outcomes = [
    await measure('koa-pg-store', () => ours(own)),
    await measure('connect-pg-simple', async () => connectPgSimple(simple)),
  ]
  if (redis) outcomes.push(await measure('koa-redis', async () => koaRedis(redis.url(1))))
  else console.error('Left out: koa-redis: there is no redis-server (apt-get install redis-server)')
  console.log(
    table(
      [
        'two requests at once',
        `attributes lost of ${count(2 * rounds)}`,
        `signed in after sign-out of ${count(rounds)}`,
        '… with ctx.session replaced',
      ],
      outcomes.map((row) => [
        row.store,
        count(row.attributesLost),
        count(row.aliveKept),
        count(row.aliveReplaced),
      ]),
    ),
  )
  const folder = fileURLToPath(new URL('../../../bench/results/', import.meta.url))
  await mkdir(folder, { recursive: true })
  const { node } = process.versions
  const results = {
    date: new Date().toISOString(),
    node,
    postgres: database.version,
    redis: redis?.version ?? '',
    rounds,
    outcomes,
  }
  await writeFile(`${folder}lost.json`, `${JSON.stringify(results, null, 2)}\n`)
} finally {
  await redis?.stop()
  await database.stop()
}
