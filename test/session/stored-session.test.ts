import { expect } from 'chai'
import { fromStored, toStored } from '../../lib/session/stored-session.js'

const now = 1_700_000_000_000
const day = 86_400_000

/** Parsed, as the stores get it from the application. */
const stored = (json: string): string => toStored(JSON.parse(json), undefined, now)

describe('the stored JSON of a session', () => {
  it('is the same text if there is nothing to remove', () => {
    for (const json of [
      '{}',
      '{"a":[1,{"_expire":1}]}',
      '{"_expire":1}',
      '{"_expire":1,"_maxAge":"x"}',
      '{"a":{"~expires":"1"}}',
    ])
      expect(stored(json)).to.equal(json)
  })

  it('does not depend on when koa-session saves the session', () => {
    const save = (at: number) => JSON.stringify({ user: 'ann', _expire: at + day, _maxAge: day })
    expect(stored(save(now))).to.equal(`{"user":"ann","_maxAge":${day}}`)
    expect(stored(save(now + 5))).to.equal(stored(save(now)))
  })

  it('has no expired attributes, and keeps an own __proto__', () => {
    const json = `{"__proto__":1,"a":{"~value":1,"~expires":${now}},"b":{"~value":1,"~expires":${now + 1}}}`
    expect(stored(json)).to.equal(`{"__proto__":1,"b":{"~value":1,"~expires":${now + 1}}}`)
  })

  it('gets the _expire of its remaining life if it is a session of koa-session', () => {
    expect(fromStored({ a: 1, _maxAge: day }, day + 10_000, now)).to.deep.equal({
      a: 1,
      _maxAge: day,
      _expire: now + day,
    })
    // Saved by an earlier version, or by an application whose clock is wrong.
    expect(fromStored({ _expire: 5, _maxAge: day }, day, now)._expire).to.equal(now + day - 10_000)
    expect(fromStored({ _expire: 5, _maxAge: day }, undefined, now)._expire).to.equal(5)
    expect(fromStored({ a: 1, _session: true }, day, now)).to.deep.equal({ a: 1, _session: true })
    expect(fromStored({ a: 1 }, day, now)).to.deep.equal({ a: 1 })
  })

  it('loses an attribute that expires between two reads', () => {
    const session = { a: { '~value': 1, '~expires': now + 10 }, b: 1 }
    expect(fromStored(session, undefined, now + 9)).to.deep.equal(session)
    expect(fromStored(session, undefined, now + 10)).to.deep.equal({ b: 1 })
  })
})
