// A user's sessions through each middleware: ended elsewhere, and limited.
import { expect } from 'chai'
import Koa from 'koa'
import genericSession from 'koa-generic-session'
import koaSession from 'koa-session'
import type { PgStore } from '../../lib/index.js'
import { Browser, listen } from '../helpers/http.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase } from '../helpers/server.js'

interface Context {
  path: string
  body: string
  sessionId: string
  session: { user?: { id: string }; externalKey?: string }
  ended?: number
}

describe('a user’s sessions in an application', () => {
  const middlewares = {
    'koa-generic-session': {
      use: (app: Koa, store: PgStore) => app.use(genericSession({ store })),
      sid: (ctx: Context) => `koa:sess:${ctx.sessionId}`,
    },
    'koa-session': {
      use: (app: Koa, store: PgStore) => app.use(koaSession({ store }, app)),
      sid: (ctx: Context) => ctx.session.externalKey ?? '',
    },
  }
  for (const [name, { use, sid }] of Object.entries(middlewares))
    it(`can be destroyed except for the current one, with ${name}`, async () => {
      await using store = await trusted(await freshDatabase())
      const app = new Koa()
      app.keys = ['a key']
      use(app, store)
      app.use(async (context) => {
        const ctx = context as unknown as Context
        if (ctx.path === '/sign-in') ctx.session.user = { id: 'ann' }
        if (ctx.path === '/elsewhere') ctx.ended = await store.destroySessionsOf('ann', { except: sid(ctx) })
        ctx.body = `${ctx.session.user ? 'ann' : 'anonymous'} ${ctx.ended ?? ''}`
      })
      const site = await listen(app)
      const browsers = [new Browser(), new Browser(), new Browser()]
      for (const browser of browsers) await browser.get(`${site.url}/sign-in`)
      expect((await browsers[1]?.get(`${site.url}/elsewhere`))?.text).to.equal('ann 2')
      const texts = []
      for (const browser of browsers) texts.push((await browser.get(site.url)).text.trim())
      expect(texts).to.deep.equal(['anonymous', 'ann', 'anonymous'])
      await site.stop()
    })

  it('are the last two with a limit of two: the first browser is signed out', async () => {
    await using store = await trusted(await freshDatabase(), { maxSessionsPerUser: 2 })
    const app = new Koa()
    app.keys = ['a key']
    app.use(genericSession({ store }))
    app.use((ctx) => {
      const { session } = ctx as unknown as { session: { user?: { id: number } } }
      if (ctx.path === '/sign-in') session.user = { id: 1 }
      ctx.body = session.user ? 'ann' : 'anonymous'
    })
    const site = await listen(app)
    const browsers = [new Browser(), new Browser(), new Browser()]
    for (const browser of browsers) expect((await browser.get(`${site.url}/sign-in`)).text).to.equal('ann')
    const texts = []
    for (const browser of browsers) texts.push((await browser.get(site.url)).text)
    expect(texts).to.deep.equal(['anonymous', 'ann', 'ann'])
    await site.stop()
  })
})
