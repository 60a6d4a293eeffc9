// The recovery codes, and the page that asks for the password before it shows them.
import type { Context } from 'koa'
import { currentUser } from '../authentication.js'
import { html } from './html.js'
import { sendUserPage } from './layout.js'

const title = 'Recovery codes'
const codes = ['k7f2-9xqm-4tzd', 'w3hn-p8rc-6vjb', 'm5ye-2gsk-7dfa']

export function confirmPage(ctx: Context, problem = ''): void {
  sendUserPage(
    ctx,
    title,
    html`<section>
      <h1>${title}</h1>
      <p>Please confirm that it is you. This page then stays open for a minute, in this browser only.</p>
      <form method="post" action="/codes">
        <input type="hidden" name="name" value="${currentUser(ctx).name}" autocomplete="username">
        <label for="password">Password</label>
        <input id="password" name="password" type="password" required autofocus
          autocomplete="current-password"${problem && html` aria-invalid="true" aria-describedby="problem"`}>
        ${problem && html`<p class="problem" id="problem" role="alert">${problem}</p>`}
        <p class="actions"><button>Confirm</button></p>
      </form>
    </section>`,
  )
}

/** @param remainingMs How long the codes may be shown. */
export function codesPage(ctx: Context, remainingMs: number): void {
  sendUserPage(
    ctx,
    title,
    html`<section data-expires-in="${Math.ceil(remainingMs)}">
      <h1>${title}</h1>
      <p>They are hidden again in ${Math.ceil(remainingMs / 1000)} seconds. You stay signed in.</p>
      <ol class="codes">${codes.map((code) => html`<li>${code}</li>`)}</ol>
      <form method="post" action="/codes/hide"><button class="plain">Hide now</button></form>
    </section>`,
  )
}
