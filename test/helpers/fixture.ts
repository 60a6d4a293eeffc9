// Sets up a test of a middleware: a database, stores, Koa applications, and the rows of the table.
import { hash } from 'node:crypto'
import { expect } from 'chai'
import Koa, { type Middleware } from 'koa'
import type pg from 'pg'
import { PgStore, type PgStoreOptions } from '../../lib/index.js'
import { listen, type RunningApp } from './http.js'
import { freshDatabase, sql } from './server.js'

/** The sessions of the applications under test. */
export interface Attributes {
  cookie?: { maxAge?: number | null; expires?: Date }
  name?: string
  visits?: number
  [attribute: string]: unknown
}

export interface Row {
  id: string
  session: Attributes | null
  version: string
  /** Seconds until it expires, by the server's clock. */
  ttlSeconds: number
  /** Seconds from its last save until it expires. */
  lifetimeSeconds: number
}

export interface Site extends RunningApp {
  /** The errors of failed requests. */
  readonly errors: Error[]
}

/** Create one inside a `describe`: it gives each test a new database. */
export class Fixture {
  url = ''
  /** Run after each test, the last one first. */
  readonly cleanups: (() => Promise<unknown>)[] = []

  constructor() {
    beforeEach(async () => {
      this.url = await freshDatabase()
    })
    afterEach(async () => {
      for (const cleanup of this.cleanups.splice(0).reverse()) await cleanup()
    })
  }

  /** Returns a store that is set up, and closes it after the test. */
  makeStore = async (options: PgStoreOptions = {}): Promise<PgStore> => {
    const store = this.closeAfterTest(new PgStore(this.url, { touch: { interval: 0 }, ...options }))
    await store.setup()
    return store
  }

  closeAfterTest = (store: PgStore): PgStore => {
    this.cleanups.push(() => store.close())
    return store
  }

  /** Serves an application with a session middleware and a handler. */
  serve = async (createMiddleware: (app: Koa) => Middleware, handler: Middleware): Promise<Site> => {
    const errors: Error[] = []
    const app = new Koa()
    app.keys = ['the key of all these applications']
    // Koa removes all headers of a failed request; an application with an error handler doesn't.
    app.use(async (ctx, next) => {
      try {
        await next()
      } catch (error) {
        errors.push(error as Error)
        ctx.status = 500
        ctx.body = (error as Error).message
      }
    })
    app.use(createMiddleware(app))
    app.use(handler)
    const running = await listen(app)
    this.cleanups.push(() => running.stop())
    return { ...running, errors }
  }

  rows = (table = 'session'): Promise<Row[]> =>
    sql<Row & pg.QueryResultRow>(
      this.url,
      `select id, session, version, extract(epoch from expiry - now())::float8 as "ttlSeconds",
        extract(epoch from expiry - last_access)::float8 as "lifetimeSeconds" from ${table} order by created_at`,
    )

  /** Lets every session expire in 100 seconds. */
  shortenTtls = async (): Promise<void> => {
    await sql(this.url, `update session set expiry = now() + interval '100 s'`)
  }

  onlyRow = async (): Promise<Row> => {
    const all = await this.rows()
    expect(all).to.have.length(1)
    return all[0] as Row
  }
}

/** Turns what a route returned into a response body. */
export function bodyOf(result: unknown): string {
  return result === undefined ? 'done' : typeof result === 'string' ? result : JSON.stringify(result)
}

/** What the table holds for a session id, by default. */
export function storedId(sid: string | undefined): string {
  return `sha256:${hash('sha256', String(sid), 'base64url')}`
}
