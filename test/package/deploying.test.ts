// The program of docs/deploying/kubernetes.md: its probes, and that it ends by itself when it is asked to stop.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { Browser } from '../helpers/http.js'
import { freshDatabase, sql } from '../helpers/server.js'

const page = readFileSync(new URL('../../../docs/deploying/kubernetes.md', import.meta.url), 'utf8')
const program = /^```js\n(.*?)^```$/ms.exec(page)?.[1] ?? ''

describe('the program of docs/deploying/kubernetes.md', () => {
  it('is ready while the table can be used, alive in any case, and ends by itself on SIGTERM', async () => {
    const url = await freshDatabase()
    const file = fileURLToPath(new URL('./kubernetes-example.mjs', import.meta.url))
    writeFileSync(
      file,
      program
        .replace('postgres://user:password@localhost/app', url)
        .replace('app.listen(3000)', 'app.listen(0, () => console.log(server.address().port))'),
    )
    const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] })
    const exited = once(child, 'exit')
    try {
      const [port] = await once(child.stdout.setEncoding('utf8'), 'data')
      const site = `http://127.0.0.1:${String(port).trim()}`
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
      expect(await exited).to.deep.equal([0, null])
      const [row] = await sql(url, 'select session from session where session is not null')
      expect(row?.session).to.include({ visits: 1 })
    } finally {
      child.kill('SIGKILL')
      await exited
      rmSync(file)
    }
  })
})
