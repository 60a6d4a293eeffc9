// An instance in a process of its own: makes calls of a store as it is told, and answers what came of them.
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

async function make([method, ...args]: Call): Promise<Outcome> {
  try {
    return { value: await Reflect.apply(store[method], store, args) }
  } catch (error) {
    return { error: String(error) }
  }
}

/** One call, or several to be made at the same time. */
process.on('message', async (order: Call | Call[]) => {
  const isList = (order: Call | Call[]): order is Call[] => Array.isArray(order[0])
  process.send?.(isList(order) ? await Promise.all(order.map(make)) : await make(order))
})
