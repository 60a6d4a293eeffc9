// The first page of a user who is signed in.
import type { Context } from 'koa'
import { currentUser } from '../authentication.js'
import { type Html, html } from './html.js'
import { type Instance, sendUserPage } from './layout.js'

export interface ListedSession {
  readonly handle: string
  readonly device: string
  readonly createdAt: Date | undefined
  readonly lastAccessedAt: Date | undefined
  readonly isCurrent: boolean
}

export function accountPage(ctx: Context, sessions: ListedSession[]): void {
  const { name } = currentUser(ctx)
  sendUserPage(
    ctx,
    `Hello, ${name}`,
    html`<section>
      <h1>Hello, <bdi>${name}</bdi></h1>
      <p>Sign in with the same name in another browser or in a private window, at any of the instances, and watch the list.</p>
    </section>
    <section id="sessions" aria-labelledby="sessions-title">${sessionList(sessions)}</section>
    ${(ctx.state.instance as Instance).stopDatabase && outageCard}
    <section>
      <details>
        <summary>What your session holds</summary>
        <pre tabindex="0">${JSON.stringify(ctx.session, null, 2)}</pre>
      </details>
    </section>`,
  )
}

/** The content of the card, which the page's script loads again when it has changed. */
export function sessionList(sessions: ListedSession[]): Html {
  return html`
      <h2 id="sessions-title">Where you are signed in</h2>
      <ul class="rows">${sessions.map(row)}</ul>
      ${
        sessions.length > 1 &&
        html`<form class="actions" method="post" action="/sessions/sign-out-others">
        <button id="sign-out-others">Sign out all others</button>
      </form>`
      }`
}

function row({ handle, device, createdAt, lastAccessedAt, isCurrent }: ListedSession): Html {
  return html`
        <li>
          <div class="name">
            <strong>${device}</strong>
            <span class="quiet">Signed in ${ago(createdAt)}, last used ${isCurrent ? 'now' : ago(lastAccessedAt)}</span>
          </div>
          ${
            isCurrent
              ? html`<span class="badge">This device</span>`
              : html`<form class="buttons" method="post" action="/sessions/${handle}/sign-out">
            <button class="plain" id="sign-out-${handle}" aria-label="Sign out ${device}">Sign out</button>
          </form>`
          }
        </li>`
}

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })

/** The store knows the last access to within a minute, the default of its option `touch.interval`. */
function ago(date: Date | undefined): string {
  if (!date) return 'some time ago'
  const minutes = Math.floor((Date.now() - date.getTime()) / 60_000)
  if (minutes < 1) return 'just now'
  if (minutes < 60) return relative.format(-minutes, 'minute')
  if (minutes < 24 * 60) return relative.format(-Math.floor(minutes / 60), 'hour')
  return relative.format(-Math.floor(minutes / 60 / 24), 'day')
}

const outageCard = html`<section>
      <h2>Without its database</h2>
      <p>See what happens while PostgreSQL is away. You stay signed in.</p>
      <form method="post" action="/stop-database">
        <input type="hidden" name="seconds" value="10">
        <button class="plain">Stop PostgreSQL for 10 seconds</button>
      </form>
    </section>`
