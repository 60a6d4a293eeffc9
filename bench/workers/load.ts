// autocannon in a process of its own: the requests of one round, every connection with sessions of its own.
import autocannon, { type Request } from 'autocannon'

export interface Order {
  readonly url: string
  readonly seconds: number
  readonly changes: boolean
  /** Which share the sessions evenly. */
  readonly connections: number
  readonly ids: readonly string[]
}

export interface Outcome {
  readonly requests: number
  readonly perSecond: number
  readonly failures: number
}

if (process.send)
  process.once('message', async (order: Order) => {
    const { requests, duration, errors, non2xx } = await fire(order)
    const outcome: Outcome = {
      requests: requests.total,
      perSecond: requests.total / duration,
      failures: errors + non2xx,
    }
    process.send?.(outcome, () => process.exit())
  })

function fire({ url, seconds, changes, connections, ids }: Order): ReturnType<typeof autocannon> {
  const each = ids.length / connections
  let client = 0
  return autocannon({
    url,
    connections,
    duration: seconds,
    setupClient(connection) {
      const own = ids.slice(client * each, (client + 1) * each)
      client++
      connection.setRequests(requestsFor(own, changes))
    },
  })
}

/** A hundred: of ten in a row one changes its session, where there are ten each time another. */
function requestsFor(ids: readonly string[], changes: boolean): Request[] {
  return Array.from({ length: 100 }, (_, n) => ({
    path: changes && n % 10 === Math.floor(n / 10) ? '/change' : '/',
    headers: { cookie: `koa.sid=${ids[n % ids.length]}` },
  }))
}
