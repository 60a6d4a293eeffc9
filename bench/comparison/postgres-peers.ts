// The peers that keep sessions in PostgreSQL, each set up as its README says, with pg's default of ten connections.
import { EventEmitter } from 'node:events'
import { KeyvPostgres } from '@keyv/postgres'
import co from 'co'
import connect from 'connect-pg-simple'
import Keyv from 'keyv'
import PgSession from 'koa-pg-session'
import pg from 'pg'
import { newId, ttl } from '../support/sessions.js'
import type { Adapter } from './adapter.js'

type Callback<T> = (error: Error | null, result?: T) => void

export function connectPgSimple(url: string): Adapter {
  const pool = poolOf(url)
  const Store = connect({ Store: class extends EventEmitter {} })
  const store = new Store({ pool, createTableIfMissing: true, pruneSessionInterval: false })
  const promise = <T>(call: (callback: Callback<T>) => void): Promise<T | undefined> =>
    new Promise((resolve, reject) => call((error, result) => (error ? reject(error) : resolve(result))))
  const set = (sid: string, session: object) => promise<void>((done) => store.set(sid, session, done))
  return {
    get: (sid) => promise<object>((done) => store.get(sid, done)),
    set,
    create: (session) => set(newId(), session),
    touch: (sid, session) => promise<void>((done) => store.touch(sid, session, done)),
    destroy: (sid) => promise<void>((done) => store.destroy(sid, done)),
    close: () => pool.end(),
  }
}

/** Gets a query function, as the pg 4 that it depends on can't connect to current servers. */
export async function koaPgSession(url: string): Promise<Adapter> {
  const pool = poolOf(url)
  const store = new PgSession(async (text, values) => (await pool.query(text, values)).rows)
  await store.setup()
  const set = (sid: string, session: object) => co(() => store.set(sid, session, ttl))
  return {
    get: (sid) => co(() => store.get(sid)),
    set,
    create: (session) => set(newId(), session),
    close: () => pool.end(),
  }
}

export function keyvPostgres(url: string): Adapter {
  const keyv = new Keyv({ store: new KeyvPostgres({ uri: url }) })
  const set = (sid: string, session: object) => keyv.set(sid, session, ttl)
  return {
    get: (sid) => keyv.get(sid),
    set,
    create: (session) => set(newId(), session),
    close: () => keyv.disconnect(),
  }
}

/** Ignores the loss of idle connections when the server stops. */
function poolOf(connectionString: string): pg.Pool {
  return new pg.Pool({ connectionString }).on('error', () => {})
}
