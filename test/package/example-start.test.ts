// `npm start`: the processes of the example application and the PostgreSQL that it starts.
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { expect } from 'chai'
import { Example, killExamples, startExample, Visitor } from '../helpers/example.js'
import { isAlive } from '../helpers/processes.js'
import { freshDatabase } from '../helpers/server.js'
import { until } from '../helpers/until.js'

after(killExamples)

describe('the example with a PostgreSQL of its own', () => {
  it('says where it is and how to use another, stops it for a while, and leaves nothing behind after SIGTERM', async () => {
    const example = await startExample()
    expect(example.output).to.match(/^Started a PostgreSQL of its own in \S+; the sessions end with it\.$/m)
    expect(example.output).to.include('set DATABASE_URL')
    const { folder, postmaster, pids } = example
    const browser = new Visitor(example.urls[0])
    await browser.signIn('Ann')
    await browser.events()

    expect((await browser.visit()).text).to.include('action="/stop-database"')
    await browser.send('/stop-database', { seconds: '1' })
    await until(() => !isAlive(postmaster))
    await until(async () => (await browser.visit()).status === 200)
    expect((await browser.visit()).text).to.include('<bdi>Ann</bdi>')
    expect(example.output).to.match(/^PostgreSQL is running again\.$/m)

    const restarted = example.postmaster
    expect(await example.stop('SIGTERM')).to.equal(0)
    for (const pid of [...pids, restarted]) expect(isAlive(pid)).to.equal(false)
    expect(existsSync(folder)).to.equal(false)
  })

  it('prints no error when it is interrupted while pages are open', async () => {
    const example = await startExample()
    const browser = new Visitor(example.urls[1])
    await browser.signIn('Ann')
    await browser.events()
    // As Ctrl+C does, which reaches the instances as well.
    for (const pid of example.pids) process.kill(pid, 'SIGINT')
    expect(await example.stop('SIGINT')).to.equal(0)
    expect(example.errors).to.equal('')
    expect(existsSync(example.folder)).to.equal(false)
  })

  it('ends its instances and its PostgreSQL when it is killed', async () => {
    const example = await startExample()
    const { folder, postmaster, pids } = example
    await example.stop('SIGKILL')
    await until(() => !isAlive(postmaster) && !existsSync(folder) && !pids.some(isAlive))
  })
})

describe('the example with DATABASE_URL', () => {
  it('keeps users signed in across a restart', async () => {
    const DATABASE_URL = await freshDatabase()
    const first = await startExample({ DATABASE_URL })
    expect(first.output).to.include('Set KEYS').and.not.to.include('of its own in')
    const browser = new Visitor(first.urls[0])
    await browser.signIn('Ann')
    expect(await first.stop()).to.equal(0)

    const second = await startExample({ DATABASE_URL })
    expect((await browser.at(second.urls[1] ?? '').visit()).text).to.include('<bdi>Ann</bdi>')
    expect(await second.stop()).to.equal(0)
  })

  it('signs cookies with KEYS', async () => {
    const example = await startExample({ DATABASE_URL: await freshDatabase(), KEYS: 'one, two' })
    expect(example.output).not.to.include('Set KEYS')
    const browser = new Visitor(example.urls[0])
    await browser.signIn('Ann')
    expect((await browser.visit()).text).to.include('<bdi>Ann</bdi>')
    expect(await example.stop()).to.equal(0)
  })

  it('says which instance has ended, keeps the user signed in at the other, and exits when both have', async () => {
    const example = await startExample({ DATABASE_URL: await freshDatabase() })
    const [first = '', second = ''] = example.urls
    const browser = new Visitor(first)
    await browser.signIn('Ann')
    const [firstPid = 0, secondPid = 0] = example.pids
    process.kill(firstPid, 'SIGKILL')
    await until(() => example.errors.includes(`Instance 1 has ended (SIGKILL). ${second} still answers`))
    expect((await browser.at(second).visit()).text).to.include('<bdi>Ann</bdi>')
    process.kill(secondPid, 'SIGTERM')
    expect(await example.ended).to.equal(1)
    expect(example.errors).to.include('Instance 2 has ended (exit status 0). No instance is left.')
  })
})

describe('the example with PORT', () => {
  it('reports a value that is not a port', async () => {
    for (const PORT of ['70000', '65535', '-1', 'http']) {
      const example = new Example({ PORT })
      expect(await example.ended).to.equal(1)
      expect(example.errors).to.match(new RegExp(`^PORT is "${PORT}"; .*\\n$`))
    }
  })

  it('reports a port that is in use, and starts nothing', async () => {
    const DATABASE_URL = await freshDatabase()
    const first = await startExample({ DATABASE_URL })
    const second = new Example({ DATABASE_URL, PORT: new URL(first.urls[0] ?? '').port })
    expect(await second.ended).to.equal(1)
    expect(second.errors).to.match(/^Can't listen on port .*EADDRINUSE.* Set PORT to another\.\n$/)
    expect(await first.stop()).to.equal(0)
  })

  it('uses another port if the default one is taken', async () => {
    const server = createServer()
    // Somebody else may have taken it already.
    await new Promise((resolve) => server.once('error', resolve).listen(3000, () => resolve(undefined)))
    const example = await startExample({ DATABASE_URL: await freshDatabase(), PORT: '' })
    expect(example.output).to.include('Port 3000 is taken')
    expect(example.urls).not.to.include('http://localhost:3000')
    expect((await new Visitor(example.urls[0]).visit()).status).to.equal(200)
    server.close()
    expect(await example.stop()).to.equal(0)
  })
})
