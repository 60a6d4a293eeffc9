import { spawnSync } from 'node:child_process'
import { inspect } from 'node:util'
import { expect } from 'chai'
import { MemoryStore } from '../../lib/index.js'

const hour = 3_600_000

describe('MemoryStore', () => {
  let time = 0
  const clock = () => time

  it('is an EventEmitter, as koa-generic-session expects of its store', () => {
    const store = new MemoryStore()
    const received: string[] = []
    store.on('disconnect', () => received.push('disconnect'))
    store.emit('disconnect')
    expect(received).to.deep.equal(['disconnect'])
  })

  it('expires a session on time, and reports its remaining life', async () => {
    const store = new MemoryStore({ ttl: 1_000 }, clock)
    await store.set('a', { a: 1 })
    await store.set('b', { b: 1 }, 5_000)
    time += 400
    expect(await store.getWithTtl('a')).to.deep.equal({ session: { a: 1 }, ttl: 600 })
    time += 599
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    expect(await store.count()).to.equal(2)
    time += 1
    expect(await store.get('a')).to.equal(undefined)
    expect(await store.count()).to.equal(1)
  })

  it('moves the expiry by touch, never earlier', async () => {
    const store = new MemoryStore({ ttl: 1_000 }, clock)
    await store.set('a', { a: 1 })
    time += 500
    await store.touch('a')
    await store.touch('a', 10)
    time += 999
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    time += 1
    await store.touch('a')
    expect(await store.get('a')).to.equal(undefined)
  })

  it('accepts a destroyed session’s id again after an hour', async () => {
    const store = new MemoryStore({}, clock)
    await store.set('a', { a: 1 })
    await store.destroy('a')
    time += hour - 1
    await store.set('a', { a: 2 })
    expect(await store.get('a')).to.equal(undefined)
    time += 1
    await store.set('a', { a: 2 })
    expect(await store.get('a')).to.deep.equal({ a: 2 })
  })

  it('leaves a tombstone for an expired session too, as a save may still be in progress', async () => {
    const store = new MemoryStore({ ttl: 1_000 }, clock)
    await store.set('a', { a: 1 })
    time += 2_000
    await store.destroy('a')
    await store.set('a', { a: 2 })
    expect(await store.get('a')).to.equal(undefined)
  })

  it('keeps at most max sessions, and removes the least recently used', async () => {
    const store = new MemoryStore({ max: 2 })
    await store.set('a', { a: 1 })
    await store.set('b', { b: 1 })
    await store.get('a')
    await store.set('c', { c: 1 })
    expect(await store.get('a')).to.deep.equal({ a: 1 })
    expect(await store.get('b')).to.equal(undefined)
    expect(await store.count()).to.equal(2)
  })

  it('creates sessions under ids of 192 random bits', async () => {
    const store = new MemoryStore()
    const ids = await Promise.all(Array.from({ length: 50 }, () => store.create({ n: 1 }, { ttl: 1_000 })))
    expect(new Set(ids).size).to.equal(50)
    for (const id of ids) expect(Buffer.from(id, 'base64url')).to.have.length(24)
    expect(await store.get(ids[0] as string)).to.deep.equal({ n: 1 })
  })

  for (const [options, message] of [
    [{ ttl: 0 }, 'option "ttl" must be a number of milliseconds above 0; received 0'],
    [{ ttl: '1d' }, 'option "ttl" must be a number of milliseconds; received "1d" (a string)'],
    [{ max: 0 }, 'option "max" must be a whole number of sessions, 1 or more; received 0'],
    [{ maxAge: 1 }, 'option "maxAge" is unknown; known options: ttl, max'],
    [null, 'options must be an object; received null'],
  ] as const)
    it(`rejects ${JSON.stringify(options)}, naming the option`, () => {
      expect(() => new MemoryStore(options as object)).to.throw(message)
    })

  it('reveals no session when it is printed', async () => {
    const store = new MemoryStore()
    await store.set('OpenSesame', { content: 'Xyzzy' })
    expect(inspect(store, { showHidden: true, depth: 9 })).not.to.match(/OpenSesame|Xyzzy/)
  })

  it('does not keep the process running', () => {
    const code = `import { MemoryStore } from 'koa-pg-store'; await new MemoryStore().set('a', {}, 1e6); console.log('end')`
    const { stdout, status } = spawnSync(process.execPath, ['--input-type=module', '--eval', code], {
      encoding: 'utf8',
      timeout: 30_000,
    })
    expect([stdout, status]).to.deep.equal(['end\n', 0])
  })
})
