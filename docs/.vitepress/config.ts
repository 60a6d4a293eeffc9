// The site of the documentation. Its pages are the files of docs/, which GitHub shows as well; docs/index.md is the contents.
import { cpSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitepress'

const read = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8')
const { repository } = JSON.parse(read('../../package.json')) as { repository?: string | { url: string } }
const repositoryUrl = (typeof repository === 'string' ? repository : repository?.url)
  ?.replace(/^git\+/, '')
  .replace(/\.git$/, '')

/** The anchors that GitHub gives to headings, so that links to them work in both places. */
function slugify(title: string): string {
  return title
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, '')
    .replaceAll(' ', '-')
}

/** Makes a sidebar of a page of contents: its headings are the groups, and their lists the links. */
function sidebar(page: string): { text: string; items: { text: string; link: string }[] }[] {
  const [, ...groups] = read(`..${page}index.md`).split(/^## /m)
  return groups.map((group) => ({
    text: group.split('\n')[0] ?? '',
    items: [...group.matchAll(/^- \[(.+?)\]\((.+?)\.md\)/gm)].map(([, text = '', path]) => ({
      text,
      link: `${page}${path}`,
    })),
  }))
}

const pages = sidebar('/')
pages.find(({ text }) => text === 'Reference')?.items.push({ text: 'API', link: '/reference/api/' })

export default defineConfig({
  title: 'koa-pg-store',
  description: 'PostgreSQL session store for Koa',
  lang: 'en',
  // The site may be served from a folder: DOCS_BASE=/koa-pg-store/ npm run docs:build
  base: process.env.DOCS_BASE ?? '/',
  cleanUrls: true,
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    nav: [
      { text: 'Guides', link: '/guides/middlewares', activeMatch: '^/guides/' },
      { text: 'Options', link: '/reference/options' },
      { text: 'Methods', link: '/reference/methods' },
      { text: 'API', link: '/reference/api/', activeMatch: '^/reference/api/' },
    ],
    sidebar: { '/': pages, '/reference/api/': sidebar('/reference/api/') },
    ...(repositoryUrl && { socialLinks: [{ icon: 'github', link: repositoryUrl }] }),
  },
  buildEnd({ outDir }) {
    const dashboard = 'guides/grafana-dashboard.json'
    cpSync(fileURLToPath(new URL(`../${dashboard}`, import.meta.url)), join(outDir, dashboard))
  },
  markdown: {
    anchor: { slugify },
    config(md) {
      // Links that leave docs/ lead to the repository; if package.json doesn't name it, only their text is shown.
      md.core.ruler.push('repository-links', ({ tokens, env }) => {
        for (const token of tokens) {
          const open: (typeof tokens)[number][] = []
          for (const child of token.children ?? []) {
            if (child.type === 'link_open') open.push(child)
            if (child.type !== 'link_close') continue
            const link = open.pop()
            const path = posix.join(posix.dirname(env.relativePath as string), link?.attrGet('href') ?? '')
            if (!path.startsWith('../')) continue
            if (repositoryUrl) link?.attrSet('href', `${repositoryUrl}/blob/main/${path.slice(3)}`)
            else
              for (const end of [link, child])
                if (end) Object.assign(end, { type: 'text', tag: '', content: '' })
          }
        }
      })
    },
  },
})
