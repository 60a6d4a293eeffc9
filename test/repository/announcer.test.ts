import { expect } from 'chai'
import { readPayload } from '../../lib/notifications/payload.js'
import { Announcer } from '../../lib/repository/announcer.js'
import { digestOf } from '../../lib/session/session-id.js'
import { rejection } from '../helpers/rejection.js'
import { until } from '../helpers/until.js'

const change = (sid: string, version = 1) => ({ digest: digestOf(sid), version })

describe('notifications of changes that are committed already', () => {
  /** An announcer, what it has sent, and what its next attempts fail with. */
  function make() {
    const sent: unknown[] = []
    const failures: Error[] = []
    const announcer = new Announcer(async (payloads) => {
      await new Promise((resolve) => setImmediate(resolve))
      const failure = failures.shift()
      if (failure) throw failure
      sent.push(payloads.flatMap((payload) => readPayload(payload).changes))
    })
    return { announcer, sent, failures }
  }

  it('name all changes of the calls that waited', async () => {
    const { announcer, sent } = make()
    await Promise.all([change('a'), change('b'), change('c', 7)].map((one) => announcer.announce([one])))
    expect(sent).to.deep.equal([[change('a')], [change('b'), change('c', 7)]])
  })

  it('that can’t be sent reject the call, and are sent with the next change', async () => {
    const { announcer, sent, failures } = make()
    failures.push(new Error('connection lost'))
    expect((await rejection(announcer.announce([change('a')]))).message).to.equal('connection lost')
    await announcer.announce([change('b')])
    expect(sent).to.deep.equal([[change('a'), change('b')]])
  })

  it('that can’t be sent are sent before a later call without a change resolves, such as a second destroy', async () => {
    const { announcer, sent, failures } = make()
    await announcer.announce([])
    expect(sent).to.deep.equal([])
    failures.push(new Error('connection lost'), new Error('still lost'))
    await rejection(announcer.announce([change('a')]))
    await rejection(announcer.announce([]))
    await announcer.announce([])
    expect(sent).to.deep.equal([[change('a')]])
  })

  it('that can’t be sent are tried again, even if no change follows', async () => {
    const { announcer, sent, failures } = make()
    failures.push(new Error('connection lost'), new Error('still lost'))
    await rejection(announcer.announce([change('a')]))
    await until(() => sent.length > 0)
    expect(sent).to.deep.equal([[change('a')]])
  })
})
