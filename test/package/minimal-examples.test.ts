// The programs in examples/minimal/, in child processes.
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { Browser } from '../helpers/http.js'
import { freshDatabase } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const folder = fileURLToPath(new URL('../../../examples/minimal/', import.meta.url))

describe('examples/minimal', () => {
  let child: ChildProcess | undefined
  afterEach(() => child?.kill('SIGKILL'))

  it('has one for each middleware', () => {
    expect(readdirSync(folder).sort()).to.deep.equal(['generic-session.js', 'koa-session.js'])
  })

  for (const name of readdirSync(folder))
    it(`${name} counts visits, keeps them across a restart and exits on SIGTERM`, async () => {
      const env = { DATABASE_URL: await freshDatabase(), SECRET: 'a secret', PORT: '0', NODE_OPTIONS: '' }
      const browser = new Browser()
      for (const expected of [['Visit 1', 'Visit 2'], ['Visit 3']]) {
        let output = ''
        child = spawn(process.execPath, [folder + name], { env: { ...process.env, ...env } })
        const ended = new Promise((resolve) => child?.once('close', resolve))
        for (const stream of [child.stdout, child.stderr])
          stream?.setEncoding('utf8').on('data', (text: string) => {
            output += text
          })
        await until(() => output.includes('\n') || child?.exitCode !== null)
        const [, port] = /^Port (\d+)\n$/.exec(output) ?? expect.fail(output)
        for (const text of expected)
          expect((await browser.get(`http://127.0.0.1:${port}/`)).text).to.equal(text)
        child.kill('SIGTERM')
        expect(await ended).to.equal(0)
        expect(output).to.equal(`Port ${port}\n`)
      }
    })
})
