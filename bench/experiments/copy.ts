// How a cached session becomes an object of the caller's own: what each way costs. npm run bench:copy
import v8 from 'node:v8'
import { type MergeBase, MergeBases } from '../../lib/cache/merge-bases.js'
import { clone } from '../../lib/session/json.js'
import { session as other } from '../support/sessions.js'

const session = {
  cookie: { httpOnly: true, path: '/', overwrite: true, signed: true, maxAge: 86_400_000 },
  user: { id: 'u-123456', name: 'Ann Example', email: 'ann@example.com', roles: ['admin', 'editor'] },
  cart: [
    { sku: 'A-100', n: 1 },
    { sku: 'B-200', n: 3 },
  ],
  csrf: 'Zk3v9Qm1x7T0b2N5c8L4',
  locale: 'en-GB',
  visits: 17,
  lastPage: '/products/42?ref=mail',
  flash: null,
}

// Many sessions of several shapes, as an application has them.
const texts = Array.from({ length: 5_000 }, (_, n) => {
  const own: Record<string, unknown> = { ...session, n }
  if (n % 3 === 0) own[`extra${n % 7}`] = n
  if (n % 5 === 0) delete own.flash
  return JSON.stringify(own)
})
const objects = texts.map((text) => JSON.parse(text) as object)
const buffers = objects.map((object) => v8.serialize(object))

function deep(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(deep)
  const object: Record<string, unknown> = {}
  for (const key in value) object[key] = deep(Reflect.get(value, key))
  return object
}

const known: MergeBase[] = texts.map((text, n) => ({ digest: `${n}`, json: text, version: n }))
const weak = new MergeBases()

/** All of one shape: another than the others'. */
const alike = texts.map(() => JSON.parse(JSON.stringify(other())) as object)

class Given {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: so that a subclass puts its private field into this object.
    return object
  }
}

class Stamped extends Given {
  readonly #base: MergeBase
  constructor(session: object, base: MergeBase) {
    super(session)
    this.#base = base
  }
  static base(session: object): MergeBase | undefined {
    return #base in session ? session.#base : undefined
  }
}

const ways: [string, (n: number) => unknown][] = [
  ['JSON.parse of the text', (n) => JSON.parse(texts[n] as string)],
  ['v8.deserialize', (n) => v8.deserialize(buffers[n] as Buffer)],
  ['structuredClone', (n) => structuredClone(objects[n])],
  ['a copy key by key', (n) => deep(objects[n])],
  ['a copy by spread (copy in lib/record.ts)', (n) => clone(objects[n] as object)],
  // That and what it came from, as every get does.
  ...(
    [
      ['', objects],
      [' (sessions of one shape)', alike],
    ] as const
  ).flatMap(([which, objects]): [string, (n: number) => unknown][] => [
    [
      `… and its base in a WeakMap (lib/loaded.ts)${which}`,
      (n) => {
        const own = clone(objects[n] as object)
        weak.remember(own, known[n] as MergeBase)
        return own
      },
    ],
    [
      `… and its base in a private field${which}`,
      (n) => Stamped.base(new Stamped(clone(objects[n] as object), known[n] as MergeBase)),
    ],
  ]),
]
const rounds = 5
const each = 300_000
const results = new Map<string, number[]>(ways.map(([name]) => [name, []]))
for (let round = 0; round <= rounds; round++)
  for (const [name, way] of ways) {
    const start = performance.now()
    for (let i = 0; i < each; i++) way(i % texts.length)
    // The first round warms up.
    if (round > 0) results.get(name)?.push(((performance.now() - start) / each) * 1e6)
  }
const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1] as number
const base = median(results.get('JSON.parse of the text') ?? [])
console.log(`sessions of ${texts[0]?.length} characters, medians of ${rounds} rounds`)
for (const [name, list] of results) {
  const ns = median(list)
  console.log(`${name.padEnd(72)} ${ns.toFixed(0).padStart(6)} ns ${(base / ns).toFixed(1).padStart(5)} ×`)
}
