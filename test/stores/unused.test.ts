// A store that isn't used sends nothing, so that its database can sleep.
import { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import type { PgStoreEvents } from '../../lib/stores/events.js'
import { Lifecycle } from '../../lib/stores/lifecycle.js'
import { readOptions } from '../../lib/stores/options.js'
import { freshDatabase } from '../helpers/server.js'
import { until } from '../helpers/until.js'

describe('a store that is not used', () => {
  it('leaves scheduled sweeps out by default, until it is used again', async function () {
    this.timeout(60_000)
    const settings = readOptions({ cleanup: '* * * * * *', cache: false })
    const events = new EventEmitter<PgStoreEvents>()
    let sweeps = 0
    events.on('sweep', () => sweeps++)
    const cleanup = { ...settings.cleanup, skipsWhenUnused: true }
    const lifecycle = new Lifecycle(await freshDatabase(), { ...settings, cleanup }, events)
    await lifecycle.setUp()
    await until(() => sweeps === 1)
    await sleep(2_500)
    expect(sweeps).to.equal(1)
    await lifecycle.operations.run('read the session', async () => undefined)
    await until(() => sweeps === 2)
    await lifecycle.close(5_000)
  })

  it('sweeps on the schedule that the options name, in any case', () => {
    expect(readOptions().cleanup.skipsWhenUnused).to.equal(true)
    expect(readOptions({ cleanup: { grace: 5 } }).cleanup.skipsWhenUnused).to.equal(true)
    for (const options of [
      { cleanup: '*/15 * * * *' },
      { cleanup: { cron: '0 3 * * *' } },
      { cleanupTime: 60_000 },
    ])
      expect(readOptions(options).cleanup.skipsWhenUnused).to.equal(false)
  })
})
