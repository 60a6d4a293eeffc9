// Browsers for the tests: Chromium from CHROMIUM or Debian, with a context for each device.
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import './dom.js'

export const laptop: BrowserContextOptions = {
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0',
  viewport: { width: 800, height: 600 },
}

export const phone: BrowserContextOptions = {
  userAgent:
    'Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1',
  viewport: { width: 360, height: 740 },
}

export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // Chromium refuses to run as root, as in containers, with its sandbox.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  })
}

/** A browser of a user, with cookies of its own. */
export class Device {
  readonly page: Page
  /** Errors of all its pages: exceptions, and what the console shows, such as violations of the content security policy. */
  readonly errors: string[] = []

  private constructor(page: Page) {
    this.page = page
    this.#watch(page)
  }

  static async open(browser: Browser, options: BrowserContextOptions): Promise<Device> {
    const context = await browser.newContext(options)
    return new Device(await context.newPage())
  }

  /** Opens another tab. */
  async tab(url: string): Promise<Page> {
    const page = await this.page.context().newPage()
    this.#watch(page)
    await page.goto(url)
    return page
  }

  async signIn(url: string, name: string): Promise<void> {
    await this.page.goto(url)
    await this.page.getByLabel('Your name').fill(name)
    await this.page.getByLabel('Password').fill('koa')
    await this.page.getByRole('button', { name: 'Sign in' }).click()
    await this.page.getByRole('heading', { name: `Hello, ${name}` }).waitFor()
    await hasEvents(this.page)
  }

  async close(): Promise<void> {
    await this.page.context().close()
  }

  #watch(page: Page): void {
    page.on('pageerror', (error) => this.errors.push(String(error)))
    page.on('console', (message) => {
      if (message.type() === 'error') this.errors.push(`${message.text()} (${message.location().url})`)
    })
  }
}

/** Waits until the page receives events. */
export async function hasEvents(page: Page): Promise<void> {
  await page.locator('html[data-events="open"]').waitFor({ state: 'attached' })
}
