// The HTML pages of the example application.
import { createHash } from 'node:crypto'

const style = `
:root {
  color-scheme: light dark;
  --page: #f4f2ee; --card: #ffffff; --text: #23272b; --quiet: #5c646b; --line: #dcd8d0;
  --accent: #23607a; --on-accent: #ffffff; --accent-hover: #1a4b60; --problem: #a3291f; --well: #f7f5f1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16191c; --card: #1f2428; --text: #e6e4df; --quiet: #a3aab0; --line: #383f45;
    --accent: #8cc5dc; --on-accent: #10242d; --accent-hover: #a9d6e8; --problem: #ff9d92; --well: #171b1e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; min-height: 100vh; padding: 1.5rem; display: grid; grid-template-columns: minmax(0, 32rem);
  place-content: center;
  background: var(--page); color: var(--text);
  font: 1.0625rem/1.6 system-ui, -apple-system, 'Segoe UI', sans-serif;
}
main {
  padding: clamp(1.25rem, 6vw, 2.25rem); border: 1px solid var(--line); border-radius: 14px;
  background: var(--card); box-shadow: 0 1px 2px rgb(0 0 0 / .04), 0 12px 32px rgb(0 0 0 / .06);
}
h1 { margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 1.75rem 0 .5rem; font-size: .9375rem; font-weight: 600; color: var(--quiet); }
p { margin: 0 0 1rem; }
form { margin: 1.5rem 0 0; }
label { display: block; margin-bottom: .375rem; font-weight: 600; }
input {
  width: 100%; padding: .625rem .75rem; border: 1px solid var(--quiet); border-radius: 8px;
  background: var(--card); color: inherit; font: inherit;
}
input[aria-invalid] { border-color: var(--problem); }
button {
  margin-top: 1rem; padding: .625rem 1.25rem; border: 0; border-radius: 8px; cursor: pointer;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600;
}
button:hover { background: var(--accent-hover); }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
pre {
  margin: 0; padding: 1rem; border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  background: var(--well); font: .875rem/1.55 ui-monospace, 'Cascadia Mono', Menlo, Consolas, monospace;
}
main > :last-child { margin-bottom: 0; }
.quiet { color: var(--quiet); }
.problem { margin: .375rem 0 0; color: var(--problem); }
`

const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#23607a"/></svg>`

/** Allows only this stylesheet and icon, so that markup in a name would be harmless even if it weren't escaped. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'`,
  'img-src data:',
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')

export function signInPage(name = '', problem = ''): string {
  const message = problem && `<p class="problem" id="problem" role="alert">${escapeHtml(problem)}</p>`
  return page(
    'Sign in',
    `<h1>Sign in</h1>
    <p class="quiet">Any name will do. It is kept in your session, and the session in PostgreSQL.</p>
    <form method="post" action="/sign-in">
      <label for="name">Your name</label>
      <input id="name" name="name" value="${escapeHtml(name)}" maxlength="50" required autofocus
        autocomplete="nickname"${problem && ' aria-invalid="true" aria-describedby="problem"'}>
      ${message}
      <button>Sign in</button>
    </form>`,
  )
}

export function welcomePage(name: string, visits: number, session: object): string {
  return page(
    `Hello, ${name}`,
    `<h1>Hello, <bdi>${escapeHtml(name)}</bdi></h1>
    <p>${visits === 1 ? 'This is your first visit' : `You have been here ${visits} times`} in this session.</p>
    <h2 id="holds">What your session holds</h2>
    <pre tabindex="0" role="region" aria-labelledby="holds">${escapeHtml(JSON.stringify(session, null, 2))}</pre>
    <form method="post" action="/sign-out">
      <button>Sign out</button>
    </form>`,
  )
}

export function problemPage(title: string, explanation = ''): string {
  return page(
    title,
    `<h1>${escapeHtml(title)}</h1>
    ${explanation && `<p>${escapeHtml(explanation)}</p>`}
    <p><a href="/">To the first page</a></p>`,
  )
}

function page(title: string, content: string): string {
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>${escapeHtml(title)}</title>
    <link rel="icon" href="data:image/svg+xml,${encodeURIComponent(icon)}">
    <style>${style}</style>
  </head>
  <body>
    <main>
    ${content}
    </main>
  </body>
</html>
`
}

const entities: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character)
}
