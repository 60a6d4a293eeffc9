// The page of the cart.
import type { Context } from 'koa'
import { type Html, html } from './html.js'
import { sendUserPage } from './layout.js'

interface Row {
  readonly id: string
  readonly name: string
  readonly count: number
}

export function cartPage(ctx: Context, rows: Row[]): void {
  sendUserPage(
    ctx,
    'Your cart',
    html`<section>
      <h1>Your cart</h1>
      <ul class="rows">${rows.map(row)}</ul>
    </section>
    <section>
      <h2>Change it in two tabs at once</h2>
      <p>Open this page in two tabs, or on both instances. Choose <em>Add slowly</em> in one and, within three seconds, add
        another article in the other. Both requests have loaded the same session, and both changes are kept.</p>
    </section>`,
  )
}

function row({ id, name, count }: Row): Html {
  return html`
        <li>
          <strong class="name">${name}</strong>
          <span class="count" id="count-${id}">${count}</span>
          <form class="buttons" method="post" action="/cart/${id}">
            <button class="plain" name="change" value="remove" aria-label="Remove ${name}">Remove</button>
            <button class="plain" name="change" value="add" aria-label="Add ${name}">Add</button>
            <button class="plain" name="change" value="add-slowly" aria-label="Add slowly: ${name}">Add slowly</button>
          </form>
        </li>`
}
