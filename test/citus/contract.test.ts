import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { citusUrl, distributedTable, dropTables } from '../helpers/citus.js'
import { contract, type MakeStore } from '../stores/contract.js'

const stores: Record<string, PgStoreOptions> = {
  'as by default': {},
  'cache: false': { cache: false },
  "cache: { propagate: 'update' }": { cache: { propagate: 'update' } },
  'touch.interval: 0': { touch: { interval: 0 } },
  'hashIds: false': { hashIds: false },
  "concurrency: 'last-write'": { concurrency: 'last-write' },
  'idleTimeout and maxLifetime': { idleTimeout: 7_200_000, maxLifetime: 86_400_000 },
  'maxSessionsPerUser, prepare: false': { maxSessionsPerUser: 100, prepare: false },
}

const distributed =
  (options: PgStoreOptions): MakeStore =>
  async ({ ttl }) => {
    const store = new PgStore(citusUrl(), { ...(await distributedTable(options)), ttl })
    await store.setup()
    return { store, close: () => store.close() }
  }

describe('a PgStore whose table Citus has distributed', () => {
  after(dropTables)

  for (const [name, options] of Object.entries(stores))
    contract(`PgStore on Citus, ${name}`, distributed(options))
})
