// The payloads of notifications.
import { expect } from 'chai'
import { payloads, readPayload } from '../../lib/notifications/payload.js'
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
    expect(list.flatMap((payload) => readPayload(payload) as typeof changes)).to.deep.equal(changes)
    expect(payloads([])).to.deep.equal([])
  })

  it('that cannot be parsed clears the cache', () => {
    for (const text of ['', 'flush', 'x', `${'A'.repeat(43)}`, `${'A'.repeat(43)}zz`, 'a,b'])
      expect(readPayload(text), text).to.equal('flush')
  })
})
