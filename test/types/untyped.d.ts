// What the modules without types are, as far as the tests use them.

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
