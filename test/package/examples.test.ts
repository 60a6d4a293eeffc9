// The example application and the PostgreSQL that it starts, as processes of their own.
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

  /** The address it printed. */
  get url(): string {
    return /^Listening on (\S+)$/m.exec(this.output)?.[1] ?? ''
  }

  /** The folder it printed. */
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
  if (app.url === '') throw new Error(`it ended with ${await app.ended}: ${app.errors}`)
  return app
}

/** Somebody with a browser, which keeps cookies and doesn't follow redirects. */
class Person {
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
  let person: Person

  before(async () => {
    app = await startApp()
  })

  beforeEach(() => {
    person = new Person(app.url)
  })

  after(async () => {
    app.child.kill()
    await app.ended
  })

  it('says that it starts a PostgreSQL of its own, where, and how to use another', () => {
    expect(app.output).to.match(/^Started a PostgreSQL of its own in \S+; the sessions end with it\.$/m)
    expect(app.output).to.include('set DATABASE_URL')
  })

  it('asks for a name, and gives no cookie before there is one', async () => {
    const { status, text } = await person.visit()
    expect(status).to.equal(200)
    expect(text)
      .to.match(/^<!doctype html>/)
      .and.to.include('<label for="name">')
    expect(person.cookies).to.have.property('size', 0)
  })

  it('greets a person who has signed in, counts the visits and shows the session', async () => {
    const { status, headers } = await person.signIn('  Ann ')
    expect(status).to.equal(303)
    expect(headers.get('location')).to.equal('/')
    expect((await person.visit()).text)
      .to.include('<bdi>Ann</bdi>')
      .and.include('your first visit')
    expect((await person.visit()).text)
      .to.include('You have been here 2 times')
      .and.include('&quot;name&quot;: &quot;Ann&quot;')
      .and.include('&quot;visits&quot;: 2')
  })

  it('keeps two people apart', async () => {
    const other = new Person(app.url)
    await person.signIn('Ann')
    await other.signIn('Bob')
    expect((await person.visit()).text).to.include('<bdi>Ann</bdi>')
    expect((await other.visit()).text).to.include('<bdi>Bob</bdi>')
  })

  it('shows markup in a name as text', async () => {
    await person.signIn(`<script>alert("1")</script>&'`)
    const { text } = await person.visit()
    expect(text).to.include('&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;')
    expect(text).not.to.include('<script')
  })

  it('allows its own stylesheet and nothing else to be loaded', async () => {
    const { text, headers } = await person.visit()
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
      const { status, text } = await person.signIn(name)
      expect(status).to.equal(422)
      expect(text).to.include('role="alert"').and.include('<form method="post" action="/sign-in">')
      expect(person.cookies).to.have.property('size', 0)
    })
  }

  it('takes a name of 50 characters', async () => {
    expect((await person.signIn('x'.repeat(50))).status).to.equal(303)
  })

  it('gives a new session id at every sign-in', async () => {
    await person.signIn('Ann')
    const planted = new Person(app.url, person.cookies)
    await person.signIn('Bob')
    expect(person.cookies.get('koa.sid')).not.to.equal(planted.cookies.get('koa.sid'))
    expect((await planted.visit()).text).to.include('<h1>Sign in</h1>')
    expect((await person.visit()).text).to.include('<bdi>Bob</bdi>')
  })

  it('signs out, and the old cookie opens nothing', async () => {
    await person.signIn('Ann')
    await person.visit()
    const thief = new Person(app.url, person.cookies)
    expect((await person.send('/sign-out')).status).to.equal(303)
    expect(person.cookies).to.have.property('size', 0)
    expect((await person.visit()).text).to.include('<h1>Sign in</h1>')
    expect((await thief.visit()).text).to.include('<h1>Sign in</h1>')
  })

  it('refuses a form that another site sent', async () => {
    await person.signIn('Ann')
    for (const origin of ['http://elsewhere.example', 'null'])
      expect((await person.send('/sign-out', {}, { origin })).status).to.equal(403)
    expect((await person.visit()).text).to.include('<bdi>Ann</bdi>')
    expect((await person.send('/sign-out', {}, { origin: app.url })).status).to.equal(303)
  })

  it('says that there is no such page', async () => {
    const { status, text } = await person.visit('/sign-in')
    expect(status).to.equal(404)
    expect(text).to.include('There is no such page')
  })

  it('refuses a form that is too long', async () => {
    expect((await person.signIn('x'.repeat(20_000))).status).to.equal(413)
  })
})

