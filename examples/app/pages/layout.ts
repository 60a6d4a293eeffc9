// The frame of every page: navigation, footer, and the message that the user has been signed out.
import type { Context } from 'koa'
import type { SessionRead } from '../read-times.js'
import { Html, html } from './html.js'
import { style } from './style.js'

/** What the pages show of the process that answers. */
export interface Instance {
  readonly number: number
  readonly port: number
  /** The ports of all instances, this one's included. */
  readonly ports: number[]
  /** Stops PostgreSQL for some seconds; missing if it is not the example's own. */
  readonly stopDatabase: ((seconds: number) => void) | undefined
}

const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#23607a"/></svg>`
/** Not by the template tag, which would escape the quotes. */
const styleElement = new Html(`<style>${style}</style>`)
const iconUrl = `data:image/svg+xml,${encodeURIComponent(icon)}`

/** Answers with a page for visitors, without navigation. */
export function sendPage(ctx: Context, title: string, content: Html): void {
  ctx.type = 'html'
  ctx.body = String(layout(ctx, title, html`<main>${content}</main>`))
}

/** Answers with a page for the user who is signed in. */
export function sendUserPage(ctx: Context, title: string, content: Html): void {
  ctx.type = 'html'
  ctx.body = String(
    layout(
      ctx,
      title,
      html`<header>
      <nav aria-label="Pages">${pages.map(({ path, name }) => link(ctx, path, name))}</nav>
      <form method="post" action="/sign-out"><button class="plain">Sign out</button></form>
    </header>
    <main>${content}</main>
    ${signedOutDialog}
    <script type="module" src="/live.js"></script>`,
    ),
  )
}

const pages = [
  { path: '/', name: 'Account' },
  { path: '/cart', name: 'Cart' },
  { path: '/codes', name: 'Codes' },
]

function link(ctx: Context, path: string, name: string): Html {
  return html`<a href="${path}"${ctx.path === path && html` aria-current="page"`}>${name}</a>`
}

const signedOutDialog = html`<dialog id="signed-out" aria-labelledby="signed-out-title">
      <h2 id="signed-out-title">You have been signed out</h2>
      <p>In another tab, or from another device. Nothing that you do on this page would be saved.</p>
      <p><a class="button" href="/">Sign in again</a></p>
    </dialog>`

function layout(ctx: Context, title: string, content: Html): Html {
  return html`<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>${title}</title>
    <link rel="icon" href="${iconUrl}">
    ${styleElement}
  </head>
  <body>
    ${content}
    <footer>${origin(ctx)}</footer>
  </body>
</html>
`
}

/** Says which instance has answered, and where it had the session from. */
function origin(ctx: Context): Html {
  const { number, port, ports } = ctx.state.instance as Instance
  const read = ctx.state.sessionRead as SessionRead | undefined
  const path = ctx.method === 'GET' ? ctx.path : '/'
  const others = ports.map((port, n) => ({ port, number: n + 1 })).filter((other) => other.number !== number)
  return html`<p>Answered by instance ${number} on port ${port}.
      ${
        read &&
        html`Your session came from ${read.isFromMemory ? 'memory' : 'PostgreSQL'} in ${read.ms.toFixed(read.ms < 1 ? 2 : 1)}&nbsp;ms.`
      }
      ${others.map(
        (other) =>
          html`<a href="http://${ctx.hostname}:${other.port}${path}">See this page on instance ${other.number}</a>`,
      )}</p>`
}
