// koa-pg-store stats --watch in a pseudo-terminal, and without one.
import { expect } from 'chai'
import pg from 'pg'
import stringWidth from 'string-width'
import { PgStore } from '../../lib/index.js'
import { channelOf } from '../../lib/notifications/payload.js'
import { Command, run } from '../helpers/command.js'
import { message, start } from '../helpers/processes.js'
import { PseudoTerminal } from '../helpers/pseudo-terminal.js'
import { freshDatabase, ownServer, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

/** Introduces an escape sequence. */
const csi = '\u001b['

const watch = ['stats', '--watch', '--interval', '1']

/** Starts a process of an application that makes calls all the time. */
async function busy(url: string): Promise<ReturnType<typeof start>> {
  const child = start('./busy.js', [url])
  await message(child)
  return child
}

describe('koa-pg-store stats --watch', () => {
  let url: string
  let app: ReturnType<typeof start>
  before(async () => {
    url = await freshDatabase()
    app = await busy(url)
  })
  after(() => app.kill('SIGKILL'))

  it('draws a page in a window of 80 × 24', async () => {
    await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url })
    // The second round has rates, and the sessions are counted.
    await terminal.shows(/^from memory +\d/)
    await terminal.shows(/^rows changed +\d/)
    await terminal.shows(/^sessions +\d/)
    await terminal.shows(/^size +\d/)
    const { lines } = terminal
    const n = String.raw`[\d,.]+`
    const expected = [
      /^public\.session in test_\w+ +every 1 s {3}\d\d:\d\d:\d\d$/,
      /^ {13}per second {2}last 35 s {30}median {6}95 %$/,
      new RegExp(`^from memory {2} {0,9}${n} +[▁-█]+$`),
      new RegExp(`^get {10} {0,9}${n} +[▁-█]+ +≤ ${n} m?s +≤ ${n} m?s$`),
      new RegExp(`^set {10} {0,9}${n} +[▁-█]+ +≤ ${n} m?s +≤ ${n} m?s$`),
      /^touch {17}0 +▁+$/,
      new RegExp(`^destroy {6} {0,9}${n} +[▁-█]+`),
      /^errors {16}0 +▁+$/,
      /^conflicts {13}0 +▁+$/,
      new RegExp(`^hit ratio {4} {0,9}${n} % {2}█`),
      new RegExp(`^rows changed {1,10}${n} +[▁-█]+`),
      /^$/,
      new RegExp(`^caches {7}trusted in 1 of 1 process; ${n} sessions? in memory, ${n} (Ki)?B$`),
      new RegExp(`^waiting {6}\\d+ calls?(, the oldest for .*)?; ${n} touch(es)? to write$`),
      new RegExp(`^sessions {5}${n} active, 0 expired, ${n} destroyed \\(.+ ago\\)$`),
      new RegExp(`^size {9}${n} KiB: table ${n} KiB, indexes ${n} KiB; ${n} dead rows?$`),
      /^last sweep {3}never$/,
      new RegExp(`^server {7}${n} of 200 connections; oldest transaction (none|${n} m?s)$`),
      /^queue {8}0 % of NOTIFY's queue used, 1 store listening$/,
      /^locks {8}no statement waits for one$/,
      /^process {5,} hit ratio {4}calls\/s {2}waiting {2}cache$/,
      new RegExp(`^\\S+:${app.pid} +${n} % +${n} +\\d+ {2}trusted$`),
      /^$/,
      /^q: quit$/,
    ]
    for (const [index, pattern] of expected.entries()) expect(lines[index]).to.match(pattern)
    expect(lines).to.have.length(24)
  })

  for (const [name, quit] of [
    ['q', (terminal: PseudoTerminal) => terminal.process.write('q')],
    ['Ctrl-C', (terminal: PseudoTerminal) => terminal.process.write('\u0003')],
    ['SIGTERM', (terminal: PseudoTerminal) => terminal.process.kill('SIGTERM')],
    ['SIGINT', (terminal: PseudoTerminal) => terminal.process.kill('SIGINT')],
  ] as const)
    it(`ends with status 0 and gives the terminal back at ${name}`, async () => {
      await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url })
      await terminal.shows(/^q: quit/)
      expect(terminal.isAlternate).to.equal(true)
      quit(terminal)
      expect(await terminal.ended).to.equal(0)
      await until(() => !terminal.isAlternate)
      // Lines continue on the next, the cursor is visible, and what was on the screen before is there again.
      expect(terminal.output.endsWith('\u001b[?7h\u001b[?25h\u001b[?1049l')).to.equal(true)
      expect(terminal.lines.join('').trim()).to.equal('')
    })

  it('draws each page with one write that erases nothing first, without colours if NO_COLOR is set', async () => {
    await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url, NO_COLOR: '1' })
    await terminal.shows(/^from memory +\d/)
    const [, ...pages] = terminal.output.split(`${csi}H`)
    expect(pages.length).to.be.at.least(2)
    for (const page of pages) {
      const sequences = page.split(csi).slice(1)
      // Only the rest of a line is erased, after its text.
      for (const sequence of sequences) expect(sequence).to.match(/^K/)
      expect(page.match(/\n/g)).to.have.length(23)
    }
  })

  it('fits the window when its size changes', async () => {
    await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url })
    await terminal.shows(/^q: quit/)
    terminal.resize(120, 40)
    await terminal.shows(/ {40,}every 1 s {3}\d\d:\d\d:\d\d$/)
    await until(() => terminal.lines[39] === 'q: quit')
    terminal.resize(40, 10)
    await until(
      () => terminal.lines[9] === 'q: quit' && /^public\.session in test/.test(terminal.lines[0] ?? ''),
    )
    for (const line of terminal.lines) expect(stringWidth(line)).to.be.at.most(40)
  })

  it('shows a process that doesn’t answer, first', async () => {
    const other = await busy(url)
    try {
      await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url })
      await terminal.shows(new RegExp(`:${other.pid} .*  trusted$`))
      other.kill('SIGSTOP')
      await terminal.shows(new RegExp(`:${other.pid} +– +– .*  no answer for \\d+ s$`))
      const rows = terminal.lines.filter((line) => /^\S+:\d+ /.test(line))
      expect(rows).to.have.length(2)
      expect(rows[0]).to.include(`:${other.pid} `)
      expect(rows[1]).to.match(/trusted$/)
    } finally {
      other.kill('SIGKILL')
    }
  })

  it('shows how many statements wait for a lock on the table, and for which process of the server', async () => {
    const client = new pg.Client(url)
    await client.connect()
    try {
      await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url })
      await terminal.shows(/^size +\d/)
      await client.query('begin; lock table session in access exclusive mode')
      const pid = Reflect.get(client, 'processID') as number
      await terminal.shows(new RegExp(`^locks +\\d+ statements? waits? for process ${pid} of the server$`))
      await client.query('rollback')
      await terminal.shows(/^locks +no statement waits for one$/)
    } finally {
      await client.end()
    }
  })

  it('goes on when the database is restarted, and says that it is away', async () => {
    const server = await ownServer()
    const child = await busy(server.url)
    try {
      await using terminal = new PseudoTerminal(watch, { DATABASE_URL: server.url })
      await terminal.shows(/^from memory +\d/)
      await server.kill()
      await terminal.shows(/^since \d\d:\d\d:\d\d: database unreachable: \S/)
      await terminal.shows(/^from memory +–/)
      await server.start()
      await terminal.shows(/^q: quit$/)
      await terminal.shows(/^from memory +\d/)
      await terminal.shows(/^set +[\d.]+ .*[▂-█]/)
    } finally {
      child.kill('SIGKILL')
      await server.stop()
    }
  })

  it('prints a line for each interval where there is no terminal', async () => {
    const command = new Command(watch, { DATABASE_URL: url })
    await until(() => /memory \d.*\n/.test(command.out) && /active \d/.test(command.out))
    command.child.kill('SIGTERM')
    const { status, out, errors } = await command.ended
    expect({ status, errors }).to.deep.equal({ status: 0, errors: '' })
    expect(out).not.to.include('\u001b')
    const lines = out.trimEnd().split('\n')
    for (const line of lines) expect(line).to.match(/^\d{4}-\d\d-\d\dT[\d:.]+Z memory \S+\/s, /)
    expect(lines.at(-1)).to.match(
      /^\d{4}-\d\d-\d\dT[\d:.]+Z memory \S+\/s, get \S+\/s, set .*, hit ratio .*, processes 1, trusted 1\/1, .*, queue 0 %, lock waits \d+$/,
    )
  })

  it('prints an object in each line with --json', async () => {
    const command = new Command([...watch, '--json'], { DATABASE_URL: url })
    await until(() => /"memory":\d.*\n/.test(command.out) && /"active":\d/.test(command.out))
    command.child.kill('SIGINT')
    const { status, out, errors } = await command.ended
    expect({ status, errors }).to.deep.equal({ status: 0, errors: '' })
    const last = JSON.parse(out.trimEnd().split('\n').at(-1) ?? '')
    expect(last.table).to.equal('public.session')
    expect(last.rates.set).to.be.above(0)
    expect(last.hitRatio).to.be.within(0, 1)
    expect(last.latency.get.median).to.be.a('number')
    expect(last.processes).to.have.length(1)
    expect(last.processes[0]).to.include({ isTrusted: true })
    expect(last.server.maxConnections).to.equal(200)
  })

  it('says so if no process answers', async () => {
    const other = await freshDatabase()
    const store = new PgStore(other, { cache: false })
    await store.setup()
    try {
      await using terminal = new PseudoTerminal(watch, { DATABASE_URL: other })
      await terminal.shows(/^no process answers: none listens for changes here/)
      await terminal.shows(/^from memory +–/)
      await terminal.shows(/^sessions +0 active, 0 expired, 0 destroyed/)
    } finally {
      await store.close()
    }
  })

  it('shows nothing of what other roles send as answers but what could be one', async () => {
    await using terminal = new PseudoTerminal(watch, { DATABASE_URL: url })
    await terminal.shows(/^from memory +\d/)
    const channel = `${channelOf({ schema: 'public', table: 'session' })}_stats`
    const forged = {
      id: 'forged',
      process: `${csi}2J\u0007\u202Eforged\r\nprocess`,
      at: 1,
      stats: { cache: { hits: 'x' } },
    }
    for (const payload of ['', 'rubbish', 'null', '{"id":1}', '[]', JSON.stringify(forged)])
      await sql(url, 'select pg_notify($1, $2)', [channel, payload])
    await terminal.shows(/^forgedprocess +– +– +0 {2}not trusted$/)
    for (const text of [`${csi}2J`, '\u0007', '\u202E']) expect(terminal.output).not.to.include(text)
    await terminal.shows(/^caches +trusted in 1 of 2 processes/)
  })

  for (const [args, expected] of [
    [['--interval', '1'], /--interval needs --watch/],
    [['--listen-url', 'postgres://x/y'], /--listen-url needs --watch/],
    [['--watch', '--interval', '0'], /--interval must be a whole number, 1 or more; received "0"/],
    [['--watch', '--interval', '100000'], /--interval must be 86400 or less; received 100000/],
  ] as const)
    it(`refuses ${args.join(' ')} with status 2`, async () => {
      const { status, errors } = await run(url, 'stats', ...args)
      expect(status).to.equal(2)
      expect(errors).to.match(expected)
    })
})
