// npm run bench:outage: 5,000 calls a second while the server is silent, and while it refuses connections: memory, the longest
// call, errors, and how soon calls are served again. `npm run bench:outage -- 10` takes 10 s for each instead of 60.
import { setTimeout as sleep } from 'node:timers/promises'
import { PgStore } from '../../lib/index.js'
import { startProxy } from '../../test/helpers/proxy.js'
import { startPostgres } from '../../test/support/postgres/server.js'

const [seconds = 60, callsPerSecond = 5_000] = process.argv.slice(2).map(Number)
const padding = 'x'.repeat(1_000)
const ids = Array.from({ length: 2_000 }, (_, n) => `s${n}`)

type TcpProxy = Awaited<ReturnType<typeof startProxy>>

/** How the calls of one second went. */
interface Second {
  ok: number
  readonly errors: Record<string, number>
}

const server = await startPostgres({ settings: { max_connections: '50' } })

for (const kind of ['silent', 'refusing'] as const)
  for (const verb of ['get', 'set'] as const) await measure(kind, verb)
await server.stop()

async function measure(kind: 'silent' | 'refusing', verb: 'get' | 'set'): Promise<void> {
  let proxy = await startProxy(server.port)
  const { port } = proxy
  const url = new URL(server.url)
  url.port = String(port)
  const store = new PgStore(url.href, { cache: false, table: `${kind}_${verb}` })
  store.on('warning', () => undefined)
  for (let n = 0; n < ids.length; n += 100)
    await Promise.all(ids.slice(n, n + 100).map((id) => store.set(id, { padding })))
  const load = startLoad(store, verb)
  await sleep(2_000)
  const baseline = memory()
  load.reset()
  await begin(kind, proxy)
  let peak = baseline
  for (let second = 0; second < seconds; second++) {
    await sleep(1_000)
    peak = Math.max(peak, memory())
  }
  const { longest, latest } = load
  const during = load.take()
  const returned = performance.now()
  proxy = await end(kind, proxy, port)
  const servedAfter = await load.untilFullRate()
  load.stop()
  console.log(
    `${verb}s, server ${kind} for ${seconds} s: longest call ${(longest() / 1_000).toFixed(1)} s,` +
      ` memory ${peak - baseline} MB more, event loop at most ${latest().toFixed(0)} ms late,` +
      ` served ${during.ok}, ${JSON.stringify(during.errors)};` +
      ` at the full rate ${((servedAfter - returned) / 1_000).toFixed(1)} s after the server was back`,
  )
  const closing = performance.now()
  await store.close()
  console.log(`  closed in ${(performance.now() - closing).toFixed(0)} ms`)
  await proxy.close()
}

async function begin(kind: string, proxy: TcpProxy): Promise<void> {
  if (kind === 'silent') proxy.stall()
  else await proxy.close()
}

async function end(kind: string, proxy: TcpProxy, port: number): Promise<TcpProxy> {
  if (kind !== 'silent') return startProxy(server.port, undefined, port)
  proxy.resume()
  return proxy
}

function memory(): number {
  return Math.round(process.memoryUsage().rss / 1024 / 1024)
}

/** Makes calls at a constant rate, whatever becomes of them. */
function startLoad(store: PgStore, verb: 'get' | 'set') {
  let current: Second = { ok: 0, errors: {} }
  let longest = 0
  let latest = 0
  let made = 0
  let startedAt = performance.now()
  let ticked = startedAt
  const call = async (): Promise<void> => {
    const at = performance.now()
    const id = ids[made++ % ids.length] as string
    try {
      await (verb === 'get' ? store.get(id) : store.set(id, { padding, made }))
      current.ok++
    } catch (error) {
      const code = String(Reflect.get(Object(error), 'code'))
      current.errors[code] = (current.errors[code] ?? 0) + 1
    }
    longest = Math.max(longest, performance.now() - at)
  }
  const timer = setInterval(() => {
    const now = performance.now()
    latest = Math.max(latest, now - ticked - 10)
    ticked = now
    const due = ((now - startedAt) / 1_000) * callsPerSecond
    while (made < due) void call()
  }, 10)
  const take = (): Second => {
    const taken = current
    current = { ok: 0, errors: {} }
    return taken
  }
  return {
    take,
    reset(): void {
      take()
      longest = 0
      latest = 0
      startedAt = performance.now()
      made = 0
    },
    longest: () => longest,
    latest: () => latest,
    /** Resolves with the beginning of the first fifth of a second in which 95 % of the calls were served, and none failed. */
    async untilFullRate(): Promise<number> {
      for (;;) {
        take()
        const from = performance.now()
        await sleep(200)
        const { ok, errors } = take()
        const expected = ((performance.now() - from) / 1_000) * callsPerSecond
        if (ok > expected * 0.95 && Object.keys(errors).length === 0) return from
      }
    },
    stop: () => clearInterval(timer),
  }
}
