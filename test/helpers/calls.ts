// An instance in a process of its own: makes calls of a store as it is told, and answers what came of them.
import { PgStore, type PgStoreOptions } from '../../lib/index.js'

const [url = '', options = '{}'] = process.argv.slice(2)
const store = new PgStore(url, JSON.parse(options) as PgStoreOptions)

/** A method of the store, and its arguments. */
export type Call = [
  'setup' | 'get' | 'set' | 'touch' | 'destroy' | 'create' | 'count' | 'close',
  ...unknown[],
]
/** What it resolved or rejected with. */
export interface Outcome {
  value?: unknown
  error?: string
}

process.on('message', async ([method, ...args]: Call) => {
  let outcome: Outcome
  try {
    outcome = { value: await Reflect.apply(store[method], store, args) }
  } catch (error) {
    outcome = { error: String(error) }
  }
  process.send?.(outcome)
})
