// koa-generic-session 2 with cookies that no browser sends, and sessions that cannot be stored.
import { expect } from 'chai'
import { type PgStore, SessionTooLargeError } from '../../lib/index.js'
import { type Attributes, Fixture, storedId } from '../helpers/fixture.js'
import { Browser } from '../helpers/http.js'
import { type Options, type Routes, serveGenericSession, sessionOf } from './sites/generic-session.js'

describe('koa-generic-session 2: hostile input', () => {
  const fixture = new Fixture()
  const { makeStore, rows, onlyRow } = fixture
  const serve = (...[store, options, routes]: [PgStore, Options?, Routes?]) =>
    serveGenericSession(fixture, store, options, routes)

  const circle: Record<string, unknown> = {}
  circle.self = circle
  const unstorable: [string, unknown, RegExp][] = [
    ['a BigInt', { name: 'bob', big: 10n }, /attribute "big" can't be stored as JSON: .*BigInt/],
    ['a circle', { name: 'bob', circle }, /attribute "circle" can't be stored as JSON: .*circular/],
    ['a function', () => 'bob', /session must be an object; received function/],
    ['an array', ['bob'], /session must be an object; received an array/],
    ['a string', 'bob', /session must be an object; received string/],
    ['an object that becomes text', { toJSON: () => 'bob' }, /session must be a JSON object/],
    ['two megabytes', { name: 'x'.repeat(2 ** 21) }, /2097163 bytes of JSON; maxBytes allows 1048576/],
  ]
  for (const [what, value, message] of unstorable)
    it(`refuses ${what} as a session, and keeps the stored one`, async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/break': (ctx) => {
            ctx.session = value as Attributes
            // Otherwise the middleware fails on some of these before it calls the store.
            ctx.sessionSave = true
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      const before = await onlyRow()
      const response = await browser.get(`${site.url}/break`)
      expect(response.status).to.equal(500)
      expect(response.text).to.match(message)
      expect(response.setCookie).to.deep.equal([])
      expect(site.errors[0]).to.be.instanceOf(what === 'two megabytes' ? SessionTooLargeError : TypeError)
      const after = await onlyRow()
      expect([after.session, after.version]).to.deep.equal([before.session, before.version])
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })

  for (const [what, value] of [
    ['a BigInt', 10n],
    ['a circle', circle],
  ])
    it(`refuses ${what} in a session, and keeps the stored one`, async () => {
      const site = await serve(
        await makeStore(),
        {},
        {
          '/break': async (ctx) => {
            Object.assign(await sessionOf(ctx), { name: 'bob', value })
          },
        },
      )
      const browser = new Browser()
      await browser.get(`${site.url}/sign-in?name=ann`)
      expect((await browser.get(`${site.url}/break`)).status).to.equal(500)
      expect(site.errors[0]).to.be.instanceOf(TypeError)
      expect((await browser.get(`${site.url}/`)).text).to.equal('ann')
    })

  it('leaves out attributes that are functions or undefined, as JSON does', async () => {
    const site = await serve(
      await makeStore(),
      {},
      {
        '/odd': async (ctx) => {
          Object.assign(await sessionOf(ctx), { name: 'bob', f() {}, nothing: undefined })
        },
      },
    )
    const browser = new Browser()
    await browser.get(`${site.url}/odd`)
    expect((await browser.get(`${site.url}/`)).text).to.equal('bob')
    expect(Object.keys((await onlyRow()).session ?? {})).to.have.members(['cookie', 'name'])
  })

  const strangeIds = [
    `'; drop table session; --`,
    `" or 1=1`,
    '\\',
    '$1',
    '%00',
    '__proto__',
    'constructor',
    'undefined',
    'null',
    '😀',
    'é\u{10ffff}',
    'x'.repeat(10_000),
    '%',
    '../../etc/passwd',
  ]
  for (const hashIds of [true, false]) {
    it(`treats any unsigned cookie as anonymous, and never uses it as a session id, with hashIds ${hashIds}`, async () => {
      const site = await serve(await makeStore({ hashIds }), { cookie: { signed: false } })
      for (const [n, id] of strangeIds.entries()) {
        // HTTP headers are bytes.
        const sent = Buffer.from(id).toString('latin1')
        const cookie = `koa.sid=${sent}`
        const response = await new Browser().get(`${site.url}/`, { cookie })
        expect([response.status, response.text], id).to.deep.equal([200, 'anonymous'])
        const browser = new Browser([['koa.sid', sent]])
        expect((await browser.get(`${site.url}/sign-in?name=ann`)).status, id).to.equal(200)
        expect(browser.cookies.get('koa.sid')).to.match(/^[\w-]{32}$/)
        expect(await rows()).to.have.length(n + 1)
      }
      expect(site.errors).to.deep.equal([])
    })

    it(`treats any id from a sessionIdStore as anonymous, with hashIds ${hashIds}`, async () => {
      const site = await serve(await makeStore({ hashIds }), {
        prefix: '',
        sessionIdStore: {
          get() {
            return this.query.sid as string | undefined
          },
          set() {},
          reset() {},
        },
      })
      const digest = storedId('koa:sess:x')
      for (const id of [...strangeIds, '\0', 'a\0b', `${'x'.repeat(2_000)}\0`, ' ', '\n', digest]) {
        const sid = encodeURIComponent(id)
        const response = await new Browser().get(`${site.url}/?sid=${sid}`)
        expect([response.status, response.text], id).to.deep.equal([200, 'anonymous'])
      }
      expect(await rows()).to.deep.equal([])
      expect(site.errors).to.deep.equal([])
    })
  }

  it('accepts no stored id as a cookie', async () => {
    const site = await serve(await makeStore(), { prefix: '', cookie: { signed: false } })
    const ann = new Browser()
    await ann.get(`${site.url}/sign-in?name=ann`)
    const { id } = await onlyRow()
    for (const stolen of [id, id.slice('sha256:'.length)]) {
      const thief = new Browser([['koa.sid', stolen]])
      expect((await thief.get(`${site.url}/`)).text).to.equal('anonymous')
    }
    expect((await ann.get(`${site.url}/`)).text).to.equal('ann')
  })
})
