// Each page of the example application in Chromium: checked with axe for accessibility in light and dark, and with PICTURES, the
// name of a folder, photographed for the documentation.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { type Example, killExamples, startExample } from '../helpers/example.js'
import { until } from '../helpers/until.js'
import { Device, laptop, launch, phone } from './devices.js'

const axe = readFileSync(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8')
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
  let example: Example
  let url: string
  const devices = new Map<string, Device>()

  before(async () => {
    example = await startExample(PICTURES ? { PORT: '' } : {})
    url = example.urls[0] ?? ''
    browser = await launch()
    for (const [look, , options] of looks) devices.set(look, await Device.open(browser, options))
  })
  after(async () => {
    await browser?.close()
    await example?.stop()
    killExamples()
  })

  function pageOf(look: string): Page {
    return (devices.get(look) ?? expect.fail(look)).page
  }

  async function check(look: string, name: string): Promise<void> {
    const page = pageOf(look)
    expect(await violations(page), name).to.deep.equal([])
    const overflow = await page.evaluate('document.documentElement.scrollWidth - innerWidth')
    expect(overflow, `${name} is wider than the window`).to.be.at.most(0)
    if (!PICTURES || !pictured.includes(name)) return
    mkdirSync(PICTURES, { recursive: true })
    writeFileSync(join(PICTURES, `${name}-${look}.webp`), await picture(page))
  }

  for (const [look, user] of looks)
    it(`break no rule of accessibility: ${look}`, async () => {
      const page = pageOf(look)
      await page.goto(url)
      await check(look, 'sign-in')
      await page.getByLabel('Your name').fill(user)
      await page.getByLabel('Password').fill('wrong')
      await page.getByRole('button', { name: 'Sign in' }).click()
      await page.getByRole('alert').waitFor()
      await check(look, 'sign-in-again')

      const other = await Device.open(browser, look === 'phone' ? laptop : phone)
      await other.signIn(url, user)
      await devices.get(look)?.signIn(url, user)
      await page.getByText('What your session holds').click()
      await check(look, 'account')
      await other.close()

      await page.goto(`${url}/cart`)
      for (const article of ['Green tea', 'Lemon cake']) {
        await page.getByRole('button', { name: `Add ${article}`, exact: true }).click()
        await page.getByRole('heading', { name: 'Your cart' }).waitFor()
      }
      await check(look, 'cart')

      await page.goto(`${url}/codes`)
      await check(look, 'confirm')
      await page.getByLabel('Password').fill('wrong')
      await page.getByRole('button', { name: 'Confirm' }).click()
      await page.getByRole('alert').waitFor()
      await check(look, 'confirm-again')
      await page.getByLabel('Password').fill('koa')
      await page.getByRole('button', { name: 'Confirm' }).click()
      await page.getByText('hidden again in').waitFor()
      await check(look, 'codes')

      await page.goto(`${url}/nowhere`)
      await check(look, 'not-found')
    })

  it('break no rule of accessibility: signed out', async () => {
    for (const [look] of looks) {
      const page = pageOf(look)
      await page.goto(url)
      const tab = await page.context().newPage()
      await tab.goto(url)
      await tab.getByRole('button', { name: 'Sign out', exact: true }).click()
      await tab.getByRole('heading', { name: 'Sign in' }).waitFor()
      await page.bringToFront()
      await page.getByRole('dialog').waitFor()
      await check(look, 'signed-out')
    }
  })

  it('break no rule of accessibility: an outage', async () => {
    await devices.get('dark')?.signIn(url, 'Ben')
    await devices.get('phone')?.signIn(url, 'Zoe')
    await devices.get('light')?.signIn(url, 'Ann')
    // Until the end of the tests.
    const { request } = pageOf('light').context()
    await request.post(`${url}/stop-database`, { form: { seconds: '60' } })
    for (const [look] of looks) {
      await until(async () => (await pageOf(look).goto(`${url}/cart`))?.status() === 503)
      await check(look, 'outage')
    }
    expect(await example.stop()).to.equal(0)
    expect(existsSync(example.folder)).to.equal(false)
  })
})
