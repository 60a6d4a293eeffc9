// The PostgreSQL servers that the tests and the example start.
import { existsSync } from 'node:fs'
import { expect } from 'chai'
import { isAlive } from '../helpers/processes.js'
import { rejection } from '../helpers/rejection.js'
import { sql } from '../helpers/server.js'
import { startPostgres } from '../support/postgres/server.js'

describe('startPostgres', () => {
  it('keeps data and port across kill() and start()', async () => {
    const database = await startPostgres()
    try {
      const { port, pid } = database
      await sql(database.url, 'create table kept as select 1 as n')
      await database.kill()
      expect(isAlive(pid)).to.equal(false)
      await database.start()
      expect(database.port).to.equal(port)
      expect(await sql(database.url, 'select n from kept')).to.deep.equal([{ n: 1 }])
    } finally {
      await database.stop()
    }
    await database.stop()
    expect(existsSync(database.folder)).to.equal(false)
  })

  it('says what to do if PostgreSQL can’t start', async () => {
    expect((await rejection(startPostgres({ bin: '/nowhere' }))).message)
      .to.include('/nowhere')
      .and.to.match(/Set DATABASE_URL to a PostgreSQL of your own instead\.$/)
    expect((await rejection(startPostgres({ settings: { nonsense: 'on' } }))).message)
      .to.include('"nonsense"')
      .and.to.match(/Set DATABASE_URL to a PostgreSQL of your own instead\.$/)
  })
})
