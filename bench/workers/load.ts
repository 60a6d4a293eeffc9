// Sends the requests of one round by autocannon. Each connection has its own sessions.
import autocannon, { type Request } from 'autocannon'

export interface Order {
  readonly url: string
  readonly seconds: number
  /** Whether one request in ten changes its session. */
  readonly changes: boolean
  /** The sessions are divided evenly among them. */
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
    const { requests, duration, errors, non2xx } = await sendRequests(order)
    const outcome: Outcome = {
      requests: requests.total,
      perSecond: requests.total / duration,
      failures: errors + non2xx,
    }
    process.send?.(outcome, () => process.exit())
  })

function sendRequests({ url, seconds, changes, connections, ids }: Order): ReturnType<typeof autocannon> {
  const idsPerConnection = ids.length / connections
  let index = 0
  return autocannon({
    url,
    connections,
    duration: seconds,
    setupClient(connection) {
      const own = ids.slice(index * idsPerConnection, (index + 1) * idsPerConnection)
      index++
      connection.setRequests(requestsFor(own, changes))
    },
  })
}

/** A hundred requests. One in ten changes its session, a different session of ten each time. */
function requestsFor(ids: readonly string[], changes: boolean): Request[] {
  return Array.from({ length: 100 }, (_, n) => ({
    path: changes && n % 10 === Math.floor(n / 10) ? '/change' : '/',
    headers: { cookie: `koa.sid=${ids[n % ids.length]}` },
  }))
}
