// The payloads of notifications.
import { expect } from 'chai'
import { heartbeatItem, payloads, readPayload } from '../../lib/notifications/payload.js'
import { digestOf } from '../../lib/session/session-id.js'

describe('a payload', () => {
  it('stays below 8,000 bytes, however many sessions have changed', () => {
    const changes = Array.from({ length: 10_000 }, (_, n) => ({
      digest: digestOf(`${n}`),
      version: 1_795_244_662_981_669 + n,
    }))
    const list = payloads(changes)
    for (const payload of list) expect(Buffer.byteLength(payload)).to.be.below(8_000)
    expect(list.length).to.be.below(80)
    expect(list.flatMap((payload) => readPayload(payload).changes)).to.deep.equal(changes)
    expect(payloads([])).to.deep.equal([])
  })

  it('that cannot be parsed clears the cache', () => {
    for (const text of ['', 'clear', 'flush', 'x', `${'A'.repeat(43)}`, `${'A'.repeat(43)}zz`, 'a,b'])
      expect(readPayload(text).clear, text).to.equal(true)
    const changed = `${'A'.repeat(43)}1f`
    expect(readPayload(`${changed},something new`)).to.include({ clear: true })
    expect(readPayload(changed)).to.include({ clear: false })
  })

  it('may end with a heartbeat', () => {
    const change = { digest: digestOf('a'), version: 31 }
    const payload = `${payloads([change])},${heartbeatItem('token')}`
    expect(readPayload(payload)).to.deep.equal({ clear: false, changes: [change], heartbeat: 'token' })
    expect(readPayload(heartbeatItem('token'))).to.include({ clear: false, heartbeat: 'token' })
  })
})
