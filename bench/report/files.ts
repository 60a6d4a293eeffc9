// Writes what a bench has measured to bench/results/ and into the documents.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Database } from '../support/database.js'
import type { Environment } from './results.js'

/** The repository's folder, seen from the compiled file in build/bench/report/. */
const root = new URL('../../../', import.meta.url)

export function environment(database: Pick<Database, 'version'>): Environment {
  return {
    date: new Date().toISOString(),
    node: process.versions.node,
    postgres: database.version,
    cpu: cpus()[0]?.model.trim() ?? '',
    cores: cpus().length,
  }
}

/** Writes a file of bench/results/. */
export async function saveText(file: string, text: string): Promise<void> {
  const folder = fileURLToPath(new URL('bench/results/', root))
  await mkdir(folder, { recursive: true })
  await writeFile(`${folder}${file}`, text)
}

/** Writes a file of bench/results/, with five digits of each number, and a list of numbers on one line. */
export async function saveJson(file: string, results: object): Promise<void> {
  const text = JSON.stringify(
    results,
    (_, value) => (typeof value === 'number' ? Number(value.toPrecision(5)) : value),
    2,
  )
  const onOneLine = (list: string): string => list.replace(/\s+/g, ' ').replace('[ ', '[').replace(' ]', ']')
  await saveText(file, `${text.replace(/\[[\s\d.,]+\]/g, onOneLine)}\n`)
}

/** Replaces what stands between the two comments in a document. */
export async function saveTo(document: string, text: string): Promise<void> {
  const path = fileURLToPath(new URL(document, root))
  const generated = /(<!-- Made by npm run bench -->\n).*?(<!-- until here -->)/s
  await writeFile(path, (await readFile(path, 'utf8')).replace(generated, `$1\n${text}\n\n$2`))
}
