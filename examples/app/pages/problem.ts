// The pages that say what went wrong.
import type { Context } from 'koa'
import { html } from './html.js'
import { sendPage } from './layout.js'

export function problemPage(ctx: Context, title: string, explanation: string): void {
  sendPage(
    ctx,
    title,
    html`<section>
      <h1>${title}</h1>
      ${explanation && html`<p>${explanation}</p>`}
      <p><a href="/">To the first page</a></p>
    </section>`,
  )
}

/** The user is still signed in, so this page must not look as if they weren't. */
export function outagePage(ctx: Context): void {
  const isForm = ctx.method === 'POST'
  sendPage(
    ctx,
    'Back in a moment',
    html`<section>
      <h1>Back in a moment</h1>
      <p>Your session can't be reached at the moment. If you were signed in, you still are. Please try again.</p>
      ${isForm && html`<p>What you have just sent may not have been saved.</p>`}
      <p class="actions"><a class="button" href="${isForm ? '/' : ctx.path}">Try again</a></p>
    </section>`,
  )
}
