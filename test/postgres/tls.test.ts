// A server whose certificate isn't signed by a known authority.
import { once } from 'node:events'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { TLSSocket } from 'node:tls'
import { expect } from 'chai'
import { DatabaseError, PgStore } from '../../lib/index.js'
import { run } from '../helpers/command.js'
import { rejection } from '../helpers/rejection.js'

/** Of this test only: expires in 2126. */
const key = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgyAK2Fi+hEbTrYNn0
ZaAx0RdHzg0kvYh072Ht2Mp8RBihRANCAATHP1X0GmqXpKuijXf3mlbBuPWyBZX9
+JvZtTH9BQhkYF9TP8Qjhpqh0kSwgQGa14zHsD49J7vw0WzJoDMeP+ud
-----END PRIVATE KEY-----`
const cert = `-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUFOEyQm847M3YM/5OKciax8I3xCgwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTE4MDE1NloYDzIxMjYxMDI4
MTgwMTU2WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATHP1X0GmqXpKuijXf3mlbBuPWyBZX9+JvZtTH9BQhkYF9TP8Qjhpqh
0kSwgQGa14zHsD49J7vw0WzJoDMeP+udo1MwUTAdBgNVHQ4EFgQU/n7968gSMO6X
LvjlBmjnyQkAGzswHwYDVR0jBBgwFoAU/n7968gSMO6XLvjlBmjnyQkAGzswDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAqoRPApEMtM1sceuRwzdxK
uhNNFPwy/QK9uI4wfJsYAQIgWX/pZ2uABxoS8Vho/0JmNaYnEp2fv0nW7E9kQIXx
otk=
-----END CERTIFICATE-----`

const advice =
  /self-signed certificate: the server's certificate isn't signed by a known authority\. Name its CA: sslrootcert=\/path\/to\/ca\.pem in the connection string, or ssl: \{ ca: /

describe('a self-signed certificate', () => {
  let server: Server
  let url: string

  before(async () => {
    server = createServer((socket) => {
      socket.on('error', () => undefined)
      // The request for TLS.
      socket.once('data', () => {
        socket.write('S')
        new TLSSocket(socket, { isServer: true, key, cert }).on('error', () => undefined)
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    url = `postgres://user:password@127.0.0.1:${(server.address() as AddressInfo).port}/app?sslmode=verify-full`
  })

  after(() => {
    server.close()
  })

  it('is refused with what to do', async () => {
    const store = new PgStore(url)
    const error = await rejection(store.get('a-session'))
    expect(error.message).to.match(advice)
    expect(error.message.split('Name its CA')).to.have.length(2)
    const health = await store.health()
    expect(health).to.deep.include({ healthy: false, database: { reachable: false, ms: undefined } })
    expect(health.error).to.be.instanceOf(DatabaseError)
    expect(health.error?.message).to.match(advice)
    await store.close()
  })

  it('makes doctor say what to do', async () => {
    const { status, out } = await run(url, 'doctor')
    expect(status).to.equal(1)
    expect(out)
      .to.match(/^problem {2}connection: /m)
      .and.to.match(advice)
    expect(out).to.match(/^The store doesn't work as it should: 1 problem to solve\.$/m)
  })
})
