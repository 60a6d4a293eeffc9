// Programs of docs/ that need more than two visits: the probes and the shutdown for Kubernetes, and requests from other sites.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { Browser } from '../helpers/http.js'
import { freshDatabase, sql } from '../helpers/server.js'

/** Serves the program of a page that has this text, with the database at `url`. */
async function serve(
  page: string,
  text: string,
  url: string,
  use: (site: string, child: ChildProcess) => Promise<void>,
): Promise<void> {
  const markdown = readFileSync(new URL(`../../../docs/${page}`, import.meta.url), 'utf8')
  const programs = [...markdown.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code ?? '')
  const program = programs.find((code) => code.includes(text)) ?? expect.fail(`no program has ${text}`)
  const file = fileURLToPath(new URL('./program.mjs', import.meta.url))
  writeFileSync(
    file,
    program
      .replace('postgres://user:password@localhost/app', url)
      .replace(
        /(const server = )?app\.listen\(3000\)/,
        'const server = app.listen(0, () => console.log(server.address().port))',
      ),
  )
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'ignore'] })
  const exited = once(child, 'exit')
  try {
    const failed = exited.then(() => expect.fail('it has exited before it listened'))
    const [port] = await Promise.race([once(child.stdout.setEncoding('utf8'), 'data'), failed])
    failed.catch(() => undefined)
    await use(`http://127.0.0.1:${String(port).trim()}`, child)
  } finally {
    child.kill('SIGKILL')
    await exited
    rmSync(file)
  }
}

describe('the program for Kubernetes', () => {
  it('is ready while the table can be used, alive in any case, and ends by itself on SIGTERM', async () => {
    const url = await freshDatabase()
    await serve('deploying/kubernetes.md', '/ready', url, async (site, child) => {
      const browser = new Browser()
      const status = async (path: string): Promise<number> => (await browser.get(`${site}${path}`)).status
      expect(await status('/ready')).to.equal(200)
      expect(browser.cookies.size, 'sessions of probes').to.equal(0)

      await sql(url, 'alter table session rename to elsewhere')
      expect(await status('/ready')).to.equal(503)
      expect(await status('/live')).to.equal(200)
      await sql(url, 'alter table elsewhere rename to session')
      expect(await status('/ready')).to.equal(200)

      expect((await browser.get(`${site}/`)).text).to.equal('Visit 1')
      child.kill('SIGTERM')
      expect(await once(child, 'exit')).to.deep.equal([0, null])
      const [row] = await sql(url, 'select session from session where session is not null')
      expect(row?.session).to.include({ visits: 1 })
    })
  })
})

describe('the program that refuses requests from other sites', () => {
  it('refuses what browsers send for another site, and serves the others', async () => {
    const url = await freshDatabase()
    await serve('guides/security.md', 'sec-fetch-site', url, async (site) => {
      const status = async (method: string, from?: string): Promise<number> => {
        const headers: Record<string, string> = from === undefined ? {} : { 'sec-fetch-site': from }
        return (await fetch(site, { method, headers })).status
      }
      expect(await status('POST', 'cross-site')).to.equal(403)
      expect(await status('DELETE', 'same-site')).to.equal(403)
      expect(await status('POST', 'same-origin')).to.equal(200)
      expect(await status('POST')).to.equal(200)
      expect(await status('GET', 'cross-site')).to.equal(200)
      const { headers } = await fetch(site)
      expect(headers.getSetCookie()[0]).to.match(/; samesite=lax; httponly$/)
    })
  })
})
