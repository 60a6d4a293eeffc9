// What a bench leaves behind: files beside its source, and the machine that the figures are of.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Database } from '../support/database.js'

export interface Environment {
  readonly date: string
  readonly node: string
  readonly postgres: string
  readonly cpu: string
  readonly cores: number
}

export function environment(database: Database): Environment {
  return {
    date: new Date().toISOString(),
    node: process.versions.node,
    postgres: database.version,
    cpu: cpus()[0]?.model.trim() ?? '',
    cores: cpus().length,
  }
}

/** Beside the source, not beside what was compiled from it. */
export async function save(file: string, text: string): Promise<void> {
  const folder = fileURLToPath(new URL('../../../bench/results/', import.meta.url))
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}${file}`, text)
}

/** Between the README's marks. */
export async function intoReadme(text: string): Promise<void> {
  const readme = fileURLToPath(new URL('../../../README.md', import.meta.url))
  const marks = /(<!-- Made by npm run bench -->\n).*?(<!-- until here -->)/s
  await writeFile(readme, (await readFile(readme, 'utf8')).replace(marks, `$1\n${text}\n\n$2`))
}

/** Five digits of each number, and a list of numbers on one line. */
export function json(results: object): string {
  const text = JSON.stringify(
    results,
    (_, value) => (typeof value === 'number' ? Number(value.toPrecision(5)) : value),
    2,
  )
  return `${text.replace(/\[[\s\d.,]+\]/g, (list) => list.replace(/\s+/g, ' ').replace('[ ', '[').replace(' ]', ']'))}\n`
}
