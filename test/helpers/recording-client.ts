// A pg.Client that records the texts of its statements, for `new PgStore({ connectionString, Client })`.
import pg from 'pg'

/** Returns a class of clients, and the list to which they add the text of each statement when it is sent. */
export function recordingClient(): { Client: typeof pg.Client; texts: string[] } {
  const texts: string[] = []
  class Client extends pg.Client {
    constructor(config?: string | pg.ClientConfig) {
      super(config)
      const query: (...args: unknown[]) => unknown = this.query.bind(this)
      Reflect.set(this, 'query', (...args: unknown[]) => {
        const [config] = args
        texts.push(typeof config === 'string' ? config : String(Reflect.get(Object(config), 'text')))
        return query(...args)
      })
    }
  }
  return { Client, texts }
}
