// Writes lib/schema/sql.ts from the numbered files, so that the built package, bundled or not, carries the same statements.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'

const folder = new URL('./', import.meta.url)
const entries = readdirSync(folder)
  .filter((name) => name.endsWith('.sql'))
  .sort()
  .map((name) => {
    const statements = readFileSync(new URL(name, folder), 'utf8')
      .replace(/^--.*\n/gm, '')
      .trim()
    return `  '${name.slice(0, -'.sql'.length)}': ${JSON.stringify(statements)},\n`
  })
const text = `// Made from sql/ by \`npm run build\`; change it there.\nexport const sql = {\n${entries.join('')}} as const\n`
const target = new URL('../lib/schema/sql.ts', import.meta.url)
let current
try {
  current = readFileSync(target, 'utf8')
} catch {}
if (current !== text) writeFileSync(target, text)
