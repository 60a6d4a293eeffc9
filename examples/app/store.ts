// The session store. These lines are what an application needs to keep its sessions in PostgreSQL; all the rest of this folder
// is what it does with them.
import { PgStore } from 'koa-pg-store'
import { deviceOf } from './device.js'

export function createStore(databaseUrl: string): PgStore {
  const store = new PgStore(databaseUrl, { device: deviceOf, maxSessionsPerUser: 20 })
  store.on('warning', (error) => console.error(error.message))
  return store
}
