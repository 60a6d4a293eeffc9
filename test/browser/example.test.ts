// The example application in Chromium: two devices of a user, tabs on both instances, and an outage.
import { expect } from 'chai'
import type { Browser, Page } from 'playwright-core'
import { PgStore } from '../../lib/index.js'
import { type Example, killExamples, startExample } from '../helpers/example.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { Device, hasEvents, laptop, launch, phone } from './devices.js'

let browser: Browser
const devices: Device[] = []

before(async () => {
  browser = await launch()
})
after(async () => {
  await browser?.close()
  killExamples()
})

async function open(...[options]: Parameters<typeof browser.newContext>): Promise<Device> {
  const device = await Device.open(browser, options ?? laptop)
  devices.push(device)
  return device
}

/** What is lost when a page loads. */
const mark = (page: Page): Promise<unknown> => page.evaluate('globalThis.isMarked = true')
const isMarked = (page: Page): Promise<unknown> => page.evaluate('globalThis.isMarked === true')

const signedOut = (page: Page) => page.getByRole('dialog', { name: 'You have been signed out' })
const listed = (page: Page, name: string) => page.getByRole('listitem').filter({ hasText: name })
const footer = (page: Page) => page.getByRole('contentinfo')

describe('the example application in a browser', () => {
  let example: Example
  let databaseUrl: string
  let urls: [string, string]
  let users = 0
  let user: string

  before(async () => {
    databaseUrl = await freshDatabase()
    example = await startExample({ DATABASE_URL: databaseUrl })
    urls = example.urls as [string, string]
  })
  beforeEach(() => {
    user = `Ann ${++users}`
  })
  afterEach(async () => {
    const errors = devices.flatMap((device) => device.errors)
    for (const device of devices.splice(0)) await device.close()
    expect(errors).to.deep.equal([])
  })
  after(async () => {
    expect(await example.stop()).to.equal(0)
    expect(example.errors).to.equal('')
  })

  it('shows a sign-in at another instance without a reload, and tells a device that it was signed out', async () => {
    const [first, second] = [await open(laptop), await open(phone)]
    await first.signIn(urls[0], user)
    expect(await footer(first.page).innerText()).to.include('Answered by instance 1')
    await mark(first.page)

    await second.signIn(urls[1], user)
    expect(await footer(second.page).innerText()).to.include('Answered by instance 2')
    await listed(first.page, 'Safari on iOS').waitFor()
    expect(await isMarked(first.page)).to.equal(true)
    expect(await listed(first.page, 'Firefox on Linux').innerText()).to.include('This device')
    expect(await listed(second.page, 'Safari on iOS').innerText()).to.include('This device')

    await mark(second.page)
    await first.page.getByRole('button', { name: 'Sign out Safari on iOS' }).click()
    await signedOut(second.page).waitFor()
    expect(await isMarked(second.page)).to.equal(true)
    await listed(first.page, 'Safari on iOS').waitFor({ state: 'detached' })
    await second.page.getByRole('link', { name: 'Sign in again' }).click()
    await second.page.getByRole('heading', { name: 'Sign in' }).waitFor()
    await first.page.reload()
    await first.page.getByRole('heading', { name: `Hello, ${user}` }).waitFor()
  })

  it('signs out all other devices, and no other user', async () => {
    const [first, second, stranger] = [await open(laptop), await open(phone), await open(phone)]
    await stranger.signIn(urls[0], `${user} B`)
    await second.signIn(urls[0], user)
    await first.signIn(urls[1], user)
    await first.page.getByRole('button', { name: 'Sign out all others' }).click()
    await signedOut(second.page).waitFor()
    await first.page.getByText('This device').waitFor()
    expect(await first.page.getByRole('listitem').count()).to.equal(1)
    expect(await signedOut(stranger.page).count()).to.equal(0)
    expect(await signedOut(first.page).count()).to.equal(0)
  })

  it('keeps the focus when the list changes', async () => {
    const [first, second, third] = [await open(laptop), await open(phone), await open(phone)]
    await second.signIn(urls[0], user)
    await first.signIn(urls[0], user)
    const button = first.page.getByRole('button', { name: 'Sign out Safari on iOS' })
    await button.focus()
    await third.signIn(urls[1], user)
    await first.page.getByRole('listitem').nth(2).waitFor()
    expect(await first.page.locator('button:focus').getAttribute('aria-label')).to.equal(
      'Sign out Safari on iOS',
    )
  })

  it('connects again after its events were refused, and looks for what it has missed', async () => {
    const [first, second] = [await open(laptop), await open(phone)]
    const { page } = first
    await first.signIn(urls[0], user)
    await page.route('**/events', (route) => route.fulfill({ status: 503 }), { times: 1 })
    const refused = page.waitForResponse('**/events')
    await page.reload()
    expect((await refused).status()).to.equal(503)
    await second.signIn(urls[1], user)
    await listed(page, 'Safari on iOS').waitFor()
    await hasEvents(page)
    expect(first.errors.splice(0).join()).to.include('503')
  })

  it('looks for what was missed while an instance had no connection for announcements', async () => {
    const device = await open()
    await device.signIn(urls[0], user)
    // As `koa-pg-store revoke` does, which causes no event in the application.
    await using store = new PgStore(databaseUrl)
    expect(await store.destroySessionsOf(user)).to.equal(1)
    await sql(
      databaseUrl,
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'example_sessions'`,
    )
    await signedOut(device.page).waitFor()
  })

  it('tells the other tabs of a browser that the user has signed out', async () => {
    const device = await open()
    await device.signIn(urls[0], user)
    const other = await device.tab(`${urls[1]}/cart`)
    await hasEvents(other)
    await device.page.getByRole('button', { name: 'Sign out', exact: true }).click()
    await device.page.getByRole('heading', { name: 'Sign in' }).waitFor()
    await signedOut(other).waitFor()
  })

  it('keeps both changes of a cart that two tabs on two instances make at once', async () => {
    const device = await open()
    await device.signIn(urls[0], user)
    await device.page.goto(`${urls[0]}/cart`)
    const other = await device.tab(`${urls[1]}/cart`)
    // This request loads the session, and saves it three seconds later.
    const slow = device.page.waitForRequest((request) => request.method() === 'POST')
    await device.page.getByRole('button', { name: 'Add slowly: Green tea' }).click({ noWaitAfter: true })
    await slow
    await other.getByRole('button', { name: 'Add Porcelain cup', exact: true }).click()
    await other.locator('#count-cup', { hasText: '1' }).waitFor()
    await device.page.locator('#count-tea', { hasText: '1' }).waitFor()
    expect(await device.page.locator('#count-cup').innerText()).to.equal('1')
    await other.reload()
    expect(await other.locator('.count').allInnerTexts()).to.deep.equal(['1', '1', '0'])
  })

  it('says whether a session came from memory or from PostgreSQL', async () => {
    const device = await open()
    await device.signIn(urls[0], user)
    const { page } = device
    expect(await footer(page).innerText()).to.match(/Your session came from memory in [\d.]+\sms/)
    await page.getByRole('link', { name: 'See this page on instance 2' }).click()
    await page.getByRole('heading', { name: `Hello, ${user}` }).waitFor()
    expect(await footer(page).innerText()).to.match(
      /instance 2 .* Your session came from PostgreSQL in [\d.]+\sms/,
    )
  })

  it('asks for the password again when the confirmation has expired, and in another browser', async () => {
    const [first, second] = [await open(laptop), await open(phone)]
    const { page } = first
    await page.clock.install()
    await first.signIn(urls[0], user)
    await page.getByRole('link', { name: 'Codes' }).click()
    await page.getByLabel('Password').fill('koa')
    await page.getByRole('button', { name: 'Confirm' }).click()
    await page.getByText('hidden again in').waitFor()
    expect(await page.getByRole('listitem').count()).to.equal(3)

    await second.signIn(urls[0], user)
    await second.page.goto(`${urls[1]}/codes`)
    expect(await second.page.getByRole('listitem').count()).to.equal(0)

    // A minute later, without waiting for it.
    await sql(
      databaseUrl,
      `update session set session = jsonb_set(session::jsonb, '{confirmedAt,~expires}', '0') where user_id = '${user}'`,
    )
    const { request } = page.context()
    await until(async () => !(await (await request.get(`${urls[0]}/codes`)).text()).includes('class="codes"'))
    await page.clock.fastForward(61_000)
    await page.getByLabel('Password').waitFor()
    expect(await page.getByRole('listitem').count()).to.equal(0)
    await page.getByRole('link', { name: 'Account' }).click()
    await page.getByRole('heading', { name: `Hello, ${user}` }).waitFor()
  })
})

describe('the example application in a browser, while the database is away', () => {
  it('asks to try again, signs nobody out, and tells of sign-outs afterwards', async () => {
    const database = await ownServer()
    const example = await startExample({ DATABASE_URL: database.url })
    try {
      const [url, otherUrl] = example.urls as [string, string]
      const [first, second] = [await open(laptop), await open(phone)]
      const { page } = first
      await first.signIn(url, 'Ann')
      await second.signIn(otherUrl, 'Ann')
      const cookies = await page.context().cookies()

      await database.kill()
      const response = await page.goto(`${url}/cart`)
      expect(response?.status()).to.equal(503)
      expect(Number(response?.headers()['retry-after'])).to.be.above(0)
      await page.getByRole('link', { name: 'Try again' }).click()
      await page.getByRole('heading', { name: 'Back in a moment' }).waitFor()
      expect(await page.getByLabel('Password').count()).to.equal(0)
      expect(await page.context().cookies()).to.deep.equal(cookies)

      await database.start()
      await until(async () => (await page.context().request.get(`${url}/cart`)).status() === 200)
      await page.getByRole('link', { name: 'Try again' }).click()
      await page.getByRole('heading', { name: 'Your cart' }).waitFor()
      // Open since before the outage.
      expect(await signedOut(second.page).isVisible()).to.equal(false)
      await page.goto(url)
      await page.getByRole('button', { name: 'Sign out all others' }).click()
      await signedOut(second.page).waitFor()

      const expected = /status of 503/
      expect(devices.flatMap(({ errors }) => errors).filter((error) => !expected.test(error))).to.deep.equal(
        [],
      )
    } finally {
      for (const device of devices.splice(0)) await device.close()
      await example.stop()
      await database.stop()
    }
  })
})
