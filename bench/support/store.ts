// Opens a store that is ready to be measured.
import { once } from 'node:events'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'

/** Resolves when the store is set up and its cache, if it has one, is trusted. */
export async function openStore(url: string, options: PgStoreOptions = {}): Promise<PgStore> {
  const store = new PgStore(url, options)
  const trusted = options.cache === false ? undefined : once(store, 'trust')
  // The store's listener doesn't keep the process running.
  const keepAlive = setInterval(() => undefined, 60_000)
  try {
    await Promise.all([trusted, store.setup()])
  } finally {
    clearInterval(keepAlive)
  }
  return store
}
