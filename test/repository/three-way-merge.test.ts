import { isDeepStrictEqual } from 'node:util'
import { expect } from 'chai'
import fc from 'fast-check'
import { threeWayMerge } from '../../lib/repository/three-way-merge.js'
import type { Session } from '../../lib/types/session-store.js'

/** Few names, so that both sides often change the same; some are inherited by objects, some sort as numbers. */
const names = [
  'a',
  'b',
  'cookie',
  '__proto__',
  'constructor',
  'hasOwnProperty',
  '',
  '0',
  '10',
  'é\ud83d\ude00',
]
const name = fc.constantFrom(...names)
const value = fc.oneof(
  fc.constantFrom(0, 1, '', 'x', null, true, false),
  fc.jsonValue({ maxDepth: 2 }),
) as fc.Arbitrary<unknown>

/** A session as JSON.parse returns it, sometimes with an own `__proto__`. */
const session: fc.Arbitrary<Session> = fc
  .uniqueArray(fc.tuple(name, value), { selector: ([name]) => name, maxLength: 8 })
  .map((entries) => fromJson(Object.fromEntries(entries)))

/** What a request changes in a session: some attributes set, some removed. */
const change = fc.record({
  set: fc.dictionary(name, value, { maxKeys: 4, noNullPrototype: true }),
  removed: fc.uniqueArray(name, { maxLength: 3 }),
})
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never

function fromJson(value: Session): Session {
  return JSON.parse(JSON.stringify(value)) as Session
}

function apply(base: Session, { set, removed }: Change): Session {
  const changed = new Map(Object.entries(base))
  for (const [name, value] of Object.entries(set)) changed.set(name, value)
  for (const name of removed) changed.delete(name)
  return fromJson(Object.fromEntries(changed))
}

/** An attribute's value, or `{}` if there is no such attribute. */
function at(session: Session, name: string): { value?: unknown } {
  return Object.hasOwn(session, name) ? { value: session[name] } : {}
}

function changes(base: Session, side: Session): string[] {
  const all = new Set([...Object.keys(base), ...Object.keys(side)])
  return [...all].filter((name) => !isDeepStrictEqual(at(base, name), at(side, name)))
}

function sorted(session: Session): [string, unknown][] {
  return Object.entries(session).sort(([a], [b]) => (a < b ? -1 : 1))
}

const sides = fc.tuple(session, change, change).map(([base, mine, theirs]) => ({
  base,
  mine: apply(base, mine),
  theirs: apply(base, theirs),
}))
const check = (test: (sides: { base: Session; mine: Session; theirs: Session }) => void): void =>
  fc.assert(fc.property(sides, test), { numRuns: 1_000 })

describe('threeWayMerge', () => {
  it('keeps what only one side changed, added or removed', () =>
    check(({ base, mine, theirs }) => {
      const merged = threeWayMerge(base, mine, theirs).session
      const [myChanges, theirChanges] = [changes(base, mine), changes(base, theirs)]
      for (const name of myChanges.filter((name) => !theirChanges.includes(name)))
        expect(at(merged, name)).to.deep.equal(at(mine, name))
      for (const name of theirChanges.filter((name) => !myChanges.includes(name)))
        expect(at(merged, name)).to.deep.equal(at(theirs, name))
    }))

  it('takes mine where both sides changed an attribute, and reports it as overwritten', () =>
    check(({ base, mine, theirs }) => {
      const { session, overwritten } = threeWayMerge(base, mine, theirs)
      const both = changes(base, mine).filter((name) => changes(base, theirs).includes(name))
      for (const name of both) expect(at(session, name)).to.deep.equal(at(mine, name))
      const different = both.filter((name) => !isDeepStrictEqual(at(mine, name), at(theirs, name)))
      expect(overwritten.toSorted()).to.deep.equal(different.toSorted())
    }))

  it('leaves alone what neither side changed', () =>
    check(({ base, mine, theirs }) => {
      const merged = threeWayMerge(base, mine, theirs).session
      const touched = [...changes(base, mine), ...changes(base, theirs)]
      for (const name of Object.keys({ ...base, ...merged }))
        if (!touched.includes(name)) expect(at(merged, name)).to.deep.equal(at(base, name))
    }))

  it('returns the other side if one changed nothing', () =>
    check(({ base, mine, theirs }) => {
      expect(threeWayMerge(base, base, theirs)).to.deep.equal({ session: theirs, overwritten: [] })
      expect(sorted(threeWayMerge(base, mine, base).session)).to.deep.equal(sorted(mine))
    }))

  it('returns the same whichever of two unrelated changes is saved first', () =>
    check(({ base, mine, theirs }) => {
      fc.pre(!changes(base, mine).some((name) => changes(base, theirs).includes(name)))
      const [one, other] = [threeWayMerge(base, mine, theirs), threeWayMerge(base, theirs, mine)]
      expect(sorted(one.session)).to.deep.equal(sorted(other.session))
      expect([...one.overwritten, ...other.overwritten]).to.deep.equal([])
    }))

  it('changes nothing when it is repeated', () =>
    check(({ base, mine, theirs }) => {
      const { session } = threeWayMerge(base, mine, theirs)
      expect(threeWayMerge(base, mine, session)).to.deep.equal({ session, overwritten: [] })
    }))

  it('does not modify its arguments', () =>
    check(({ base, mine, theirs }) => {
      const before = JSON.stringify([base, mine, theirs])
      const { session } = threeWayMerge(base, mine, theirs)
      session.new = true
      expect(JSON.stringify([base, mine, theirs])).to.equal(before)
    }))

  it('treats an own __proto__ as an attribute', () => {
    const mine = JSON.parse('{"__proto__": {"isAdmin": true}}') as Session
    const { session } = threeWayMerge({}, mine, { a: 1 })
    expect(JSON.stringify(session)).to.equal('{"a":1,"__proto__":{"isAdmin":true}}')
    expect(session.isAdmin).to.equal(undefined)
    expect(threeWayMerge(mine, {}, mine).session).to.deep.equal({})
  })

  it('ignores the order of an object’s keys', () => {
    const theirs = { user: { id: 1, name: 'bob' } }
    expect(
      threeWayMerge({ user: { id: 1, name: 'ann' } }, { user: { name: 'ann', id: 1 } }, theirs).session,
    ).to.deep.equal(theirs)
  })

  it('merges values nested as deeply as JSON allows', () => {
    const deep = (n: number): Session => JSON.parse(`${'{"a":'.repeat(n)}1${'}'.repeat(n)}`) as Session
    for (const depth of [100, 1_000, 3_000]) {
      const base = { deep: deep(depth), a: 1 }
      const mine = { deep: deep(depth + 1), a: 1, b: 1 }
      const { session, overwritten } = threeWayMerge(base, mine, { ...fromJson(base), a: 2 })
      expect(Object.keys(session)).to.deep.equal(['deep', 'a', 'b'])
      expect([session.a, session.deep === mine.deep, overwritten]).to.deep.equal([2, true, []])
    }
  })
})
