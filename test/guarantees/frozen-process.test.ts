// A process that was stopped for a while serves nothing stale when it continues.
import { readFile } from 'node:fs/promises'
import { expect } from 'chai'
import { PgStore } from '../../lib/index.js'
import { message, start } from '../helpers/processes.js'
import type { Outcome } from '../helpers/programs/calls.js'
import { freshDatabase, sql } from '../helpers/server.js'
import { until } from '../helpers/until.js'

const maxStaleness = 500

describe('a process that is stopped for longer than maxStaleness', () => {
  it('serves its first read from the database, not from its cache', async () => {
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
          // The cache was cleared, but a heartbeat that was sent before may come first.
          const session = (await call('get', 'x')) as { n: number }
          return session.n === round && (await trusted())
        })
        expect(await call('get', 'x')).to.deep.equal({ n: round })
        child.kill('SIGSTOP')
        await stopped(child.pid)
        // This call waits in the pipe, and is the first thing that the process does when it continues.
        const outcome = message<Outcome>(child)
        child.send(['get', 'x'])
        // Without triggers no notification is sent, so none waits in its socket either.
        await sql(
          url,
          `alter table session disable trigger user; update session set session = json_build_object('n', ${round + 1})`,
        )
        // Waiting longer would do no harm.
        await new Promise((resolve) => setTimeout(resolve, maxStaleness + 50))
        child.kill('SIGCONT')
        expect(await outcome).to.deep.equal({ value: { n: round + 1 } })
        await here.clearCache()
      }
    } finally {
      child.kill('SIGKILL')
      await here.close()
    }
  })
})

/** Waits until the signal has stopped the process (on Linux): on a busy machine that takes a while. */
async function stopped(pid: number | undefined): Promise<void> {
  if (process.platform !== 'linux') return
  await until(async () => /\) T /.test(await readFile(`/proc/${pid}/stat`, 'utf8')))
}
