// An application on a free port, and a browser that keeps its cookies.
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Served {
  readonly url: string
  stop(): Promise<void>
}

/** Serves a Koa application of any generation. */
export async function listen(app: { callback(): RequestListener }): Promise<Served> {
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

/** What the server answered. */
export interface Answer {
  readonly status: number
  readonly text: string
  readonly headers: Headers
  /** The `Set-Cookie` headers, one by one. */
  readonly setCookie: string[]
}

/** Keeps the cookies of one person. They are for all ports of the machine, as in a real browser. */
export class Browser {
  readonly cookies: Map<string, string>

  constructor(cookies: Iterable<[string, string]> = []) {
    this.cookies = new Map(cookies)
  }

  /** A browser with the same cookies, that no answer to this one changes: what a thief or another tab would have. */
  copy(): Browser {
    return new Browser(this.cookies)
  }

  async get(url: string, headers: Record<string, string> = {}): Promise<Answer> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(url, { headers: { ...(cookie && { cookie }), ...headers } })
    const setCookie = response.headers.getSetCookie()
    for (const header of setCookie) this.#keep(header)
    return { status: response.status, text: await response.text(), headers: response.headers, setCookie }
  }

  #keep(header: string): void {
    const [pair = '', ...attributes] = header.split('; ')
    const [, name = '', value = ''] = /^([^=]*)=(.*)$/s.exec(pair) ?? []
    const expires = attributes.find((attribute) => attribute.startsWith('expires='))?.slice('expires='.length)
    if (expires !== undefined && Date.parse(expires) <= Date.now()) this.cookies.delete(name)
    else this.cookies.set(name, value)
  }
}
