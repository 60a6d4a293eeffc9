// The example application and the PostgreSQL that it starts, in child processes.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { rejection } from '../helpers/rejection.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'
import { startPostgres } from '../support/postgres/server.js'

const program = fileURLToPath(new URL('../../examples/app/start.js', import.meta.url))
const children = new Set<ChildProcess>()

class App {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  output = ''
  errors = ''

  constructor(env: Record<string, string>) {
    this.child = spawn(process.execPath, [program], {
      env: { ...process.env, NODE_OPTIONS: '', DATABASE_URL: '', KEYS: '', PORT: '0', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.add(this.child)
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.output += text
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text
    })
    this.ended = new Promise((resolve) => {
      this.child.once('close', (code) => {
        children.delete(this.child)
        resolve(code)
      })
    })
  }

  /** The address that it printed. */
  get url(): string {
    return /^Listening on (\S+)$/m.exec(this.output)?.[1] ?? ''
  }

  /** The PostgreSQL folder that it printed. */
  get folder(): string {
    return /PostgreSQL of its own in ([^;]+);/.exec(this.output)?.[1] ?? ''
  }

  /** The process id of the PostgreSQL that it started. */
  get postmaster(): number {
    return Number(readFileSync(join(this.folder, 'data', 'postmaster.pid'), 'utf8').split('\n')[0])
  }
}

async function startApp(env: Record<string, string> = {}): Promise<App> {
  const app = new App(env)
  await until(() => app.url !== '' || app.child.exitCode !== null)
  if (app.url === '') throw new Error(`the application exited with ${await app.ended}: ${app.errors}`)
  return app
}

/** A browser that keeps cookies and doesn't follow redirects. */
class Browser {
  readonly cookies: Map<string, string>
  readonly url: string

  constructor(url: string, cookies: Iterable<[string, string]> = []) {
    this.url = url
    this.cookies = new Map(cookies)
  }

  visit(path = '/'): Promise<{ status: number; text: string; headers: Headers }> {
    return this.#send(path, { method: 'GET' })
  }

  send(path: string, form: Record<string, string> = {}, headers: Record<string, string> = {}) {
    return this.#send(path, { method: 'POST', body: new URLSearchParams(form), headers })
  }

  signIn(name: string) {
    return this.send('/sign-in', { name })
  }

