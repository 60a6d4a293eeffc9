// A destroyed session stays destroyed, whatever other requests do with it at the same time.
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import pg from 'pg'
import { PgStore } from '../../lib/index.js'
import { Browser } from '../helpers/http.js'
import { message, start } from '../helpers/processes.js'
import type { Listening } from '../helpers/programs/app.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

interface Row {
  session: Record<string, unknown> | null
  user_id: string | null
  version: string
  expiry: Date
}

describe('a user who signs out', () => {
  const processes: ChildProcess[] = []
  /** The URLs of two processes of one application. */
  let sites: string[]
  let url: string
  let gates = 0

  before(async () => {
    url = await freshDatabase()
    for (let n = 0; n < 2; n++) processes.push(start('./app.js', [url]))
    sites = (await Promise.all(processes.map((child) => message<Listening>(child)))).map(({ url }) => url)
  })

  after(async () => {
    for (const child of processes) {
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    }
  })

  beforeEach(async () => {
    for (const site of sites) await new Browser().get(`${site}/sign-in?name=setup`)
    await sql(url, 'truncate session')
  })

  function rows(): Promise<Row[]> {
    return sql<Row & pg.QueryResultRow>(url, 'select session, user_id, version, expiry from session')
  }

  /** Starts a slow request and waits until it has loaded its session. */
  async function startSlowRequest(browser: Browser, site: string, path: string) {
    const gate = `gate=${++gates}`
    const response = browser.get(`${site}${path}?${gate}`)
    await new Browser().get(`${site}/gate/arrived?${gate}`)
    return {
      async finish(): Promise<void> {
        await new Browser().get(`${site}/gate/open?${gate}`)
        expect((await response).status).to.equal(200)
      },
    }
  }

  async function expectSignedOut(browser: Browser): Promise<void> {
    // A copy, since a response may remove the cookies. The other process signs out when the notification arrives.
    for (const site of sites)
      await until(async () => (await browser.copy().get(`${site}/`)).text === 'anonymous')
    for (const { session, user_id } of await rows())
      expect({ session, user_id }).to.deep.equal({ session: null, user_id: null })
  }

  const slowRequests: [string, string][] = [
    ['/slow/keep', 'changes and saves it'],
    ['/slow/replace', 'replaces it with another object'],
    ['/slow/force', 'saves it unchanged'],
    ['/slow/touch', 'touches it'],
  ]
  for (const [path, what] of slowRequests)
    for (const elsewhere of [true, false])
      it(`stays signed out when a request that loaded the session earlier ${what}, ${elsewhere ? 'on another process' : 'on the same process'}`, async () => {
        const [here = '', there = ''] = sites
        const browser = new Browser()
        await browser.get(`${here}/sign-in?name=ann`)
        for (const site of sites) expect((await browser.get(`${site}/`)).text).to.equal('ann')
        await sql(url, `update session set user_id = 'ann'`)
        const cookies = browser.copy()
        const request = await startSlowRequest(browser, here, path)
        await browser.get(`${elsewhere ? there : here}/sign-out`)
        const [tombstone] = await rows()
        expect(tombstone).to.include({ session: null, user_id: null })
        await request.finish()
        // With the cookies that the last response left, and with the earlier ones.
        await expectSignedOut(browser)
        await expectSignedOut(cookies)
        expect(await rows()).to.deep.equal([tombstone])
      })

  it('stays signed out when several requests save before, during and after the sign-out', async () => {
    const [here = '', there = ''] = sites
    for (let round = 0; round < 30; round++) {
      const browser = new Browser()
      await browser.get(`${here}/sign-in?name=ann`)
      const requests = await Promise.all(
        slowRequests.map(([path], n) => startSlowRequest(browser.copy(), sites[n % 2] ?? '', path)),
      )
      const finished = requests.map((request) => request.finish())
      await browser.copy().get(`${round % 2 ? here : there}/sign-out`)
      await Promise.all(finished)
      await expectSignedOut(browser)
    }
    expect(await rows()).to.have.length(30)
  })

  it('stays signed out when two requests sign out at once', async () => {
    const [here = '', there = ''] = sites
    const browser = new Browser()
    await browser.get(`${here}/sign-in?name=ann`)
    const first = await startSlowRequest(browser.copy(), here, '/slow/sign-out')
    const second = await startSlowRequest(browser.copy(), there, '/slow/sign-out')
    await Promise.all([first.finish(), second.finish()])
    await expectSignedOut(browser)
    expect(await rows()).to.have.length(1)
  })

  it('stays signed out when a save waits for the row while the sign-out is committed', async () => {
    await using store = new PgStore(url, { touch: { interval: 0 } })
    const client = new pg.Client(url)
    await client.connect()
    try {
      const sid = await store.create({ name: 'ann' })
      await client.query('begin')
      await client.query(`update session set session = null, user_id = null, version = version + 1`)
      const pending = [store.set(sid, { name: 'ann', late: true }), store.touch(sid, 3_600_000)]
      const waiting = `select from pg_locks where not granted and locktype in ('transactionid', 'tuple')`
      let settled = false
      Promise.race(pending).finally(() => {
        settled = true
      })
      while (!settled && (await sql(url, waiting)).length < pending.length) await sleep(10)
      expect(settled).to.equal(false)
      await client.query('commit')
      await Promise.all(pending)
      expect(await store.get(sid)).to.equal(undefined)
      expect((await rows())[0]?.session).to.equal(null)
    } finally {
      await client.end()
    }
  })

  it('can sign in again at once, under another id, on both processes', async () => {
    const [here = '', there = ''] = sites
    const browser = new Browser()
    await browser.get(`${here}/sign-in?name=ann`)
    const request = await startSlowRequest(browser.copy(), here, '/slow/keep')
    await browser.get(`${there}/sign-out`)
    await browser.get(`${there}/sign-in?name=ann`)
    await request.finish()
    for (const site of sites) expect((await browser.get(`${site}/`)).text).to.equal('ann')
    const all = await rows()
    expect(all.filter(({ session }) => session !== null)).to.have.length(1)
    expect(all).to.have.length(2)
  })

  it('keeps the other sessions, also those of the same user', async () => {
    const [here = '', there = ''] = sites
    const phone = new Browser()
    const laptop = new Browser()
    await phone.get(`${here}/sign-in?name=ann`)
    await laptop.get(`${there}/sign-in?name=ann`)
    await phone.get(`${there}/sign-out`)
    for (const site of sites) expect((await laptop.get(`${site}/`)).text).to.equal('ann')
  })

  it('leaves no row for an id that never existed, and create works after a destroy', async () => {
    await using store = new PgStore(url)
    await store.destroy('koa:sess:never-existed')
    await store.destroy('koa:sess:never-existed')
    expect(await rows()).to.deep.equal([])
    // The id can still be used.
    await store.set('koa:sess:never-existed', { name: 'ann' })
    expect(await store.get('koa:sess:never-existed')).to.deep.equal({ name: 'ann' })
    const destroyed = await store.create({ name: 'bob' })
    await store.destroy(destroyed)
    const sid = await store.create({ name: 'bob' })
    expect(await store.get(destroyed)).to.equal(undefined)
    expect(await store.get(sid)).to.deep.equal({ name: 'bob' })
    expect(await store.count()).to.equal(2)
  })
})
