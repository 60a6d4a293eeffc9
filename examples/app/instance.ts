// One instance of the application, as a process. start.ts starts two; DATABASE_URL, KEYS and PORT say what it needs.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Announcements } from './announcements.js'
import { createApp } from './app.js'
import { LivePages } from './live.js'
import { createStore } from './store.js'

/** What an instance tells the program that started it. */
export type InstanceMessage =
  | { readonly listening: number }
  | { readonly cannotListen: string; readonly code: string }
  | { readonly stopDatabase: number }

/** What that program tells its instances, once all of them listen. */
export interface StartMessage {
  readonly ports: number[]
  readonly ownsDatabase: boolean
}

const shutdownMs = 5_000
const { DATABASE_URL = '', KEYS = '', PORT = '0', INSTANCE = '1' } = process.env

const store = createStore(DATABASE_URL)
const announcements = new Announcements(store, DATABASE_URL)
const pages = new LivePages(announcements)
let isStopping = false
let others: StartMessage = { ports: [], ownsDatabase: false }

const server = createServer(
  createApp({
    store,
    announcements,
    pages,
    keys: KEYS.split(','),
    instance: () => ({
      number: Number(INSTANCE),
      port,
      ports: others.ports,
      stopDatabase: others.ownsDatabase ? (seconds) => tell({ stopDatabase: seconds }) : undefined,
    }),
  }).callback(),
)
process.on('message', (message: StartMessage) => {
  others = message
})
process.once('SIGTERM', stop)
// Ctrl+C reaches this process as well; the program that started it then disconnects, as it also does when it is killed.
process.on('SIGINT', () => process.connected || stop())
process.once('disconnect', stop)

const port = await listen()
tell({ listening: port })
// Not awaited: the store tries again at its first use, and until then the pages explain the outage.
store.setup().catch((error) => console.error(error.message))

async function listen(): Promise<number> {
  try {
    await once(server.listen(Number(PORT)), 'listening')
  } catch (error) {
    if (!process.send) throw error
    const { code = '', message } = error as NodeJS.ErrnoException
    await new Promise((resolve) => process.send?.({ cannotListen: message, code }, resolve))
    return process.exit(1)
  }
  return (server.address() as AddressInfo).port
}

/** Finishes the requests in progress, then closes what uses the database. */
async function stop(): Promise<void> {
  if (isStopping) return
  isStopping = true
  if (!server.listening) process.exit()
  pages.close()
  const closed = once(server, 'close')
  server.close()
  setTimeout(() => server.closeAllConnections(), shutdownMs).unref()
  await closed
  await announcements.close()
  await store.close()
  process.exit()
}

function tell(message: InstanceMessage): void {
  process.send?.(message)
}
