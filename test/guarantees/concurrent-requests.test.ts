// Two requests of one browser at once: no change is lost, and no sign-out is undone.
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'chai'
import { Browser } from '../helpers/http.js'
import { message, start } from '../helpers/processes.js'
import type { Listening } from '../helpers/programs/app.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const ways = ['keep', 'replace', 'force', 'touch', 'merge'] as const

for (const middleware of ['koa-generic-session', 'koa-session'])
  describe(`requests of one browser at once, on two instances, with ${middleware}`, () => {
    const processes: ChildProcess[] = []
    let sites: string[]
    let url: string
    let gates = 0

    before(async () => {
      url = await freshDatabase()
      for (let n = 0; n < 2; n++) processes.push(start('./racing-app.js', [url, middleware]))
      sites = (await Promise.all(processes.map((child) => message<Listening>(child)))).map(({ url }) => url)
    })

    after(async () => {
      for (const child of processes) {
        const exited = once(child, 'exit')
        child.disconnect()
        await exited
      }
    })

    async function get(browser: Browser, n: number, path: string): Promise<string> {
      const { status, text } = await browser.get(`${sites[n % sites.length]}${path}`)
      expect(status).to.equal(200)
      return text
    }

    function getFromEach(path: string): Promise<string[]> {
      return Promise.all(sites.map((_, n) => get(new Browser(), n, path)))
    }

    function signIn(count: number): Promise<Browser[]> {
      return Promise.all(
        Array.from({ length: count }, async (_, n) => {
          const browser = new Browser()
          await get(browser, n, '/sign-in')
          return browser
        }),
      )
    }

    /** Starts a slow request of each browser, in turn on either instance, and waits until all have loaded their sessions. */
    async function startSlowRequests(browsers: readonly Browser[]) {
      const gate = `gate=${++gates}`
      const wayOf = (n: number) => ways[Math.floor(n / 2) % ways.length] ?? 'keep'
      const responses = browsers.map((browser, n) => {
        const way = wayOf(n)
        return get(browser.copy(), n, `/slow/${way === 'merge' ? 'keep' : way}?${gate}`)
      })
      await getFromEach(`/gate/arrived?${gate}&count=${browsers.length / 2}`)
      // Another request changes some of the sessions, so that their saves have to be merged.
      await Promise.all(
        browsers.map((browser, n) => wayOf(n) === 'merge' && get(browser.copy(), n + 1, '/add?name=other')),
      )
      return {
        async finish(): Promise<void> {
          await getFromEach(`/gate/open?${gate}`)
          await Promise.all(responses)
        },
      }
    }

    /** Expects that neither the table nor an instance has a session of these browsers. */
    async function expectSignedOut(browsers: readonly Browser[]): Promise<void> {
      const active = `select session from session where session is not null and session->>'load' is null and id not like 'sha256:koa-pg-store-%'`
      expect(await sql(url, active)).to.deep.equal([])
      for (let first = 0; first < browsers.length; first += 50)
        await Promise.all(
          browsers.slice(first, first + 50).map(async (browser) => {
            for (const n of [0, 1])
              await until(async () => (await get(browser.copy(), n, '/')) === 'anonymous')
          }),
        )
      expect(await sql(url, active)).to.deep.equal([])
    }

    it('keeps all 2,000 attributes in 1,000 rounds of two requests that add one each', async () => {
      const browsers = await signIn(50)
      const names: string[] = []
      for (let round = 0; round < 20; round++) {
        names.push(`a${round}`, `b${round}`)
        await Promise.all(
          browsers.flatMap((browser, n) => [
            get(browser.copy(), n, `/add?name=a${round}`),
            get(browser.copy(), n + 1, `/add?name=b${round}`),
          ]),
        )
      }
      const rows = await sql<{ session: Record<string, unknown> }>(
        url,
        `select session from session where session->>'name' = 'ann'`,
      )
      const lost = rows.map(({ session }) => names.filter((name) => session[name] !== true))
      expect(lost).to.deep.equal(browsers.map(() => []))
      for (const browser of browsers)
        for (const n of [0, 1])
          await until(async () => {
            const all = JSON.parse(await get(browser.copy(), n, '/all')) as Record<string, unknown>
            return names.every((name) => all[name] === true)
          })
      const conflicts = (await getFromEach('/conflicts')).reduce((sum, text) => sum + Number(text), 0)
      expect(conflicts, 'saves that conflicted').to.be.above(200)
      await Promise.all(browsers.map((browser) => get(browser, 0, '/sign-out')))
    })

    it('keeps all users signed out after 1,000 rounds of a sign-out during a slow request', async () => {
      const all: Browser[] = []
      for (let round = 0; round < 10; round++) {
        const browsers = await signIn(100)
        all.push(...browsers)
        const requests = await startSlowRequests(browsers)
        const signedOut = Promise.all(
          browsers.map((browser, n) => get(browser.copy(), Math.floor(n / 10), '/sign-out')),
        )
        // In every other round, the sign-out finishes before the slow request goes on.
        if (round % 2 === 0) await signedOut
        await requests.finish()
        await signedOut
      }
      expect(all).to.have.length(1_000)
      await expectSignedOut(all)
    })

    it('keeps users signed out whose rows are deleted in psql during a request', async () => {
      const browsers = await signIn(100)
      const requests = await startSlowRequests(browsers)
      await sql(url, `delete from session where session->>'name' = 'ann'`)
      // Some browsers send another request before the slow one finishes.
      const returning = browsers.filter((_, n) => n % 20 < 10)
      for (const n of [0, 1])
        await Promise.all(
          returning.map((browser) => until(async () => (await get(browser.copy(), n, '/')) === 'anonymous')),
        )
      await requests.finish()
      await expectSignedOut(browsers)
    })
  })
