// A store in a child process: makes the calls it is sent and replies with their outcomes.
import { PgStore, type PgStoreOptions } from '../../../lib/index.js'

const [url = '', options = '{}'] = process.argv.slice(2)
const store = new PgStore(url, JSON.parse(options) as PgStoreOptions)

/** A method of the store, and its arguments. */
export type Call = [
  (
    | 'setup'
    | 'get'
    | 'set'
    | 'touch'
    | 'destroy'
    | 'create'
    | 'count'
    | 'sessionsOf'
    | 'destroySessionsOf'
    | 'destroyAll'
    | 'revoke'
    | 'deleteAttribute'
    | 'stats'
    | 'close'
  ),
  ...unknown[],
]

/** What it resolved or rejected with. */
export interface Outcome {
  value?: unknown
  error?: string
}

async function callStore([method, ...args]: Call): Promise<Outcome> {
  try {
    return { value: await Reflect.apply(store[method], store, args) }
  } catch (error) {
    return { error: String(error) }
  }
}

/** A message is one call, or a list of calls to make at the same time. */
process.on('message', async (request: Call | Call[]) => {
  const isList = (request: Call | Call[]): request is Call[] => Array.isArray(request[0])
  process.send?.(isList(request) ? await Promise.all(request.map(callStore)) : await callStore(request))
})
