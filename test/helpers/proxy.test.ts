// What other tests rely on.
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect } from 'chai'
import { startProxy } from './proxy.js'

describe('a proxy', () => {
  it('that delays each response keeps their order', async () => {
    const count = 300
    const server = createServer(async (socket) => {
      socket.setNoDelay()
      for (let n = 0; n < count; n++) {
        socket.write(Buffer.of(n >> 8, n & 255))
        await nextTurn()
      }
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const proxy = await startProxy((server.address() as AddressInfo).port, () => Math.random() ** 3 * 60)
    const received: number[] = []
    const socket = connect(proxy.port, '127.0.0.1')
    let rest = Buffer.alloc(0)
    for await (const chunk of socket) {
      rest = Buffer.concat([rest, chunk as Buffer])
      for (; rest.length >= 2; rest = rest.subarray(2)) received.push(rest.readUInt16BE())
      if (received.length === count) break
    }
    await proxy.close()
    server.close()
    expect(received).to.deep.equal(Array.from({ length: count }, (_, n) => n))
  })
})
