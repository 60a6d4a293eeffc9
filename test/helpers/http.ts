// Serves an application on a free port, and visits it with a browser that keeps cookies.
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface RunningApp {
  readonly url: string
  stop(): Promise<void>
}

/** Serves a Koa application, of Koa 1 or 3. */
export async function listen(app: { callback(): RequestListener }): Promise<RunningApp> {
  const server = createServer(app.callback())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

export interface HttpResponse {
  readonly status: number
  readonly text: string
  readonly headers: Headers
  /** The `Set-Cookie` headers, one by one. */
  readonly setCookie: string[]
}

/** Keeps cookies, for all ports of the machine, as a real browser does. */
export class Browser {
  readonly cookies: Map<string, string>

  constructor(cookies: Iterable<[string, string]> = []) {
    this.cookies = new Map(cookies)
  }

  /** Returns a browser with the same cookies; responses to one don't change those of the other. */
  copy(): Browser {
    return new Browser(this.cookies)
  }

  async get(url: string, headers: Record<string, string> = {}): Promise<HttpResponse> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(url, { headers: { ...(cookie && { cookie }), ...headers } })
    const setCookie = response.headers.getSetCookie()
    for (const header of setCookie) this.#storeCookie(header)
    return { status: response.status, text: await response.text(), headers: response.headers, setCookie }
  }

  #storeCookie(header: string): void {
    const [pair = '', ...attributes] = header.split('; ')
    const [, name = '', value = ''] = /^([^=]*)=(.*)$/s.exec(pair) ?? []
    const expires = attributes.find((attribute) => attribute.startsWith('expires='))?.slice('expires='.length)
    if (expires !== undefined && Date.parse(expires) <= Date.now()) this.cookies.delete(name)
    else this.cookies.set(name, value)
  }
}
