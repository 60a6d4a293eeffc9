// What Koa answers by itself when the store can't reach its database.
import { expect } from 'chai'
import Koa, { type Middleware } from 'koa'
import genericSession from 'koa-generic-session'
import koaSession from 'koa-session'
import { MemoryStore, PgStore, type SessionStore } from '../../lib/index.js'
import { Browser, listen } from '../helpers/http.js'

type Middlewares = Record<string, (store: SessionStore, app: Koa) => Middleware>

const middlewares: Middlewares = {
  'koa-generic-session': (store) => genericSession({ store } as never),
  'koa-session': (store, app) => koaSession({ store }, app) as Middleware,
}

describe('an outage', () => {
  for (const [name, createMiddleware] of Object.entries(middlewares)) {
    async function serve(store: SessionStore) {
      const app = new Koa()
      app.keys = ['a key']
      app.silent = true
      app.use(createMiddleware(store, app))
      app.use((ctx) => {
        const session = ctx.session as unknown as Record<string, unknown>
        if (ctx.path === '/visit') session.visited = true
        ctx.body = JSON.stringify(session.visited ?? false)
      })
      return listen(app)
    }

    it(`makes Koa answer 503 with Retry-After, and without the reason, with ${name}`, async () => {
      // No server listens on this port.
      const store = new PgStore('postgres://user:password@127.0.0.1:1/app')
      const good = await serve(new MemoryStore())
      const bad = await serve(store)
      try {
        const browser = new Browser()
        await browser.get(`${good.url}/visit`)
        expect((await browser.get(`${good.url}/`)).text).to.equal('true')
        for (const [visitor, path] of [
          [browser, '/'],
          [new Browser(), '/visit'],
        ] as const) {
          const { status, headers, text, setCookie } = await visitor.get(`${bad.url}${path}`)
          expect([status, headers.get('retry-after'), text]).to.deep.equal([503, '5', 'Service Unavailable'])
          expect(setCookie).to.deep.equal([])
        }
      } finally {
        await good.stop()
        await bad.stop()
        await store.close()
      }
    })
  }
})
