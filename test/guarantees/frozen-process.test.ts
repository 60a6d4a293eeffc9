import { readFile } from 'node:fs/promises'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import type { Outcome } from '../helpers/programs/calls.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const maxStaleness = 500

describe('a process that was stopped for longer than maxStaleness', () => {
  it('answers its first question from the database, not from its old memory', async () => {
    const url = await freshDatabase()
    const here = new PgStore(url)
    await here.set('x', { n: 1 })
    const child = start('calls.js', [url, JSON.stringify({ cache: { maxStaleness } })])
    const call = async (...args: unknown[]): Promise<unknown> => {
      child.send(args)
      const outcome = await message<Outcome>(child)
      if (outcome.error) throw new Error(outcome.error)
      return outcome.value
    }
    const trusted = async () => ((await call('stats')) as { cache: { trusted: boolean } }).cache.trusted
    try {
      for (let round = 1; round <= 3; round++) {
        await until(async () => {
          await call('get', 'x')
          return trusted()
        })
        expect(await call('get', 'x')).to.deep.equal({ n: round })
        child.kill('SIGSTOP')
        await stopped(child.pid)
        // Its question waits in the pipe, and is the first thing that it does when it goes on.
        const answer = message<Outcome>(child)
        child.send(['get', 'x'])
        // Nobody tells it: not even its listener's socket has the news.
        await sql(
          url,
          `alter table session disable trigger user; update session set session = json_build_object('n', ${round + 1})`,
        )
        // By the clock that bounds staleness; only too short a time would be wrong.
        await new Promise((resolve) => setTimeout(resolve, maxStaleness + 50))
        child.kill('SIGCONT')
        expect(await answer).to.deep.equal({ value: { n: round + 1 } })
        await here.clearCache()
      }
    } finally {
      child.kill('SIGKILL')
      await here.close()
    }
  })
})

describe('a million sessions through a cache of 10,000', () => {
  it('leave the heap where it was', async function () {
    this.timeout(120_000)
    if (globalThis.gc === undefined) throw new Error('run with --expose-gc, as .mocharc.yml says')
    const { LocalCache } = await import('../../lib/cache/local-cache.js')
    const cache = new LocalCache({ max: 10_000, maxBytes: 64 * 1024 * 1024, ttl: 60_000 })
    const pass = (from: number, to: number): void => {
      for (let n = from; n < to; n++) {
        const name = `session ${n}`
        const fill = cache.beginFill(name)
        cache.commitFill(fill, {
          id: name,
          json: JSON.stringify({ n, json: `${n}`.padEnd(400, 'x') }),
          version: n + 1,
          ttlMs: 1e9,
        })
        cache.get(name)
        if (n % 3 === 0) cache.invalidate(name, n + 2)
      }
    }
    const heap = (): number => {
      globalThis.gc?.()
      return process.memoryUsage().heapUsed
    }
    pass(0, 50_000)
    const before = heap()
    pass(50_000, 1_000_000)
    const growth = heap() - before
    expect(cache.size).to.be.within(9_990, 10_000)
    // 950,000 sessions of 400 bytes would be 400 MB and more.
    expect(growth).to.be.below(10_000_000)
  })
})

/** Until the signal has reached the process, where that can be seen: on a busy machine it works on meanwhile. */
async function stopped(pid: number | undefined): Promise<void> {
  if (process.platform !== 'linux') return
  await until(async () => /\) T /.test(await readFile(`/proc/${pid}/stat`, 'utf8')))
}
