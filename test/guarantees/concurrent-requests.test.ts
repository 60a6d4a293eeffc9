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

    function everywhere(path: string): Promise<string[]> {
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

    /** A slow request of each, on either instance, in one of the ways; all have loaded their sessions. */
    async function slow(browsers: readonly Browser[]) {
      const name = `gate=${++gates}`
      const wayOf = (n: number) => ways[Math.floor(n / 2) % ways.length] ?? 'keep'
      const answers = browsers.map((browser, n) => {
        const way = wayOf(n)
        return get(browser.copy(), n, `/slow/${way === 'merge' ? 'keep' : way}?${name}`)
      })
      await everywhere(`/gate/arrived?${name}&count=${browsers.length / 2}`)
      // Somebody else changes some of them meanwhile: their saves are to be merged.
      await Promise.all(
        browsers.map((browser, n) => wayOf(n) === 'merge' && get(browser.copy(), n + 1, '/add?name=other')),
      )
      return {
        async finish(): Promise<void> {
          await everywhere(`/gate/open?${name}`)
          await Promise.all(answers)
        },
      }
    }

    /** Neither the database nor an instance knows any of them. */
    async function expectNobody(browsers: readonly Browser[]): Promise<void> {
      const alive = `select session from session where session is not null and session->>'load' is null`
      expect(await sql(url, alive)).to.deep.equal([])
      for (let first = 0; first < browsers.length; first += 50)
        await Promise.all(
          browsers.slice(first, first + 50).map(async (browser) => {
            for (const n of [0, 1]) await until(async () => (await get(browser.copy(), n, '/')) === 'nobody')
          }),
        )
      expect(await sql(url, alive)).to.deep.equal([])
    }

    it('keeps 2,000 attributes of 1,000 rounds of two requests that each add one', async () => {
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
      const conflicts = (await everywhere('/conflicts')).reduce((sum, text) => sum + Number(text), 0)
      expect(conflicts, 'saves that met').to.be.above(200)
      await Promise.all(browsers.map((browser) => get(browser, 0, '/sign-out')))
    })

    it('leaves nobody signed in after 1,000 rounds of a sign-out against a slow request', async () => {
      const all: Browser[] = []
      for (let round = 0; round < 10; round++) {
        const browsers = await signIn(100)
        all.push(...browsers)
        const requests = await slow(browsers)
        const signedOut = Promise.all(
          browsers.map((browser, n) => get(browser.copy(), Math.floor(n / 10), '/sign-out')),
        )
        // Every other time they meet.
        if (round % 2 === 0) await signedOut
        await requests.finish()
        await signedOut
      }
      expect(all).to.have.length(1_000)
      await expectNobody(all)
    })

    it('leaves nobody signed in whose row was deleted in psql while a request was under way', async () => {
      const browsers = await signIn(100)
      const requests = await slow(browsers)
      await sql(url, `delete from session where session->>'name' = 'ann'`)
      // Some of them come back before that request is through.
      const back = browsers.filter((_, n) => n % 20 < 10)
      for (const n of [0, 1])
        await Promise.all(
          back.map((browser) => until(async () => (await get(browser.copy(), n, '/')) === 'nobody')),
        )
      await requests.finish()
      await expectNobody(browsers)
    })
  })
