// What tests of middlewares begin and end with: a database for each test, stores and applications on it, and its rows.
import { expect } from 'chai'
import Koa, { type Middleware } from 'koa'
import type pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { listen, type Served } from './http.js'
import { freshDatabase, sql } from './server.js'

/** What the applications of tests keep in a session. */
export interface Kept {
  cookie?: { maxAge?: number | null; expires?: Date }
  name?: string
  visits?: number
  [attribute: string]: unknown
}

export interface Row {
  id: string
  session: Kept | null
  version: string
  /** Seconds until it expires, by the server's clock. */
  left: number
  /** Seconds from its last save until it expires. */
  lifetime: number
}

export interface Site extends Served {
  /** What requests failed with. */
  readonly errors: Error[]
}

/** To be made inside a `describe`: each of its tests has a database of its own. */
export class Fixture {
  url = ''
  /** What is done after the test, the last first. */
  readonly ends: (() => Promise<unknown>)[] = []

  constructor() {
    beforeEach(async () => {
      this.url = await freshDatabase()
    })
    afterEach(async () => {
      for (const end of this.ends.splice(0).reverse()) await end()
    })
  }

  /** A store whose table is there; ended after the test. */
  makeStore = async (options: PgStoreOptions = {}): Promise<PgStore> => {
    const store = this.closing(new PgStore(this.url, { touch: { interval: 0 }, ...options }))
    await store.setup()
    return store
  }

  closing = (store: PgStore): PgStore => {
    this.ends.push(() => store.close())
    return store
  }

  /** An application with a middleware, or what makes one of it, and what answers requests. */
  serve = async (session: (app: Koa) => Middleware, answer: Middleware): Promise<Site> => {
    const errors: Error[] = []
    const app = new Koa()
    app.keys = ['the key of all these applications']
    // Koa itself takes back every header of a request that failed; an application that answers errors doesn't.
    app.use(async (ctx, next) => {
      try {
        await next()
      } catch (error) {
        errors.push(error as Error)
        ctx.status = 500
        ctx.body = (error as Error).message
      }
    })
    app.use(session(app))
    app.use(answer)
    const served = await listen(app)
    this.ends.push(() => served.stop())
    return { ...served, errors }
  }

  rows = (table = 'session'): Promise<Row[]> =>
    sql<Row & pg.QueryResultRow>(
      this.url,
      `select id, session, version, extract(epoch from expiry - now())::float8 as left,
        extract(epoch from expiry - last_access)::float8 as lifetime from ${table} order by created_at`,
    )

  onlyRow = async (): Promise<Row> => {
    const all = await this.rows()
    expect(all).to.have.length(1)
    return all[0] as Row
  }
}

/** What a route answered, as the body of the response. */
export function bodyOf(result: unknown): string {
  return result === undefined ? 'done' : typeof result === 'string' ? result : JSON.stringify(result)
}
