// The stylesheet of all pages, light and dark, for phones and desktops.
import { createHash } from 'node:crypto'

export const style = `
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
  margin: 0; min-height: 100vh; padding: 1.5rem clamp(1rem, 4vw, 1.5rem); display: grid; gap: 1rem;
  grid-template-columns: minmax(0, 38rem); place-content: center;
  background: var(--page); color: var(--text);
  font: 1.0625rem/1.6 system-ui, -apple-system, 'Segoe UI', sans-serif;
}
body:has(> header) { align-content: start; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem 1.25rem; }
header nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; flex: 1; }
header a { padding: .375rem 0; color: var(--quiet); text-decoration: none; }
header a:hover { color: var(--text); text-decoration: underline; }
header a[aria-current] { color: var(--text); font-weight: 600; box-shadow: inset 0 -2px var(--accent); }
main { display: grid; gap: 1rem; }
section {
  padding: clamp(1.25rem, 5vw, 2rem); border: 1px solid var(--line); border-radius: 14px;
  background: var(--card); box-shadow: 0 1px 2px rgb(0 0 0 / .04), 0 12px 32px rgb(0 0 0 / .06);
}
section > :last-child { margin-bottom: 0; }
h1 { margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 0 0 .25rem; font-size: 1.1875rem; line-height: 1.35; font-weight: 650; }
p { margin: 0 0 1rem; }
form { margin: 0; }
label { display: block; margin: 1rem 0 .375rem; font-weight: 600; }
input {
  width: 100%; padding: .625rem .75rem; border: 1px solid var(--quiet); border-radius: 8px;
  background: var(--card); color: inherit; font: inherit;
}
input[aria-invalid] { border-color: var(--problem); }
button, a.button {
  display: inline-block; padding: .5rem 1.125rem; border: 1px solid transparent; border-radius: 8px; cursor: pointer;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; text-decoration: none;
}
button:hover, a.button:hover { background: var(--accent-hover); }
button.plain { border-color: var(--line); background: var(--card); color: var(--accent); }
button.plain:hover { border-color: var(--accent); }
.actions { margin: 1.25rem 0 0; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
pre {
  margin: .75rem 0 0; padding: 1rem; border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  background: var(--well); font: .875rem/1.55 ui-monospace, 'Cascadia Mono', Menlo, Consolas, monospace;
}
summary { cursor: pointer; font-weight: 600; }
ul.rows { margin: 0; padding: 0; list-style: none; }
ul.rows > li {
  display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1rem; padding: .875rem 0;
  border-top: 1px solid var(--line);
}
ul.rows > li:first-child { border-top: 0; }
ul.rows > li:last-child { padding-bottom: 0; }
.name { flex: 1 1 9rem; line-height: 1.45; }
.name strong { display: block; font-weight: 600; overflow-wrap: anywhere; }
.count { min-width: 2.5rem; font-variant-numeric: tabular-nums; text-align: right; }
.buttons { display: flex; flex-wrap: wrap; gap: .5rem; }
.buttons button, header button { padding: .375rem .625rem; font-size: .9375rem; }
.quiet { color: var(--quiet); }
.badge {
  display: inline-block; padding: 0 .5rem; border: 1px solid currentcolor; border-radius: 99px;
  color: var(--accent); font-size: .8125rem; font-weight: 600;
}
.problem { margin: .375rem 0 0; color: var(--problem); }
ol.codes { margin: 0 0 1.25rem; padding-left: 2.25rem; font: 1.0625rem/1.9 ui-monospace, 'Cascadia Mono', Menlo, Consolas, monospace; }
footer { padding: 0 .25rem; color: var(--quiet); font-size: .9375rem; }
footer p { margin: 0; }
dialog {
  width: min(26rem, calc(100vw - 2rem)); padding: clamp(1.25rem, 5vw, 2rem); border: 1px solid var(--line);
  border-radius: 14px; background: var(--card); color: var(--text);
}
dialog::backdrop { background: rgb(0 0 0 / .55); }
dialog > :last-child { margin-bottom: 0; }
`

/** For the Content-Security-Policy. */
export const styleDigest = createHash('sha256').update(style).digest('base64')