describe('the end of the example application', () => {
  it('is quiet at SIGTERM, and that of its PostgreSQL and its folder', async () => {
    const app = await startApp()
    await new Person(app.url).signIn('Ann')
    const { folder, postmaster } = app
    app.child.kill('SIGTERM')
    expect(await app.ended).to.equal(0)
    expect(app.errors).to.equal('')
    expect(isAlive(postmaster)).to.equal(false)
    expect(existsSync(folder)).to.equal(false)
  })

  it('is that of its PostgreSQL and its folder, even when it is killed', async () => {
    const app = await startApp()
    const { folder, postmaster } = app
    app.child.kill('SIGKILL')
    await until(() => !isAlive(postmaster) && !existsSync(folder))
  })
})

describe('the example application with DATABASE_URL', () => {
  it('keeps people signed in over a restart', async () => {
    const DATABASE_URL = await freshDatabase()
    const first = await startApp({ DATABASE_URL })
    expect(first.output).to.include('Set KEYS').and.not.to.include('of its own in')
    const person = new Person(first.url)
    await person.signIn('Ann')
    await person.visit()
    first.child.kill()
    expect(await first.ended).to.equal(0)

    const second = await startApp({ DATABASE_URL })
    const { text } = await new Person(second.url, person.cookies).visit()
    expect(text).to.include('<bdi>Ann</bdi>').and.include('You have been here 2 times')
    second.child.kill()
    expect(await second.ended).to.equal(0)
  })

  it('signs cookies with KEYS', async () => {
    const DATABASE_URL = await freshDatabase()
    const app = await startApp({ DATABASE_URL, KEYS: 'one, two' })
    expect(app.output).not.to.include('Set KEYS')
    const person = new Person(app.url)
    await person.signIn('Ann')
    expect((await person.visit()).text).to.include('<bdi>Ann</bdi>')
    app.child.kill()
    expect(await app.ended).to.equal(0)
  })

  it('asks for patience while the database is down, and goes on when it is back', async () => {
    const database = await ownServer()
    try {
      const app = await startApp({ DATABASE_URL: database.url })
      const person = new Person(app.url)
      await person.signIn('Ann')
      await database.kill()
      for (const answer of [
        await person.visit(),
        await person.signIn('Bob'),
        await person.send('/sign-out'),
      ]) {
        expect(answer.status).to.equal(503)
        expect(answer.text)
          .to.include('Please try again')
          .and.not.to.match(/ECONNREFUSED|\.js/)
      }
      await database.start()
      expect((await person.visit()).text).to.include('<bdi>Ann</bdi>')
      app.child.kill()
      expect(await app.ended).to.equal(0)
    } finally {
      await database.stop()
    }
  })
})

describe('the example application with PORT', () => {
  it('says what is wrong with one that is none', async () => {
    const app = new App({ PORT: '70000' })
    expect(await app.ended).to.equal(1)
    expect(app.errors).to.match(/^PORT is "70000"; .*\n$/)
  })

  it('says that one is taken', async () => {
    const DATABASE_URL = await freshDatabase()
    const first = await startApp({ DATABASE_URL })
    const second = new App({ DATABASE_URL, PORT: new URL(first.url).port })
    expect(await second.ended).to.equal(1)
    expect(second.errors).to.match(/^Can't listen on port .*EADDRINUSE.* Set PORT to another\.\n$/)
    first.child.kill()
    await first.ended
  })
})

describe('a PostgreSQL of its own', () => {
  it('has its data and its port again after it was killed', async () => {
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

  it('says what to do where it cannot be', async () => {
    expect((await rejection(startPostgres({ bin: '/nowhere' }))).message)
      .to.include('/nowhere')
      .and.to.match(/Set DATABASE_URL to a PostgreSQL of your own instead\.$/)
    expect((await rejection(startPostgres({ settings: { nonsense: 'on' } }))).message)
      .to.include('"nonsense"')
      .and.to.match(/Set DATABASE_URL to a PostgreSQL of your own instead\.$/)
  })
})
