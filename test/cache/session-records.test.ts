// What a process knows of recently used sessions.
import { expect } from 'chai'
import { type SessionRecord, SessionRecords } from '../../lib/cache/session-records.js'
import { digestOf } from '../../lib/session/session-id.js'

describe('session records', () => {
  it('are found by session id and by digest', () => {
    const records = new SessionRecords(10, true)
    const record = records.resolve('a')
    expect(record).to.include({ digest: digestOf('a'), storedId: `sha256:${digestOf('a')}`, expiresAt: 0 })
    expect(records.resolve('a')).to.equal(record)
    expect(records.find(digestOf('a'))).to.equal(record)
    expect(records.find(digestOf('b'))).to.equal(undefined)
    expect(records.of(digestOf('a'), 'a')).to.equal(record)
  })

  it('have the id that the table holds, if it can', () => {
    const records = new SessionRecords(10, false)
    expect(records.resolve('a').storedId).to.equal('a')
    expect(records.resolve('a\0').storedId).to.equal(undefined)
    expect(() => records.resolve('')).to.throw(TypeError, 'session id must not be empty')
    expect(() => records.resolve(7 as never)).to.throw(
      TypeError,
      'session id must be a string; received number',
    )
  })

  it('are kept for the last `max` sessions at least, and twice as many at most', () => {
    const records = new SessionRecords(100, true)
    const used = records.resolve('in use')
    for (let n = 0; n < 1_000; n++) {
      records.resolve(`s${n}`)
      expect(records.resolve('in use')).to.equal(used)
      for (let back = 0; back <= Math.min(n, 98); back++)
        expect(records.find(digestOf(`s${n - back}`)), `${n} ${back}`).not.to.equal(undefined)
    }
    const kept = Array.from({ length: 1_000 }, (_, n) => records.find(digestOf(`s${n}`))).filter(Boolean)
    expect(kept.length).to.be.within(99, 200)
  }).timeout(20_000)

  it('of a long session id are found by its digest', () => {
    const records = new SessionRecords(10, true)
    const sid = 'x'.repeat(1_000)
    const record = records.resolve(sid)
    expect(records.resolve(sid)).to.equal(record)
    expect(records.find(digestOf(sid))).to.equal(record)
  })

  it('that are in use elsewhere are not made again', () => {
    const inUse = new Map<string, SessionRecord>()
    const records = new SessionRecords(1, true, (digest) => inUse.get(digest))
    const [a, b] = [records.resolve('a'), records.resolve('b')]
    inUse.set(a.digest, a)
    for (const sid of ['c', 'd', 'e']) records.resolve(sid)
    expect(records.resolve('a')).to.equal(a)
    expect(records.resolve('b')).not.to.equal(b)
  })

  it('forget when sessions expire: one, or all', () => {
    const records = new SessionRecords(2, true)
    const all = ['a', 'b', 'c', 'd'].map((sid) => records.resolve(sid))
    for (const record of all) record.expiresAt = 1e6
    records.forgetExpiry(digestOf('b'))
    expect(all.map(({ expiresAt }) => expiresAt)).to.deep.equal([1e6, 0, 1e6, 1e6])
    records.forgetExpiries()
    expect(all.map(({ expiresAt }) => expiresAt)).to.deep.equal([0, 0, 0, 0])
  })
})
