// The example application over HTTP: its pages, in two processes on one database.
import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { type Example, killExamples, startExample, Visitor } from '../helpers/example.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

after(killExamples)

describe('the example application', () => {
  let example: Example
  let databaseUrl: string
  let urls: [string, string]
  let users = 0
  let user: string
  let browser: Visitor

  before(async () => {
    databaseUrl = await freshDatabase()
    example = await startExample({ DATABASE_URL: databaseUrl })
    urls = example.urls as [string, string]
  })
  beforeEach(() => {
    user = `Ann ${++users}`
    browser = new Visitor(urls[0])
  })
  after(async () => {
    expect(await example.stop()).to.equal(0)
  })

  const handlesIn = (text: string): string[] =>
    [...text.matchAll(/action="\/sessions\/([^/"]+)\/sign-out"/g)].map(([, handle]) => handle ?? '')

  it('asks who it is, and sets no cookie before it knows', async () => {
    const { status, text } = await browser.visit()
    expect(status).to.equal(200)
    expect(text)
      .to.match(/^<!doctype html>/)
      .and.to.include('<label for="name">')
    expect(browser.cookies).to.have.property('size', 0)
  })

  it('signs a user in at both instances', async () => {
    const { status, headers } = await browser.signIn(`  ${user} `)
    expect(status).to.equal(303)
    expect(headers.get('location')).to.equal('/')
    for (const [n, url] of urls.entries())
      expect((await browser.at(url).visit()).text)
        .to.include(`<bdi>${user}</bdi>`)
        .and.include(`Answered by instance ${n + 1} on port ${new URL(url).port}`)
        .and.include('This device')
  })

  it('protects the cookie from scripts and other sites', async () => {
    const { headers } = await browser.signIn(user)
    for (const cookie of headers.getSetCookie())
      expect(cookie).to.include('samesite=lax').and.include('httponly')
  })

  it('escapes markup in a name', async () => {
    await browser.signIn(`<script>alert("1")</script>&'`)
    const { text } = await browser.visit()
    expect(text).to.include('&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;')
    expect(text).not.to.include('<script>')
  })

  it('allows browsers to load nothing but its own stylesheet and script', async () => {
    const { text, headers } = await browser.visit()
    const [, style = ''] = /<style>(.*)<\/style>/s.exec(text) ?? []
    const digest = createHash('sha256').update(style).digest('base64')
    expect(headers.get('content-security-policy'))
      .to.include("default-src 'none'")
      .and.include(`style-src 'sha256-${digest}'`)
      .and.include("script-src 'self'")
      .and.not.include('unsafe')
    expect((await browser.visit('/live.js')).headers.get('content-type')).to.match(/^text\/javascript/)
  })

  for (const [what, name, password] of [
    ['an empty name', '', 'koa'],
    ['a name of spaces', '   ', 'koa'],
    ['a name of 51 characters', 'x'.repeat(51), 'koa'],
    ['a wrong password', 'Ann', 'Koa'],
    ['no password', 'Ann', ''],
  ] as const)
    it(`asks again for ${what}`, async () => {
      const { status, text } = await browser.signIn(name, password)
      expect(status).to.equal(422)
      expect(text).to.include('role="alert"').and.include('<form method="post" action="/sign-in">')
      expect(browser.cookies).to.have.property('size', 0)
    })

  it('creates a new session at every sign-in, with nothing of another user', async () => {
    await browser.signIn(user)
    await browser.send('/cart/tea', { change: 'add' })
    const planted = browser.copy()
    await browser.signIn(`${user} B`)
    expect(browser.cookies.get('koa.sess')).not.to.equal(planted.cookies.get('koa.sess'))
    expect((await planted.visit()).text).to.include('<h1>Sign in</h1>')
    expect((await browser.visit()).text)
      .to.include(`<bdi>${user} B</bdi>`)
      .and.not.include('cart:tea')
  })

  it('destroys the session at sign-out: the old cookie is worth nothing, at both instances', async () => {
    await browser.signIn(user)
    await browser.at(urls[1]).visit()
    const copy = browser.copy()
    expect((await browser.send('/sign-out')).status).to.equal(303)
    expect(browser.cookies).to.have.property('size', 0)
    expect((await copy.visit()).text).to.include('<h1>Sign in</h1>')
    await until(async () => (await copy.at(urls[1]).visit()).text.includes('<h1>Sign in</h1>'))
  })

  it('ends a session of the user, but none of another user', async () => {
    const phone = new Visitor(urls[1])
    const stranger = new Visitor(urls[0])
    await browser.signIn(user)
    await phone.signIn(user)
    await stranger.signIn(`${user} B`)
    const [handle = ''] = handlesIn((await browser.visit()).text)
    expect((await stranger.send(`/sessions/${handle}/sign-out`)).status).to.equal(303)
    expect((await phone.visit()).text).to.include(`<bdi>${user}</bdi>`)
    expect((await browser.send(`/sessions/${handle}/sign-out`)).status).to.equal(303)
    await until(async () => (await phone.visit()).text.includes('<h1>Sign in</h1>'))
    expect((await stranger.visit()).text).to.include(`<bdi>${user} B</bdi>`)
  })

  it('tells the pages at the other instance of a sign-in, of other ended sessions and of the end of their own', async () => {
    const phone = new Visitor(urls[1])
    await browser.signIn(user)
    const events = await browser.at(urls[1]).events()
    await phone.signIn(user)
    await events.until('event: changed')
    await phone.send('/sign-out')
    await events.until('event: changed')
    await phone.signIn(user)
    await events.until('event: changed')
    await phone.send('/sessions/sign-out-others')
    await events.until('event: ended')
  })

  it('tells nobody who isn’t signed in anything', async () => {
    for (const path of ['/sessions', '/cart', '/codes']) {
      const { status, headers } = await browser.visit(path)
      expect([path, status, headers.get('location')]).to.deep.equal([path, 303, '/'])
    }
    expect((await browser.send('/cart/tea', { change: 'add' })).status).to.equal(303)
    expect((await browser.visit('/events')).text).to.equal('event: ended\ndata:\n\n')
    expect(browser.cookies).to.have.property('size', 0)
  })

  it('keeps both changes of requests to two instances at once', async () => {
    await browser.signIn(user)
    const slow = browser.send('/cart/tea', { change: 'add-slowly' })
    for (const article of ['cup', 'cake', 'cup'])
      await browser.at(urls[1]).send(`/cart/${article}`, { change: 'add' })
    expect((await slow).status).to.equal(303)
    expect((await browser.visit('/cart')).text)
      .to.match(/id="count-tea">1</)
      .and.match(/id="count-cup">2</)
      .and.match(/id="count-cake">1</)
  })

  it('refuses what is no article or change, and never counts below zero', async () => {
    await browser.signIn(user)
    expect((await browser.send('/cart/gold', { change: 'add' })).status).to.equal(404)
    expect((await browser.send('/cart/tea', { change: 'constructor' })).status).to.equal(404)
    await browser.send('/cart/tea', { change: 'remove' })
    expect((await browser.visit('/cart')).text).to.match(/id="count-tea">0</)
  })

  it('shows the codes after the password was given again, until its attribute expires', async () => {
    await browser.signIn(user)
    expect((await browser.visit('/codes')).text).not.to.include('class="codes"')
    expect((await browser.send('/codes', { password: 'wrong' })).status).to.equal(422)
    expect((await browser.send('/codes', { password: 'koa' })).status).to.equal(303)
    expect((await browser.visit('/codes')).text).to.include('class="codes"')
    const [row] = await sql(databaseUrl, `select session from session where user_id = '${user}'`)
    const { confirmedAt } = (row ?? expect.fail()).session as { confirmedAt: object }
    expect(confirmedAt).to.have.keys('~value', '~expires')
    await browser.send('/codes/hide')
    expect((await browser.visit('/codes')).text).not.to.include('class="codes"')
  })

  it('refuses a form from another site', async () => {
    await browser.signIn(user)
    for (const headers of [
      { origin: 'http://elsewhere.example' },
      { origin: 'null' },
      { origin: urls[1] },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site', origin: urls[0] },
    ])
      expect((await browser.send('/sign-out', {}, headers)).status).to.equal(403)
    expect((await browser.visit()).text).to.include(`<bdi>${user}</bdi>`)
    expect((await browser.send('/sign-out', {}, { origin: urls[0] })).status).to.equal(303)
  })

  it('responds with 404 to an unknown path, and refuses a form that is too long', async () => {
    const { status, text } = await browser.visit('/sign-in')
    expect(status).to.equal(404)
    expect(text).to.include('There is no such page')
    expect((await browser.signIn('x'.repeat(20_000))).status).to.equal(413)
  })

  it('offers to stop only a PostgreSQL of its own', async () => {
    await browser.signIn(user)
    expect((await browser.visit()).text).not.to.include('/stop-database')
    expect((await browser.send('/stop-database', { seconds: '1' })).status).to.equal(404)
  })
})

describe('the example application without its database', () => {
  it('responds with 503, signs nobody out, and recovers', async () => {
    const database = await ownServer()
    try {
      const example = await startExample({ DATABASE_URL: database.url })
      const [url = ''] = example.urls
      const browser = new Visitor(url)
      await browser.signIn('Ann')
      await database.kill()
      for (const answer of [
        await browser.visit(),
        await browser.visit('/cart'),
        await browser.signIn('Bob'),
        await browser.send('/sign-out'),
      ]) {
        expect(answer.status).to.equal(503)
        expect(Number(answer.headers.get('retry-after'))).to.be.above(0)
        expect(answer.headers.getSetCookie()).to.deep.equal([])
        expect(answer.text)
          .to.include('Try again')
          .and.not.include('Sign in')
          .and.not.match(/ECONNREFUSED|\.js|Your session came/)
      }
      await database.start()
      await until(async () => (await browser.visit()).text.includes('<bdi>Ann</bdi>'))
      expect(await example.stop()).to.equal(0)
    } finally {
      await database.stop()
    }
  })
})
