// Asks the server to cancel a client's statement, over a connection of its own: PostgreSQL's CancelRequest.
import type { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import type { ClientConfig, PoolClient } from 'pg'

/** What pg's clients have beside their documented properties. */
interface Cancellable {
  readonly connection?: {
    readonly constructor: new (config: object) => CancelConnection
  }
  readonly processID?: number | null
  readonly secretKey?: number | null
  readonly host: string
  readonly port: number
  readonly ssl: unknown
  readonly sslNegotiation?: string
}

interface CancelConnection extends EventEmitter {
  readonly stream: Duplex
  connect(portOrPath: number | string, host?: string): void
  requestSsl(): void
  cancel(processID: number, secretKey: number): void
}

/** Whether the client knows what a cancel request needs: clients of pg-native don't. */
export function canCancel(client: PoolClient): boolean {
  const { connection, processID, secretKey } = client as unknown as Cancellable
  return connection !== undefined && processID != null && secretKey != null
}

/**
 * Sends the request as the client's configuration connects: with TLS, through a pooler. Resolves with whether the server
 * received it: then the statement that the client runs now has been told to end, and no later one will be. Never rejects.
 */
export function requestCancel(
  client: PoolClient,
  { stream }: Pick<ClientConfig, 'stream'>,
  timeoutMs: number,
): Promise<boolean> {
  const { connection, processID, secretKey, host, port, ssl, sslNegotiation } =
    client as unknown as Cancellable
  return new Promise((resolve) => {
    if (connection === undefined || processID == null || secretKey == null) return resolve(false)
    let isSent = false
    let request: CancelConnection | undefined
    const finish = (isReceived: boolean): void => {
      clearTimeout(timer)
      request?.stream.destroy()
      resolve(isReceived)
    }
    const timer = setTimeout(() => finish(false), timeoutMs)
    timer.unref()
    try {
      request = new connection.constructor({ stream, ssl, sslNegotiation })
      request.on('error', () => finish(false))
      // The server closes the connection when it has signalled the statement's process.
      request.on('end', () => finish(isSent))
      if (ssl && sslNegotiation !== 'direct') request.once('connect', () => request?.requestSsl())
      request.once(ssl ? 'sslconnect' : 'connect', () => {
        isSent = true
        request?.cancel(processID, secretKey)
      })
      if (host?.startsWith('/')) request.connect(`${host}/.s.PGSQL.${port}`)
      else request.connect(port, host)
    } catch {
      finish(false)
    }
  })
}