  async #send(path: string, init: RequestInit) {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const headers = { ...init.headers, ...(cookie && { cookie }) }
    const response = await fetch(this.url + path, { ...init, headers, redirect: 'manual' })
    for (const header of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(header) ?? []
      if (/expires=Thu, 01 Jan 1970/.test(header)) this.cookies.delete(name)
      else this.cookies.set(name, value)
    }
    return { status: response.status, text: await response.text(), headers: response.headers }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

after(async () => {
  for (const child of children) child.kill('SIGKILL')
})

describe('the example application', () => {
  let app: App
  let browser: Browser

  before(async () => {
    app = await startApp()
  })

  beforeEach(() => {
    browser = new Browser(app.url)
  })

  after(async () => {
    app.child.kill()
    await app.ended
  })

  it('prints where it has started a PostgreSQL, and how to use another one', () => {
    expect(app.output).to.match(/^Started a PostgreSQL of its own in \S+; the sessions end with it\.$/m)
    expect(app.output).to.include('set DATABASE_URL')
  })

  it('asks for a name, and sets no cookie before it has one', async () => {
    const { status, text } = await browser.visit()
    expect(status).to.equal(200)
    expect(text)
      .to.match(/^<!doctype html>/)
      .and.to.include('<label for="name">')
    expect(browser.cookies).to.have.property('size', 0)
  })

  it('greets a user who has signed in, counts the visits and shows the session', async () => {
    const { status, headers } = await browser.signIn('  Ann ')
    expect(status).to.equal(303)
    expect(headers.get('location')).to.equal('/')
    expect((await browser.visit()).text)
      .to.include('<bdi>Ann</bdi>')
      .and.include('your first visit')
    expect((await browser.visit()).text)
      .to.include('You have been here 2 times')
      .and.include('&quot;name&quot;: &quot;Ann&quot;')
      .and.include('&quot;visits&quot;: 2')
  })

  it('gives two users different sessions', async () => {
    const other = new Browser(app.url)
    await browser.signIn('Ann')
    await other.signIn('Bob')
    expect((await browser.visit()).text).to.include('<bdi>Ann</bdi>')
    expect((await other.visit()).text).to.include('<bdi>Bob</bdi>')
  })

  it('escapes markup in a name', async () => {
    await browser.signIn(`<script>alert("1")</script>&'`)
    const { text } = await browser.visit()
    expect(text).to.include('&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;')
    expect(text).not.to.include('<script')
  })

  it('allows browsers to load nothing but its own stylesheet', async () => {
    const { text, headers } = await browser.visit()
    const [, style = ''] = /<style>(.*)<\/style>/s.exec(text) ?? []
    const digest = createHash('sha256').update(style).digest('base64')
    expect(headers.get('content-security-policy'))
      .to.include("default-src 'none'")
      .and.include(`style-src 'sha256-${digest}'`)
  })

  for (const [what, name] of [
    ['an empty name', ''],
    ['a name of spaces', '   '],
    ['a name of 51 characters', 'x'.repeat(51)],
  ] as const) {
    it(`asks again for ${what}`, async () => {
      const { status, text } = await browser.signIn(name)
      expect(status).to.equal(422)
      expect(text).to.include('role="alert"').and.include('<form method="post" action="/sign-in">')
      expect(browser.cookies).to.have.property('size', 0)
    })
  }

  it('accepts a name of 50 characters', async () => {
    expect((await browser.signIn('x'.repeat(50))).status).to.equal(303)
  })

  it('creates a new session id at every sign-in', async () => {
    await browser.signIn('Ann')
    const planted = new Browser(app.url, browser.cookies)
    await browser.signIn('Bob')
    expect(browser.cookies.get('koa.sid')).not.to.equal(planted.cookies.get('koa.sid'))
    expect((await planted.visit()).text).to.include('<h1>Sign in</h1>')
    expect((await browser.visit()).text).to.include('<bdi>Bob</bdi>')
  })

  it('destroys the session at sign-out: the old cookie is worth nothing', async () => {
    await browser.signIn('Ann')
    await browser.visit()
    const copy = new Browser(app.url, browser.cookies)
    expect((await browser.send('/sign-out')).status).to.equal(303)
    expect(browser.cookies).to.have.property('size', 0)
    expect((await browser.visit()).text).to.include('<h1>Sign in</h1>')
    expect((await copy.visit()).text).to.include('<h1>Sign in</h1>')
  })

  it('refuses a form from another site', async () => {
    await browser.signIn('Ann')
    for (const origin of ['http://elsewhere.example', 'null'])
      expect((await browser.send('/sign-out', {}, { origin })).status).to.equal(403)
    expect((await browser.visit()).text).to.include('<bdi>Ann</bdi>')
    expect((await browser.send('/sign-out', {}, { origin: app.url })).status).to.equal(303)
  })

  it('responds with 404 to an unknown path', async () => {
    const { status, text } = await browser.visit('/sign-in')
    expect(status).to.equal(404)
    expect(text).to.include('There is no such page')
  })

  it('refuses a form that is too long', async () => {
    expect((await browser.signIn('x'.repeat(20_000))).status).to.equal(413)
  })
})

describe('stopping the example application', () => {
  it('by SIGTERM prints no error, stops its PostgreSQL and removes the folder', async () => {
    const app = await startApp()
    await new Browser(app.url).signIn('Ann')
    const { folder, postmaster } = app
    app.child.kill('SIGTERM')
    expect(await app.ended).to.equal(0)
    expect(app.errors).to.equal('')
    expect(isAlive(postmaster)).to.equal(false)
    expect(existsSync(folder)).to.equal(false)
  })

  it('by SIGKILL stops its PostgreSQL and removes the folder too', async () => {
    const app = await startApp()
    const { folder, postmaster } = app
    app.child.kill('SIGKILL')
    await until(() => !isAlive(postmaster) && !existsSync(folder))
  })
})

describe('the example application with DATABASE_URL', () => {
  it('keeps users signed in across a restart', async () => {
    const DATABASE_URL = await freshDatabase()
    const first = await startApp({ DATABASE_URL })
    expect(first.output).to.include('Set KEYS').and.not.to.include('of its own in')
    const browser = new Browser(first.url)
    await browser.signIn('Ann')
    await browser.visit()
    first.child.kill()
    expect(await first.ended).to.equal(0)

    const second = await startApp({ DATABASE_URL })
    const { text } = await new Browser(second.url, browser.cookies).visit()
    expect(text).to.include('<bdi>Ann</bdi>').and.include('You have been here 2 times')
    second.child.kill()
    expect(await second.ended).to.equal(0)
  })

  it('signs cookies with KEYS', async () => {
    const DATABASE_URL = await freshDatabase()
    const app = await startApp({ DATABASE_URL, KEYS: 'one, two' })
    expect(app.output).not.to.include('Set KEYS')
    const browser = new Browser(app.url)
    await browser.signIn('Ann')
    expect((await browser.visit()).text).to.include('<bdi>Ann</bdi>')
    app.child.kill()
    expect(await app.ended).to.equal(0)
  })

  it('responds with 503 while the database is down, and recovers', async () => {
    const database = await ownServer()
    try {
      const app = await startApp({ DATABASE_URL: database.url })
      const browser = new Browser(app.url)
      await browser.signIn('Ann')
      await database.kill()
      for (const answer of [
        await browser.visit(),
        await browser.signIn('Bob'),
        await browser.send('/sign-out'),
      ]) {
        expect(answer.status).to.equal(503)
        expect(answer.text)
          .to.include('Please try again')
          .and.not.to.match(/ECONNREFUSED|\.js/)
      }
      await database.start()
      expect((await browser.visit()).text).to.include('<bdi>Ann</bdi>')
      app.child.kill()
      expect(await app.ended).to.equal(0)
    } finally {
      await database.stop()
    }
  })
})

describe('the example application with PORT', () => {
  it('reports a value that is not a port', async () => {
    const app = new App({ PORT: '70000' })
    expect(await app.ended).to.equal(1)
    expect(app.errors).to.match(/^PORT is "70000"; .*\n$/)
  })

  it('reports a port that is in use', async () => {
    const DATABASE_URL = await freshDatabase()
    const first = await startApp({ DATABASE_URL })
    const second = new App({ DATABASE_URL, PORT: new URL(first.url).port })
    expect(await second.ended).to.equal(1)
    expect(second.errors).to.match(/^Can't listen on port .*EADDRINUSE.* Set PORT to another\.\n$/)
    first.child.kill()
    await first.ended
  })
})

describe('startPostgres', () => {
  it('keeps data and port across kill() and start()', async () => {
    const database = await startPostgres()
    try {
      const { port, pid } = database
      await sql(database.url, 'create table kept as select 1 as n')
      await database.kill()
      expect(isAlive(pid)).to.equal(false)
      await database.start()
      expect(database.port).to.equal(port)
      expect(await sql(database.url, 'select n from kept')).to.deep.equal([{ n: 1 }])
    } finally {
      await database.stop()
    }
    await database.stop()
    expect(existsSync(database.folder)).to.equal(false)
  })

  it('says what to do if PostgreSQL can’t start', async () => {
    expect((await rejection(startPostgres({ bin: '/nowhere' }))).message)
      .to.include('/nowhere')
      .and.to.match(/Set DATABASE_URL to a PostgreSQL of your own instead\.$/)
    expect((await rejection(startPostgres({ settings: { nonsense: 'on' } }))).message)
      .to.include('"nonsense"')
      .and.to.match(/Set DATABASE_URL to a PostgreSQL of your own instead\.$/)
  })
})
