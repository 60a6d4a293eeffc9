// Tells open pages, by server-sent events, that their session has ended or that another session of the user was created or has
// ended. The script of pages/script.ts listens.
import { PassThrough } from 'node:stream'
import type { Context } from 'koa'
import type { Announcements } from './announcements.js'

interface OpenPage {
  readonly handle: string
  readonly userId: string
  readonly stream: PassThrough
}

/** Comments keep proxies from closing a connection that is silent. */
const keepAliveMs = 25_000

export class LivePages {
  readonly #pages = new Set<OpenPage>()
  readonly #keepAlive = setInterval(() => this.#write(this.#pages, ':\n\n'), keepAliveMs)

  constructor(announcements: Announcements) {
    announcements.on('announcement', ({ handle, userId, hasEnded }) => {
      const isOf = (page: OpenPage): boolean => page.handle === handle
      const pages = [...this.#pages].filter((page) => page.userId === userId)
      if (hasEnded) this.#send(pages.filter(isOf), 'ended')
      this.#send(
        pages.filter((page) => !isOf(page)),
        'changed',
      )
    })
    announcements.on('gap', () => this.#send(this.#pages, 'changed'))
  }

  /** Answers the request of a page. `session` is undefined if nobody is signed in. */
  open(ctx: Context, session: { handle: string; userId: string } | undefined): void {
    const stream = new PassThrough()
    ctx.type = 'text/event-stream'
    ctx.body = stream
    if (session) {
      const page = { ...session, stream }
      this.#pages.add(page)
      ctx.req.once('close', () => this.#pages.delete(page))
      // How long the browser waits before it connects again, in ms.
      stream.write('retry: 1000\n\n')
    } else stream.end('event: ended\ndata:\n\n')
  }

  /** Ends all responses, so that the server can close. */
  close(): void {
    clearInterval(this.#keepAlive)
    for (const { stream } of this.#pages) stream.end()
    this.#pages.clear()
  }

  #send(pages: Iterable<OpenPage>, event: 'ended' | 'changed'): void {
    this.#write(pages, `event: ${event}\ndata:\n\n`)
  }

  #write(pages: Iterable<OpenPage>, text: string): void {
    for (const { stream } of pages) stream.write(text)
  }
}
