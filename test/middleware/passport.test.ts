// koa-passport 6 with both middlewares: signing in and out, with a new session id each time.
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { expect } from 'chai'
import Koa, { type Middleware } from 'koa'
import genericSession from 'koa-generic-session'
import { KoaPassport } from 'koa-passport'
import koaSession from 'koa-session'
import { Strategy } from 'passport-local'
import type { PgStore } from '../../lib/index.js'
import { Browser, listen, type RunningApp } from '../helpers/http.js'
import { trusted } from '../helpers/instance.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** Returns the middleware of docs/guides/passport.md. */
async function documentedMiddleware(): Promise<Middleware> {
  const page = readFileSync(new URL('../../../docs/guides/passport.md', import.meta.url), 'utf8')
  const [code] =
    /^async function sessionForPassport.*?^}$/ms.exec(page) ?? expect.fail('it is not documented')
  const file = fileURLToPath(new URL(`./passport-example-${process.pid}.mjs`, import.meta.url))
  writeFileSync(file, `export default ${code}`)
  const module = (await import(pathToFileURL(file).href)) as { default: Middleware }
  rmSync(file)
  return module.default
}

const middlewares = {
  'koa-generic-session and the documented middleware': async (app: Koa, store: PgStore) => {
    app.use(genericSession({ store }))
    app.use(await documentedMiddleware())
  },
  'koa-session': async (app: Koa, store: PgStore) => void app.use(koaSession({ store }, app)),
}

/** Serves an application whose users sign in with a name and the password "right". */
async function serve(use: (app: Koa, store: PgStore) => unknown, store: PgStore): Promise<RunningApp> {
  const passport = new KoaPassport()
  passport.serializeUser((user, done) => done(null, (user as { id: string }).id))
  passport.deserializeUser((id, done) => done(null, { id }))
  passport.use(
    new Strategy((name, password, done) => done(null, password === 'right' ? { id: name } : false)),
  )
  const app = new Koa()
  app.keys = ['a key']
  app.silent = true
  await use(app, store)
  // What a body parser does.
  app.use((ctx, next) => {
    Reflect.set(ctx.request, 'body', ctx.query)
    return next()
  })
  app.use(passport.initialize())
  app.use(passport.session())
  app.use(async (ctx, next) => {
    const session = ctx.session as { cart?: string } | null
    if (ctx.path === '/cart' && session) session.cart = 'A-100'
    if (ctx.path === '/keep') await ctx.login({ id: 'ann' }, { keepSessionInfo: true } as never)
    if (ctx.path === '/logout') await ctx.logout()
    if (ctx.path === '/login') return passport.authenticate('local')(ctx, next)
    return next()
  })
  app.use((ctx) => {
    const session = ctx.session as { cart?: string } | null
    ctx.body =
      `${(ctx.state.user as { id: string } | undefined)?.id ?? 'anonymous'} ${session?.cart ?? ''}`.trim()
  })
  return listen(app)
}

for (const [name, use] of Object.entries(middlewares))
  describe(`koa-passport 6 with ${name}`, () => {
    let url: string
    let store: PgStore
    let site: RunningApp
    let browser: Browser
    beforeEach(async () => {
      url = await freshDatabase()
      store = await trusted(url)
      site = await serve(use, store)
      browser = new Browser()
    })
    afterEach(async () => {
      await site.stop()
      await store.close()
    })
    const get = async (path: string) => (await browser.get(site.url + path)).text
    const login = '/login?username=ann&password=right'

    it('signs a user in, and knows the session’s user', async () => {
      expect(await get('/')).to.equal('anonymous')
      const { status, text } = await browser.get(site.url + login)
      expect([status, text]).to.deep.equal([200, 'ann'])
      expect(await get('/')).to.equal('ann')
      expect(await store.sessionsOf('ann')).to.have.length(1)
    })

    it('refuses a wrong password with 401', async () => {
      expect((await browser.get(`${site.url}/login?username=ann&password=wrong`)).status).to.equal(401)
      expect(await get('/')).to.equal('anonymous')
    })

    it('gives the session a new id at sign-in, and the old one is worth nothing', async () => {
      expect(await get('/cart')).to.equal('anonymous A-100')
      const before = browser.copy()
      // koa-session's regenerate() keeps the content.
      expect(await get(login)).to.equal(name === 'koa-session' ? 'ann A-100' : 'ann')
      expect((await before.get(site.url)).text).to.equal('anonymous')
      expect([...browser.cookies.values()]).not.to.include([...before.cookies.values()][0])
    })

    it('keeps the content of the session with keepSessionInfo', async () => {
      await get('/cart')
      expect(await get('/keep')).to.equal('ann A-100')
      expect(await get('/')).to.equal('ann A-100')
    })

    it('signs the user out, with a copy of the cookie too', async () => {
      await get(login)
      const copy = browser.copy()
      expect(await get('/logout')).to.equal('anonymous')
      expect(await get('/')).to.equal('anonymous')
      expect((await copy.get(site.url)).text).to.equal('anonymous')
      expect(await store.sessionsOf('ann')).to.deep.equal([])
    })

    it('stores neither of the methods that koa-passport calls', async () => {
      await get(login)
      const rows = await sql(url, 'select session from session where user_id is not null')
      expect(rows).to.have.length(1)
      expect(rows[0]?.session).not.to.have.any.keys('regenerate', 'save')
    })
  })

describe('koa-passport 6 with koa-generic-session alone', () => {
  it('answers 500 at sign-in, which is why the middleware is documented', async () => {
    const store = await trusted(await freshDatabase())
    const site = await serve((app, store) => app.use(genericSession({ store })), store)
    const { status } = await new Browser().get(`${site.url}/login?username=ann&password=right`)
    expect(status).to.equal(500)
    await site.stop()
    await store.close()
  })
})
