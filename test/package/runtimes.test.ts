// Bun and Deno, from their npm packages, run the store and applications with it.
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { freshDatabase } from '../helpers/server.js'

const program = fileURLToPath(new URL('../helpers/programs/smoke.js', import.meta.url))
const bin = (name: string): string =>
  fileURLToPath(new URL(`../../../node_modules/.bin/${name}`, import.meta.url))

const runtimes = {
  node: [process.execPath],
  bun: [bin('bun'), 'run'],
  // The permissions that the README names.
  deno: [
    bin('deno'),
    ...['run', '--no-prompt', '--no-lock', '--node-modules-dir=manual'],
    ...['--allow-net', '--allow-env', '--allow-read', '--allow-sys'],
  ],
}

for (const [name, [file = '', ...args]] of Object.entries(runtimes))
  it(`the store, its cache, schedule and codecs, and both middlewares work in ${name}`, async () => {
    const home = await mkdtemp(join(tmpdir(), 'koa-pg-store-runtime-'))
    try {
      const { stdout } = await promisify(execFile)(file, [...args, program, await freshDatabase()], {
        env: { ...process.env, DENO_DIR: home, DENO_NO_UPDATE_CHECK: '1', DO_NOT_TRACK: '1' },
        timeout: 50_000,
      })
      expect(JSON.parse(stdout.trim())).to.deep.equal({
        isRead: true,
        devices: 1,
        listed: 1,
        isInvalidated: true,
        hasSwept: true,
        'koa-generic-session': ['Visit 1', 'Visit 2'],
        'koa-session': ['Visit 1', 'Visit 2'],
        calls: true,
        warnings: [],
      })
    } finally {
      await rm(home, { recursive: true, force: true })
    }
  })
