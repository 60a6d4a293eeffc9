// Finds the pages of the documentation and the examples in them.
import { readdirSync, readFileSync } from 'node:fs'

export interface Example {
  /** The language and what follows it: `js`, `js cjs`, `ts`, `ts cts`, `sh`, … */
  readonly language: string
  readonly code: string
  /** The line of the page on which it begins. */
  readonly line: number
}

export interface Page {
  /** Its path in the repository, with slashes. */
  readonly path: string
  readonly text: string
  readonly examples: readonly Example[]
}

export const repository = new URL('../../../', import.meta.url)

/** Returns README.md and all pages in docs/. */
export function readPages(): Page[] {
  const inDocs = readdirSync(new URL('docs/', repository), { recursive: true, encoding: 'utf8' })
    .map((path) => `docs/${path.replaceAll('\\', '/')}`)
    // What npm has installed there, and the API reference, which is generated.
    .filter((path) => path.endsWith('.md') && !/\/(node_modules|\.vitepress|reference\/api)\//.test(path))
    .sort()
  return ['README.md', ...inDocs].map(readPage)
}

export function readPage(path: string): Page {
  const text = readFileSync(new URL(path, repository), 'utf8')
  return { path, text, examples: examplesOf(text) }
}

/** Returns the fenced blocks of a page, also those of a list item, without its indentation. */
function examplesOf(text: string): Example[] {
  return [...text.matchAll(/^( *)```([^`\n]*)\n(.*?)^\1```$/gms)].map((match) => {
    const [, indent = '', language = '', code = ''] = match
    return {
      language: language.trim(),
      code: code.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
      line: text.slice(0, match.index).split('\n').length,
    }
  })
}

/** Returns how many blocks of JavaScript and TypeScript a page has, in whatever way they are written. */
export function countPrograms({ text }: Page): number {
  const fence = /^[ >]*(?:```|~~~)\s*\{?(?:[cm]?js|jsx|javascript|[cm]?ts|tsx|typescript)\b/gim
  return [...text.matchAll(fence)].length
}
