// Types of packages that have none, as far as tests and bench use them.

declare module 'koa1' {
  import type { EventEmitter } from 'node:events'
  import type { RequestListener } from 'node:http'

  export interface Context {
    readonly path: string
    readonly query: Record<string, string | undefined>
    readonly headers: Record<string, string | undefined>
    status: number
    body: unknown
    set(header: string, value: string): void
    // What koa-generic-session 1 adds.
    session: unknown
    readonly sessionId: string
    sessionSave: boolean | null
    readonly sessionStore: EventEmitter
    regenerateSession(): Generator<unknown, unknown, unknown>
  }

  export type Middleware = (this: Context, next: Generator) => Generator<unknown, unknown, unknown>

  export default class Application {
    keys: string[]
    use(middleware: Middleware): this
    callback(): RequestListener
  }
}

declare module 'koa-generic-session1' {
  import type { Context, Middleware } from 'koa1'

  export interface Options {
    store?: object
    prefix?: string
    ttl?: number
    defer?: boolean
    rolling?: boolean
    allowEmpty?: boolean
    cookie?: { maxAge?: number | null; expires?: Date; signed?: boolean }
    sessionIdStore?: {
      get(this: Context): string | undefined
      set(this: Context, sid: string): void
      reset(this: Context): void
    }
    genSid?(this: Context, length: number): string
    errorHandler?(error: Error, type: string, context: Context): void
  }

  export default function session(options: Options): Middleware
}

declare module 'pg811' {
  import pg from 'pg'
  export default pg
}

declare module 'koa-pg-session' {
  export default class PgSession {
    constructor(query: (text: string, values?: unknown[]) => Promise<unknown[]>, options?: object)
    setup(): Promise<void>
    get(sid: string): Generator<unknown, unknown, unknown>
    set(sid: string, session: object, ttl?: number): Generator<unknown, void, unknown>
    destroy(sid: string): Generator<unknown, void, unknown>
  }
}

declare module 'connect-pg-simple' {
  import type { Pool } from 'pg'

  interface PgSimple {
    get(sid: string, done: (error: Error | null, session?: object) => void): void
    set(sid: string, session: object, done: (error: Error | null) => void): void
    touch(sid: string, session: object, done: (error: Error | null) => void): void
    destroy(sid: string, done: (error: Error | null) => void): void
  }

  export default function connectPgSimple(session: {
    Store: new () => object
  }): new (options: {
    pool: Pool
    createTableIfMissing: boolean
    pruneSessionInterval: false
  }) => PgSimple
}

declare module 'koa-redis' {
  export default class RedisStore {
    readonly client: { disconnect(): void }
    constructor(options: { url: string })
    get(sid: string): Promise<object | null>
    set(sid: string, session: object, ttl: number): Promise<void>
    destroy(sid: string): Promise<void>
    quit(): Promise<void>
  }
}

declare module 'autocannon' {
  export interface Request {
    path: string
    headers: Record<string, string>
  }

  export interface Result {
    errors: number
    non2xx: number
    duration: number
    requests: { total: number }
    latency: { p50: number; p99: number }
  }

  export default function autocannon(options: {
    url: string
    connections: number
    duration: number
    setupClient(client: { setRequests(requests: Request[]): void }): void
  }): Promise<Result>
}

declare module 'express-session' {
  import type { EventEmitter } from 'node:events'
  import type { IncomingMessage, ServerResponse } from 'node:http'

  export interface SessionData {
    cookie: object
    visits?: number
  }

  export class Store extends EventEmitter {}

  export default function session(options: {
    store: object
    secret: string
    resave: boolean
    saveUninitialized: boolean
    cookie?: object
  }): (req: IncomingMessage, res: ServerResponse, next: () => void) => void
}
