// Runs a test with a copy of lib/ that lacks some lines, to show that the test finds what they prevent.
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { expect } from 'chai'

/** `lines`: what to remove, by the compiled file. Calls `run` with the URL of the copy's index.js. */
export async function withoutLines(
  lines: Record<string, string | string[]>,
  run: (library: string) => Promise<void>,
): Promise<void> {
  const copy = new URL(`../../faulty-${process.pid}/`, import.meta.url)
  cpSync(new URL('../../lib/', import.meta.url), copy, { recursive: true })
  try {
    for (const [file, line] of Object.entries(lines).flatMap(([file, removed]) =>
      [removed].flat().map((line) => [file, line] as const),
    )) {
      const path = new URL(file, copy)
      const text = readFileSync(path, 'utf8')
      expect(text, `${file} has the line to remove`).to.include(line)
      writeFileSync(path, text.replace(line, line.endsWith(';') ? ';' : ''))
    }
    await run(new URL('index.js', copy).href)
  } finally {
    rmSync(copy, { recursive: true })
  }
}

/** What `withoutLines` removes so that changes are acknowledged before they are flushed. */
export const flushLines = {
  'repository/committer.js': '.query(this.statements.flush)',
  'repository/flush-sql.js': `pg_logical_emit_message(true, 'koa-pg-store', '') is not null and `,
}
