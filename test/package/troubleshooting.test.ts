// docs/troubleshooting.md explains every code of an error or warning, and every message that says what is wrong.
import { readdirSync, readFileSync } from 'node:fs'
import { expect } from 'chai'

const root = new URL('../../../', import.meta.url)
const page = readFileSync(new URL('docs/troubleshooting.md', root), 'utf8')
const files = readdirSync(new URL('lib/', root), { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts') && !path.startsWith('cli/'))
  .map((path) => ({ path, text: readFileSync(new URL(`lib/${path}`, root), 'utf8') }))

/** A message: what follows the constructor of an error or warning, or is a part of one that is joined later. */
const message = new RegExp(
  [
    /(?:new (?:\w*(?:Setup|Decode|Encode|Conflict|Database)Error|Error)\(|(?:list\.push|notes\.push|refuse)\(|\bended: )/,
    /\s*(?:'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`)/,
  ]
    .map(({ source }) => source)
    .join(''),
  'gs',
)

/** Returns the parts of a message between values and punctuation, except those that are too short to be searched for. */
function piecesOf(text: string): string[] {
  return text
    .split(/\$\{(?:[^{}]|\{[^{}]*\})*\}|[:;,()]|\$\{.*/)
    .map((piece) => piece.trim().replace(/[.]$/, ''))
    .filter((piece) => piece.length > 8)
}

describe('docs/troubleshooting.md', () => {
  it('has a section for each code of an error or warning', () => {
    const codes = new Set(
      files.flatMap(({ text }) => text.match(/'(?:KOA_PG_STORE|ERR_SESSION)_[A-Z_]+'/g) ?? []),
    )
    expect(codes.size).to.be.at.least(20)
    const sections = new Set([...page.matchAll(/^### `(.*)`$/gm)].map(([, code]) => `'${code}'`))
    expect([...codes].filter((code) => !sections.has(code))).to.deep.equal([])
    // And none that no longer exists.
    expect([...sections].filter((code) => !codes.has(code))).to.deep.equal([])
  })

  it('quotes each message', () => {
    const quoted = page.replace(/\s+/g, ' ')
    const messages = files.flatMap(({ text }) =>
      [...text.matchAll(message)].map(([, one, two, three]) => piecesOf(one ?? two ?? three ?? '')),
    )
    expect(messages.filter((pieces) => pieces.length > 0).length).to.be.above(60)
    const isMissing = (pieces: string[]): boolean =>
      pieces.length > 0 && !pieces.some((piece) => quoted.includes(piece))
    expect(messages.filter(isMissing)).to.deep.equal([])
  })
})
