// What the store has acknowledged survives the end of the process.
import { once } from 'node:events'
import { expect } from 'chai'
import type pg from 'pg'
import { Browser } from '../helpers/http.js'
import { message, start } from '../helpers/processes.js'
import type { Listening } from '../helpers/programs/app.js'
import { freshDatabase, sql } from '../helpers/server.js'

describe('a process that is killed (SIGKILL) as soon as the store has resolved', () => {
  let url: string

  before(async () => {
    url = await freshDatabase()
  })

  beforeEach(() => sql(url, 'drop table if exists session'))

  /** Signs in at a child process, visits a path that kills it, and returns the sessions that the table then holds. */
  async function killedBy(path: string): Promise<unknown[]> {
    const child = start('./app.js', [url])
    const exited = once(child, 'exit')
    const site = (await message<Listening>(child)).url
    const browser = new Browser()
    await browser.get(`${site}/sign-in?name=ann`)
    const failed = await browser.get(`${site}${path}`).then(
      () => false,
      () => true,
    )
    expect(failed).to.equal(true)
    expect(await exited).to.deep.equal([null, 'SIGKILL'])
    const rows = await sql<{ session: unknown } & pg.QueryResultRow>(url, 'select session from session')
    return rows.map(({ session }) => session)
  }

  it('has saved the session', async () => {
    const sessions = await killedBy('/save-and-die')
    expect(sessions).to.have.length(1)
    expect(sessions[0]).to.include({ name: 'ann', saved: true })
  })

  it('has destroyed the session', async () => {
    expect(await killedBy('/sign-out-and-die')).to.deep.equal([null])
  })
})
