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
    it(`can be ended everywhere but here, through ${name}`, async () => {
      await using store = await trusted(await freshDatabase())
      const app = new Koa()
      app.keys = ['a key']
      use(app, store)
      app.use(async (context) => {
        const ctx = context as unknown as Context
        if (ctx.path === '/sign-in') ctx.session.user = { id: 'ann' }
        if (ctx.path === '/elsewhere') ctx.ended = await store.destroySessionsOf('ann', { except: sid(ctx) })
        ctx.body = `${ctx.session.user ? 'ann' : 'nobody'} ${ctx.ended ?? ''}`
      })
      const served = await listen(app)
      const browsers = [new Browser(), new Browser(), new Browser()]
      for (const browser of browsers) await browser.get(`${served.url}/sign-in`)
      expect((await browsers[1]?.get(`${served.url}/elsewhere`))?.text).to.equal('ann 2')
      const texts = []
      for (const browser of browsers) texts.push((await browser.get(served.url)).text.trim())
      expect(texts).to.deep.equal(['nobody', 'ann', 'nobody'])
      await served.stop()
    })

  it('with a limit of two, are the last two browsers: the first is signed out', async () => {
    await using store = await trusted(await freshDatabase(), { maxSessionsPerUser: 2 })
    const app = new Koa()
    app.keys = ['a key']
    app.use(genericSession({ store }))
    app.use((ctx) => {
      const { session } = ctx as unknown as { session: { user?: { id: number } } }
      if (ctx.path === '/sign-in') session.user = { id: 1 }
      ctx.body = session.user ? 'ann' : 'nobody'
    })
    const served = await listen(app)
    const browsers = [new Browser(), new Browser(), new Browser()]
    for (const browser of browsers) expect((await browser.get(`${served.url}/sign-in`)).text).to.equal('ann')
    const texts = []
    for (const browser of browsers) texts.push((await browser.get(served.url)).text)
    expect(texts).to.deep.equal(['nobody', 'ann', 'ann'])
    await served.stop()
  })
})
