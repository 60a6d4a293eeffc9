// What the modules without types are, as far as the bench uses them.

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
