declare module 'koa-pg-session' {
  /** As far as the tests use it. */
  export default class PgSession {
    constructor(query: (text: string, values?: unknown[]) => Promise<unknown[]>, options?: object)
    setup(): Promise<void>
    get(sid: string): Generator<unknown, unknown, unknown>
    set(sid: string, session: object, ttl?: number): Generator<unknown, void, unknown>
    destroy(sid: string): Generator<unknown, void, unknown>
  }
}
