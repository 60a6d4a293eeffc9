// A TCP proxy that can be stalled (both ends stay open and hear nothing), or slow.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** Passes on what comes, later, in its order. */
function delay(from: Socket, to: Socket, lag: () => number): void {
  let due = 0
  from.on('data', (chunk) => {
    due = Math.max(due, performance.now() + lag())
    setTimeout(() => to.write(chunk), due - performance.now())
  })
}

export interface Proxy {
  readonly port: number
  /** From now on nothing passes, and nothing is closed; new connections are taken and hear nothing either. */
  stall(): void
  resume(): void
  close(): Promise<void>
}

/** `lag` answers how many ms the server's next answer takes longer. */
export async function startProxy(target: number, lag?: () => number): Promise<Proxy> {
  const sockets = new Set<Socket>()
  let stalled = false
  const server = createServer((near) => {
    const far = connect(target, '127.0.0.1')
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy())
      from.on('close', () => {
        sockets.delete(from)
        to.destroy()
      })
      if (lag === undefined || from === near) from.pipe(to)
      else delay(from, to, lag)
    }
    if (stalled) freeze(near, far)
  })
  const freeze = (...all: Socket[]): void => {
    for (const socket of all) {
      socket.unpipe()
      socket.pause()
    }
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    stall() {
      stalled = true
      freeze(...sockets)
    },
    resume() {
      stalled = false
      // What was stalled is lost, as with a network that comes back after a long time.
      for (const socket of sockets) socket.destroy()
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
