// Merge bases are kept with the session objects, where nothing but their store sees them.
import { inspect } from 'node:util'
import { expect } from 'chai'
import { type MergeBase, MergeBases } from '../../lib/cache/merge-bases.js'

const base = (version: number): MergeBase => ({ digest: 'd', json: '{}', version })

describe('merge bases', () => {
  it('belong to an object and a session, and the last one counts', () => {
    const bases = new MergeBases()
    const session = { n: 1 }
    expect(bases.find(session, 'd')).to.equal(undefined)
    bases.remember(session, base(1))
    bases.remember(session, base(2))
    expect(bases.find(session, 'd')).to.deep.equal(base(2))
    expect(bases.find(session, 'other')).to.equal(undefined)
  })

  it('can’t be seen from outside, and are not copied', () => {
    const bases = new MergeBases()
    const session = { n: 1 }
    bases.remember(session, base(1))
    expect(Reflect.ownKeys(session)).to.deep.equal(['n'])
    expect(inspect(session, { showHidden: true })).to.equal('{ n: 1 }')
    for (const copy of [{ ...session }, structuredClone(session), Object.assign({}, session)])
      expect(bases.find(copy, 'd')).to.equal(undefined)
  })

  it('of two stores are kept apart', () => {
    const [bases, others] = [new MergeBases(), new MergeBases()]
    const session = {}
    bases.remember(session, base(1))
    expect(others.find(session, 'd')).to.equal(undefined)
    others.remember(session, base(2))
    expect(bases.find(session, 'd')).to.deep.equal(base(1))
    expect(others.find(session, 'd')).to.deep.equal(base(2))
  })

  it('are kept for frozen objects, proxies, instances of classes and objects without a prototype', () => {
    const frozenLater = { n: 1 }
    const owners = [
      Object.freeze({ n: 1 }),
      frozenLater,
      new Proxy({ n: 1 }, {}),
      new Map(),
      Object.create(null) as object,
      [],
    ]
    const bases = new MergeBases()
    for (const [n, owner] of owners.entries()) bases.remember(owner, base(n))
    Object.freeze(frozenLater)
    for (const [n, owner] of owners.entries()) {
      expect(bases.find(owner, 'd')).to.deep.equal(base(n))
      bases.remember(owner, base(n + 10))
      expect(bases.find(owner, 'd')).to.deep.equal(base(n + 10))
    }
  })
})
