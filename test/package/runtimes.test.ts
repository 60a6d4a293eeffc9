// Bun and Deno, from their npm packages, run the store and applications with it.
import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { freshDatabase } from '../helpers/server.js'

const modules = fileURLToPath(new URL('../../../node_modules/', import.meta.url))
const program = fileURLToPath(new URL('../helpers/programs/smoke.js', import.meta.url))

/** Where the program of each package is: in a package for the platform, which npm may leave out; Bun's is moved to its own. */
const runtimes = {
  node: { args: [], files: [process.execPath] },
  bun: { args: ['run'], files: ['.bin/bun', '@oven/*/bin/bun'] },
  deno: {
    files: ['.bin/deno', '@deno/*/deno'],
    // The permissions that the README names.
    args: [
      ...['run', '--no-prompt', '--no-lock', '--node-modules-dir=manual'],
      ...['--allow-net', '--allow-env', '--allow-read', '--allow-sys'],
    ],
  },
}

/** Returns the first of these programs that runs here. */
async function findProgram(files: readonly string[]): Promise<string | undefined> {
  for (const file of files.flatMap(expand))
    try {
      await promisify(execFile)(file, ['--version'])
      return file
    } catch {
      // It is for another platform, or was never downloaded.
    }
  return undefined
}

/** Replaces a `*` by the folders that are there. */
function expand(file: string): string[] {
  const [scope = '', path] = file.split('/*/')
  if (path === undefined) return [resolve(modules, file)]
  const folder = join(modules, scope)
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name, path)) : []
}

for (const [name, { files, args }] of Object.entries(runtimes))
  it(`the store, its cache, schedule and codecs, and both middlewares work in ${name}`, async function () {
    const file = (await findProgram(files)) ?? (process.env.CI ? expect.fail(`no ${name}`) : this.skip())
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
