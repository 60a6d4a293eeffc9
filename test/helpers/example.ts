// The example application, started as `npm start` does, in child processes.
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { until } from './until.js'

const program = fileURLToPath(new URL('../../examples/app/start.js', import.meta.url))
const running = new Set<ChildProcess>()

export class Example {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  output = ''
  errors = ''

  constructor(env: Record<string, string> = {}) {
    this.child = spawn(process.execPath, [program], {
      env: { ...process.env, NODE_OPTIONS: '', DATABASE_URL: '', KEYS: '', PORT: '0', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    running.add(this.child)
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.output += text
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text
    })
    this.ended = new Promise((resolve) => {
      this.child.once('close', (code) => {
        running.delete(this.child)
        resolve(code)
      })
    })
  }

  /** The addresses of the instances that it printed. */
  get urls(): string[] {
    return [...this.output.matchAll(/^Instance \d: (http\S+) \(process \d+\)$/gm)].map(([, url]) => url ?? '')
  }

  /** The process ids of the instances. */
  get pids(): number[] {
    return [...this.output.matchAll(/^Instance \d: http\S+ \(process (\d+)\)$/gm)].map(([, pid]) =>
      Number(pid),
    )
  }

  /** The PostgreSQL folder that it printed. */
  get folder(): string {
    return /PostgreSQL of its own in ([^;]+);/.exec(this.output)?.[1] ?? ''
  }

  /** The process id of the PostgreSQL that it started. */
  get postmaster(): number {
    return Number(readFileSync(join(this.folder, 'data', 'postmaster.pid'), 'utf8').split('\n')[0])
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal)
    return this.ended
  }
}

/** Resolves when both instances have printed their addresses. */
export async function startExample(env: Record<string, string> = {}): Promise<Example> {
  const example = new Example(env)
  await until(() => example.urls.length === 2 || example.child.exitCode !== null)
  if (example.urls.length < 2)
    throw new Error(`the example exited with ${await example.ended}: ${example.errors}`)
  return example
}

/** For a hook that runs after all tests: ends what a failed test has left. */
export function killExamples(): void {
  for (const child of running) child.kill('SIGKILL')
}

/** A browser that keeps cookies and doesn't follow redirects. */
export class Visitor {
  readonly cookies: Map<string, string>
  readonly url: string

  constructor(url = '', cookies = new Map<string, string>()) {
    this.url = url
    this.cookies = cookies
  }

  /** Returns another browser with a copy of the cookies. */
  copy(): Visitor {
    return new Visitor(this.url, new Map(this.cookies))
  }

  visit(path = '/'): Promise<{ status: number; text: string; headers: Headers }> {
    return this.#send(path, { method: 'GET' })
  }

  send(path: string, form: Record<string, string> = {}, headers: Record<string, string> = {}) {
    return this.#send(path, { method: 'POST', body: new URLSearchParams(form), headers })
  }

  signIn(name: string, password = 'koa') {
    return this.send('/sign-in', { name, password })
  }

  /** The same browser at another instance: browsers send cookies to all ports of a host. */
  at(url: string): Visitor {
    return new Visitor(url, this.cookies)
  }

  /** Opens a page's connection for events. `until` resolves when it has received a text that it hadn't before. */
  async events(): Promise<{ until(text: string): Promise<void> }> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const { body } = await fetch(`${this.url}/events`, { headers: { cookie } })
    const reader = (body ?? new Blob([]).stream()).pipeThrough(new TextDecoderStream()).getReader()
    let received = ''
    const until = async (text: string): Promise<void> => {
      while (!received.includes(text)) {
        const { done, value } = await reader.read()
        if (done) throw new Error(`the events ended without ${text}: ${received}`)
        received += value
      }
      received = received.slice(received.indexOf(text) + text.length)
    }
    await until('retry: 1000')
    return { until }
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
