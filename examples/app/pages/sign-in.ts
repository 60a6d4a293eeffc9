// The page where visitors sign in.
import type { Context } from 'koa'
import { maxNameLength } from '../users.js'
import { html } from './html.js'
import { sendPage } from './layout.js'

export function signInPage(ctx: Context, name = '', problem = ''): void {
  const describedBy = problem && html` aria-invalid="true" aria-describedby="problem"`
  sendPage(
    ctx,
    'Sign in',
    html`<section>
      <h1>Sign in</h1>
      <p class="quiet">Any name will do, and the password is <code>koa</code>. Who you are is kept in your session, and the
        session in PostgreSQL.</p>
      <form method="post" action="/sign-in">
        <label for="name">Your name</label>
        <input id="name" name="name" value="${name}" maxlength="${maxNameLength}" required autofocus
          autocomplete="username"${describedBy}>
        <label for="password">Password</label>
        <input id="password" name="password" type="password" required autocomplete="current-password"${describedBy}>
        ${problem && html`<p class="problem" id="problem" role="alert">${problem}</p>`}
        <p class="actions"><button>Sign in</button></p>
      </form>
    </section>`,
  )
}
