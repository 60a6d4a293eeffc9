// npm run bench:copy: what it costs to give each caller its own copy of a cached session.
import v8 from 'node:v8'
import { type MergeBase, MergeBases } from '../../lib/cache/merge-bases.js'
import { clone } from '../../lib/session/json.js'
import { session } from '../support/sessions.js'
import { median } from '../support/statistics.js'

const rounds = 5
const callsPerRound = 300_000
const sessionCount = 5_000

const { padding: _, ...attributes } = session()

// Sessions of several shapes, as in an application.
const texts = Array.from({ length: sessionCount }, (_, n) => {
  const own: Record<string, unknown> = { ...attributes, flash: null, n }
  if (n % 3 === 0) own[`extra${n % 7}`] = n
  if (n % 5 === 0) delete own.flash
  return JSON.stringify(own)
})
const objects = texts.map((text) => JSON.parse(text) as object)
const buffers = objects.map((object) => v8.serialize(object))

function cloneByKeys(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(cloneByKeys)
  const object: Record<string, unknown> = {}
  for (const key in value) object[key] = cloneByKeys(Reflect.get(value, key))
  return object
}

const bases: MergeBase[] = texts.map((text, n) => ({ digest: `${n}`, json: text, version: n }))
const mergeBases = new MergeBases()
const weakMap = new WeakMap<object, MergeBase>()

/** Sessions of one shape. */
const uniformObjects = texts.map(() => JSON.parse(JSON.stringify(session())) as object)

const ways: [string, (n: number) => unknown][] = [
  ['JSON.parse of the text', (n) => JSON.parse(texts[n] as string)],
  ['v8.deserialize', (n) => v8.deserialize(buffers[n] as Buffer)],
  ['structuredClone', (n) => structuredClone(objects[n])],
  ['a clone key by key', (n) => cloneByKeys(objects[n])],
  ['a clone (clone() in lib/session/json.ts)', (n) => clone(objects[n] as object)],
  // The same, with the merge base, as every get does.
  ...(
    [
      ['', objects],
      [' (sessions of one shape)', uniformObjects],
    ] as const
  ).flatMap(([label, objects]): [string, (n: number) => unknown][] => [
    [
      `… with its merge base in a private field (lib/cache/merge-bases.ts)${label}`,
      (n) => {
        const own = clone(objects[n] as object)
        mergeBases.remember(own, bases[n] as MergeBase)
        return own
      },
    ],
    [
      `… with its merge base in a WeakMap${label}`,
      (n) => {
        const own = clone(objects[n] as object)
        weakMap.set(own, bases[n] as MergeBase)
        return own
      },
    ],
  ]),
]
const results = new Map<string, number[]>(ways.map(([name]) => [name, []]))
for (let round = 0; round <= rounds; round++)
  for (const [name, way] of ways) {
    const start = performance.now()
    for (let i = 0; i < callsPerRound; i++) way(i % texts.length)
    // The first round warms up.
    if (round > 0) results.get(name)?.push(((performance.now() - start) / callsPerRound) * 1e6)
  }
const baseNs = median(results.get('JSON.parse of the text') ?? [])
console.log(`sessions of ${texts[0]?.length} characters, medians of ${rounds} rounds`)
for (const [name, list] of results) {
  const ns = median(list)
  console.log(`${name.padEnd(88)} ${ns.toFixed(0).padStart(6)} ns ${(baseNs / ns).toFixed(1).padStart(5)} ×`)
}
