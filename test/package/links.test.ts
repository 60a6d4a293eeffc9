// Checks the links of README.md, CHANGELOG.md and the other pages, as GitHub resolves them, without the network.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { expect } from 'chai'
import { readPage, readPages, repository } from '../helpers/pages.js'

/** The pages besides the documentation. */
const others = ['.', 'examples'].flatMap((folder) =>
  readdirSync(new URL(`${folder}/`, repository), { recursive: folder !== '.', encoding: 'utf8' })
    .filter((path) => path.endsWith('.md'))
    .map((path) => (folder === '.' ? path : `${folder}/${path}`)),
)

const pages = new Map([...readPages(), ...others.map(readPage)].map((page) => [page.path, page]))

function withoutExamples(text: string): string {
  return text.replaceAll(/^( *)```[^\n]*\n.*?^\1```$/gms, '')
}

/** Returns where a page's links lead, as they are written. */
function linksOf(text: string): string[] {
  const prose = withoutExamples(text).replaceAll(/`[^`\n]*`/g, 'code')
  const inline = [...prose.matchAll(/\]\(\s*<?([^)\s>]+)>?[^)]*\)/g)]
  const references = [...prose.matchAll(/^\[[^\]]+\]:\s*(\S+)/gm)]
  return [...inline, ...references].map(([, target = '']) => target)
}

/** Returns the anchors that GitHub gives to a page's headings. */
function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>()
  for (const [, heading = ''] of withoutExamples(text).matchAll(/^#{1,6} +(.*?)[ #]*$/gm)) {
    const title = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    const slug = title
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, '')
      .replaceAll(' ', '-')
    let anchor = slug
    for (let n = 1; anchors.has(anchor); n++) anchor = `${slug}-${n}`
    anchors.add(anchor)
  }
  return anchors
}

/** Returns what is wrong with a relative link. */
function problemWith(target: string, from: string): string | undefined {
  const url = new URL(target, new URL(from, repository))
  if (!url.href.startsWith(repository.href)) return `${target} leaves the repository`
  const path = decodeURIComponent(url.pathname.slice(repository.pathname.length))
  if (!existsSync(new URL(path, repository))) return `${target} doesn't exist`
  if (url.hash === '') return undefined
  const page = pages.get(path)
  if (page === undefined) return `${target} has an anchor, and is no page of the documentation`
  const anchor = decodeURIComponent(url.hash.slice(1))
  return anchorsOf(page.text).has(anchor) ? undefined : `${target}: there is no such heading`
}

const isRelative = (target: string): boolean => !/^[a-z][a-z+.-]*:/i.test(target)

describe('the links', () => {
  for (const { path, text } of pages.values())
    it(`of ${path} lead somewhere`, () => {
      const problems = linksOf(text)
        .filter(isRelative)
        .map((target) => problemWith(target, path))
      expect(problems.filter((problem) => problem !== undefined)).to.deep.equal([])
    })

  it('of docs/index.md lead to every page of the documentation', () => {
    const linked = new Set(
      linksOf(pages.get('docs/index.md')?.text ?? '').map((target) => `docs/${target.replace(/#.*/, '')}`),
    )
    const all = readPages().map(({ path }) => path)
    const missing = all.filter(
      (path) => path.startsWith('docs/') && path !== 'docs/index.md' && !linked.has(path),
    )
    expect(missing).to.deep.equal([])
  })

  it('in comments and messages of the code lead to existing pages', () => {
    const folders = ['lib', 'test', 'bench', 'examples', 'sql', 'bin', '.ci']
    const files = folders.flatMap((folder) =>
      readdirSync(new URL(`${folder}/`, repository), { recursive: true, encoding: 'utf8' })
        .map((path) => `${folder}/${path}`)
        .filter((path) => statSync(new URL(path, repository)).isFile()),
    )
    const named = files.flatMap((path) =>
      [...readFileSync(new URL(path, repository), 'utf8').matchAll(/\bdocs\/[\w/-]+\.\w+/g)].map(
        ([target]) => ({ path, target }),
      ),
    )
    expect(named).not.to.deep.equal([])
    expect(named.filter(({ target }) => !existsSync(new URL(target, repository)))).to.deep.equal([])
  })

  it('are found by this test, broken ones too', () => {
    const text = '[a](b.md) `[c](d.md)` [e](f.md#g "title")\n```\n[h](i.md)\n```\n\n[j]: k.md\n'
    expect(linksOf(text)).to.deep.equal(['b.md', 'f.md#g', 'k.md'])
    expect([...anchorsOf('# `ctx.session`, with [Koa](x)\n## Two\n## Two\n')]).to.deep.equal([
      'ctxsession-with-koa',
      'two',
      'two-1',
    ])
    expect(problemWith('absent.md', 'README.md')).to.equal("absent.md doesn't exist")
    expect(problemWith('../README.md#absent', 'docs/index.md')).to.equal(
      '../README.md#absent: there is no such heading',
    )
    expect(problemWith('../../x', 'docs/index.md')).to.equal('../../x leaves the repository')
  })
})
