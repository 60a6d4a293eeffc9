// docs/internals/guarantees.md names tests for each guarantee, and the glossary names code: they exist.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { expect } from 'chai'

const root = new URL('../../../', import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8')

/** Returns what stands between backquotes. */
const namesIn = (text: string): string[] => [...text.matchAll(/`([^`\n]+)`/g)].map(([, name = '']) => name)

describe('docs/internals/', () => {
  it('names tests for each guarantee, which exist', () => {
    const page = read('docs/internals/guarantees.md')
    const guarantees = page.split(/^(?=\d+\. \*\*)/m).slice(1)
    expect(guarantees.map((text) => Number.parseInt(text, 10))).to.deep.equal(guarantees.map((_, n) => n + 1))
    expect(guarantees.length).to.be.at.least(17)
    for (const text of guarantees) expect(text, text.slice(0, 40)).to.match(/^ +- `test\/\S+\.ts`/m)
    const paths = namesIn(page).filter((name) => name.startsWith('test/'))
    expect(paths.filter((path) => !existsSync(new URL(path, root)))).to.deep.equal([])
  })

  it('names all tests of test/guarantees/', () => {
    const page = read('docs/internals/guarantees.md')
    const files = readdirSync(new URL('test/guarantees/', root)).filter((file) => file.endsWith('.test.ts'))
    expect(files.filter((file) => !page.includes(`test/guarantees/${file}`))).to.deep.equal([])
  })

  it('has a glossary that uses the words of the code', () => {
    const paths = readdirSync(new URL('lib/', root), { recursive: true, encoding: 'utf8' })
    const code = paths.filter((path) => path.endsWith('.ts')).map((path) => read(`lib/${path}`))
    const known = [...code, ...paths].join('\n')
    const rows = read('docs/internals/glossary.md').matchAll(/^\|.*\|(.*)\|$/gm)
    const words = [...rows].flatMap(([, names = '']) => namesIn(names))
    expect(words.length).to.be.above(50)
    expect(words.filter((word) => !known.includes(word.replace(/\(\)$/, '')))).to.deep.equal([])
  })
})
