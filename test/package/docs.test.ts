// Runs the examples of README.md and of the pages in docs/.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { encrypted, PgStore } from '../../lib/index.js'
import { countPrograms, type Example, readPage, readPages, repository } from '../helpers/pages.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { hasRedis, type RedisServer, startRedis } from '../support/redis.js'

const bin = fileURLToPath(new URL('../../../bin/koa-pg-store.js', import.meta.url))

/** The environment variables that the examples use. */
const keys = {
  SESSION_KEY_2025: randomBytes(32).toString('base64'),
  SESSION_KEY_2026: randomBytes(32).toString('hex'),
}

/** What the blocks of programs are called: those of TypeScript are compiled by package.test.ts. */
const languages = ['js', 'js cjs', 'ts', 'ts cts']

/** Runs a program inside the package, which can import itself; returns its output and its first two HTTP responses. */
async function run(code: string, extension: string): Promise<{ printed: string; visits: string[] }> {
  const file = fileURLToPath(new URL(`./documented-example.${extension}`, import.meta.url))
  const listens = code.includes('app.listen(3000)')
  const listenAndPrintPort = 'const server = app.listen(0, () => console.log(server.address().port))'
  writeFileSync(file, code.replace(/(const server = )?app\.listen\(3000\)/, listenAndPrintPort))
  const child = spawn(process.execPath, [file], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...keys },
  })
  try {
    let printed = ''
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    const visits: string[] = []
    let cookie = ''
    for await (const text of child.stdout.setEncoding('utf8')) {
      printed += text
      if (!listens) continue
      while (visits.length < 2) {
        const response = await fetch(`http://127.0.0.1:${printed.trim()}/`, { headers: { cookie } })
        const cookies = response.headers.getSetCookie().map((line) => line.split(';')[0])
        if (cookies.length > 0) cookie = cookies.join('; ')
        visits.push(await response.text())
      }
      child.kill()
    }
    if (!listens && child.exitCode === null) await new Promise((resolve) => child.once('exit', resolve))
    expect(errors).to.equal('')
    if (!listens) expect(child.exitCode).to.equal(0)
    return { printed, visits }
  } finally {
    child.kill()
    rmSync(file)
  }
}

/** Runs an example with a new database, and checks what it prints and serves. */
async function check({ language, code }: Example, redisUrl = ''): Promise<void> {
  const url = await freshDatabase()
  const isCjs = language === 'js cjs'
  const program = code
    .replaceAll('postgres://user:password@localhost/app', url)
    .replaceAll('redis://localhost', redisUrl)
  const { printed, visits } = await run(
    // The names under which package.json has version 1.
    isCjs
      ? program.replaceAll(/require\('(?<name>koa|koa-generic-session)'\)/g, "require('$<name>1')")
      : program,
    isCjs ? 'cjs' : 'mjs',
  )
  if (code.includes('app.listen')) expect(visits).to.deep.equal(['Visit 1', 'Visit 2'])
  // Comments after console.log say what it prints.
  const expected = [...code.matchAll(/console\.log\(.*?\) \/\/ (.*)$/gm)].map(([, comment]) => comment)
  if (expected.length > 0) expect(printed.trim().split('\n')).to.deep.equal(expected)
}

describe('the documentation', () => {
  let redis: RedisServer | undefined
  before(async () => {
    redis = await startRedis()
  })
  after(() => redis?.stop())

  for (const page of readPages()) {
    const { path, examples } = page
    const programs = examples.filter(({ language }) => languages.includes(language))
    describe(`${path}, with ${programs.length} ${programs.length === 1 ? 'example' : 'examples'}`, () => {
      for (const example of programs.filter(({ language }) => language.startsWith('js'))) {
        const canRun = hasRedis() || !example.code.includes('redis://localhost')
        const test = canRun ? it : it.skip
        test(`has an example in line ${example.line} that works as described`, () =>
          check(example, redis?.url(0)))
      }

      it(`has no examples that aren't run`, () => {
        expect(countPrograms(page), `write the blocks as \`\`\`${languages.join(', ```')}`).to.equal(
          programs.length,
        )
      })
    })
  }

  it('has a README of at most 200 lines', () => {
    expect(readPage('README.md').text.trimEnd().split('\n').length).to.be.at.most(200)
  })

  it('has a codec module that migrate --reencrypt accepts', async () => {
    const url = await freshDatabase()
    const store = new PgStore(url, {
      codec: encrypted({ keys: [{ id: '2025', key: keys.SESSION_KEY_2025 }] }),
    })
    await store.set('x', { n: 1 })
    await store.close()
    const { examples } = readPage('docs/guides/encryption.md')
    const code = examples.find((example) => example.code.includes('// session-codec.js'))?.code ?? ''
    const file = fileURLToPath(new URL('./session-codec.js', import.meta.url))
    writeFileSync(file, code)
    const child = spawn(process.execPath, [bin, 'migrate', '--reencrypt', file], {
      env: { ...process.env, ...keys, DATABASE_URL: url },
    })
    let printed = ''
    for await (const text of child.stdout.setEncoding('utf8')) printed += text
    rmSync(file)
    expect(printed).to.match(/^1 of 1 sessions were re-encrypted/m)
  })

  it('shows the table as the store creates it', async () => {
    const { examples } = readPage('docs/reference/table.md')
    const statement = examples.find(({ code }) => code.startsWith('create table session'))?.code ?? ''
    const file = readFileSync(new URL('sql/002-table.sql', repository), 'utf8')
    const normalize = (text: string) =>
      text.replace(/\s+/g, ' ').replace(':"schema".:"table"', 'session').trim()
    expect(normalize(file)).to.include(normalize(statement))
    await sql(await freshDatabase(), statement)
  })
})
