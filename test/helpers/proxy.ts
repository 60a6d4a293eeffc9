// A TCP proxy that can be slow, or stall: connections stay open, and nothing gets through.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Forwards each chunk with a delay. One waits for the one before it: timers of different lengths don't keep their order. */
function delay(from: Socket, to: Socket, delayMs: () => number): void {
  let forwarded: Promise<unknown> = Promise.resolve()
  from.on('data', (chunk) => {
    const delayed = sleep(delayMs())
    forwarded = forwarded.then(() => delayed).then(() => to.write(chunk))
  })
}

export interface Proxy {
  readonly port: number
  /** Stops forwarding without closing anything; new connections are accepted and stall too. */
  stall(): void
  resume(): void
  /** From now on, new connections go to another server; open ones stay. */
  leadTo(port: number): void
  close(): Promise<void>
}

/** `delayMs` returns by how much to delay the server's next response; `port` is where to listen: by default, a free one. */
export async function startProxy(targetPort: number, delayMs?: () => number, port = 0): Promise<Proxy> {
  const sockets = new Set<Socket>()
  let stalled = false
  let target = targetPort
  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1')
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => to.destroy())
      from.on('close', () => {
        sockets.delete(from)
        to.destroy()
      })
      if (delayMs === undefined || from === client) from.pipe(to)
      else delay(from, to, delayMs)
    }
    if (stalled) pause(client, upstream)
  })
  const pause = (...sockets: Socket[]): void => {
    for (const socket of sockets) {
      socket.unpipe()
      socket.pause()
    }
  }
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    stall() {
      stalled = true
      pause(...sockets)
    },
    resume() {
      stalled = false
      // Stalled connections are lost, as after a long network failure.
      for (const socket of sockets) socket.destroy()
    },
    leadTo(port) {
      target = port
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
