// Each page of the example application in Chromium: checked with axe for accessibility in light and dark, and with PICTURES, the
// name of a folder, photographed for the documentation.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { type Example, killExamples, startExample } from '../helpers/example.js'
import { ownServer } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import type { PostgresServer } from '../support/postgres/server.js'
import { Device, laptop, launch, phone } from './devices.js'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const { PICTURES } = process.env

const pictured = ['sign-in', 'account', 'cart', 'codes', 'outage', 'signed-out']

const looks: [string, string, BrowserContextOptions][] = [
  ['light', 'Ann', { ...laptop, colorScheme: 'light' }],
  ['dark', 'Ben', { ...laptop, colorScheme: 'dark' }],
  ['phone', 'Zoe', { ...phone, colorScheme: 'light' }],
]

/** What axe finds, a line for each. Not by a script of the page, which the content security policy would refuse. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(`${axe};0`)
  const results = (await page.evaluate('axe.run()')) as {
    violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[]
    passes: unknown[]
  }
  expect(results.passes).not.to.have.length(0)
  return results.violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
  )
}

/** The whole page, or what is visible of one with a dialog, as WebP, a third of the size of what `page.screenshot` can make. */
async function picture(page: Page): Promise<Buffer> {
  const session = await page.context().newCDPSession(page)
  const { cssContentSize, cssLayoutViewport } = await session.send('Page.getLayoutMetrics')
  const { clientWidth: width, clientHeight: height } = cssLayoutViewport
  const hasDialog = await page.getByRole('dialog').isVisible()
  const { data } = await session.send('Page.captureScreenshot', {
    format: 'webp',
    quality: 80,
    captureBeyondViewport: true,
    clip: { ...(hasDialog ? { x: 0, y: 0, width, height } : cssContentSize), scale: 1 },
  })
  return Buffer.from(data, 'base64')
}

describe('the pages of the example application', () => {
  let browser: Browser
  let database: PostgresServer
  let example: Example
  let url: string
  let otherUrl: string

  before(async () => {
    database = await ownServer()
    example = await startExample({ DATABASE_URL: database.url, PORT: PICTURES ? '' : '0' })
    ;[url, otherUrl] = example.urls as [string, string]
    browser = await launch()
  })
  after(async () => {
    await browser?.close()
    await example?.stop()
    await database?.stop()
    killExamples()
  })

  for (const [look, user, options] of looks)
    it(`have no violations of accessibility rules: ${look}`, async () => {
      const device = await Device.open(browser, options)
      const other = await Device.open(browser, look === 'phone' ? laptop : phone)
      const { page } = device

      async function check(name: string): Promise<void> {
        expect(await violations(page), name).to.deep.equal([])
        const overflow = await page.evaluate('document.documentElement.scrollWidth - innerWidth')
        expect(overflow, `${name} is wider than the window`).to.be.at.most(0)
        if (!PICTURES || !pictured.includes(name)) return
        mkdirSync(PICTURES, { recursive: true })
        writeFileSync(join(PICTURES, `${name}-${look}.webp`), await picture(page))
      }

      try {
        await page.goto(url)
        await check('sign-in')
        await page.getByLabel('Your name').fill(user)
        await page.getByLabel('Password').fill('wrong')
        await page.getByRole('button', { name: 'Sign in' }).click()
        await page.getByRole('alert').waitFor()
        await check('sign-in-again')

        await other.signIn(otherUrl, user)
        await device.signIn(url, user)
        await page.getByText('What your session holds').click()
        await check('account')

        await page.goto(`${url}/cart`)
        for (const article of ['Green tea', 'Lemon cake']) {
          await page.getByRole('button', { name: `Add ${article}`, exact: true }).click()
          await page.getByRole('heading', { name: 'Your cart' }).waitFor()
        }
        await check('cart')

        await page.goto(`${url}/codes`)
        await check('confirm')
        await page.getByLabel('Password').fill('wrong')
        await page.getByRole('button', { name: 'Confirm' }).click()
        await page.getByRole('alert').waitFor()
        await check('confirm-again')
        await page.getByLabel('Password').fill('koa')
        await page.getByRole('button', { name: 'Confirm' }).click()
        await page.getByText('hidden again in').waitFor()
        await check('codes')

        await page.goto(`${url}/nowhere`)
        await check('not-found')

        await database.kill()
        expect((await page.goto(`${url}/cart`))?.status()).to.equal(503)
        await check('outage')
        await database.start()

        await until(async () => (await page.goto(url))?.status() === 200)
        await until(async () => (await other.page.goto(otherUrl))?.status() === 200)
        await other.page.getByRole('button', { name: 'Sign out all others' }).click()
        await page.getByRole('dialog').waitFor()
        await check('signed-out')
      } finally {
        await database.start()
        await device.close()
        await other.close()
      }
    })
})
