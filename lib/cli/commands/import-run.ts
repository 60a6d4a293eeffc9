// Reads a source to its end and inserts its sessions, a batch at a time.
import { isStatementError } from '../../postgres/connection.js'
import type { ImportedSession, SessionImporter } from '../../repository/session-importer.js'
import { EncodeError } from '../../types/errors.js'
import { messageOf } from '../../util/driver-errors.js'
import { type ParseOptions, parseRow } from '../sources/parse.js'
import type { Source, SourceRow } from '../sources/source.js'
import { number, type Terminal } from '../terminal.js'

/** How many different reasons why sessions can't be imported are printed. */
const maxCauses = 5

/** One run: reads the source to its end, or until a signal. */
export class ImportRun {
  /** `existing` were in the table already, or were destroyed there within the last hour. */
  readonly counts = { read: 0, imported: 0, existing: 0, expired: 0, invalid: 0 }
  readonly causes = new Set<string>()
  isInterrupted = false
  readonly #source: Source
  readonly #importer: SessionImporter
  readonly #options: ParseOptions
  readonly #terminal: Terminal

  constructor(source: Source, importer: SessionImporter, options: ParseOptions, terminal: Terminal) {
    this.#source = source
    this.#importer = importer
    this.#options = options
    this.#terminal = terminal
  }

  async run(isDryRun: boolean, isMove: boolean): Promise<void> {
    const onSignal = (): void => {
      this.isInterrupted = true
    }
    process.once('SIGTERM', onSignal).once('SIGINT', onSignal)
    try {
      for await (const { rows, done } of this.#source.read()) {
        const handledKeys = await this.#importBatch(rows, isDryRun)
        if (isMove && handledKeys.length > 0) await this.#source.remove?.(handledKeys)
        this.#terminal.progress(done, `${number(this.counts.imported)} imported`)
        if (this.isInterrupted) return
      }
    } catch (error) {
      const { imported } = this.counts
      throw new Error(`${messageOf(error)}; ${number(imported)} were imported: run it again to continue`, {
        cause: error,
      })
    } finally {
      process.off('SIGTERM', onSignal).off('SIGINT', onSignal)
    }
  }

  /** Resolves with the keys of the sessions that are in the table now. */
  async #importBatch(rows: readonly SourceRow[], isDryRun: boolean): Promise<string[]> {
    this.counts.read += rows.length
    const sessions = new Map<string, ImportedSession>()
    for (const row of rows) {
      try {
        const session = parseRow(row, this.#options)
        if (Number(session.expires) > (session.expires instanceof Date ? Date.now() : 0))
          sessions.set(row.key, session)
        else this.counts.expired++
      } catch (error) {
        const place = this.#options.format === 'jsonl' ? `${row.key}: ` : ''
        this.#addInvalid(`${place}${messageOf(error)}`)
      }
    }
    if (sessions.size === 0) return []
    if (!isDryRun) return this.#insert(sessions)
    this.#count(sessions.size, await this.#importer.findInsertable([...sessions.values()]))
    return []
  }

  /** Inserts sessions together, or one by one if one of them prevents that. */
  async #insert(sessions: ReadonlyMap<string, ImportedSession>): Promise<string[]> {
    try {
      this.#count(sessions.size, await this.#importer.insert([...sessions.values()]))
      return [...sessions.keys()]
    } catch (error) {
      if (!(error instanceof EncodeError) && !isStatementError(error)) throw error
      if (sessions.size === 1) {
        this.#addInvalid(messageOf(error))
        return []
      }
      const keys: string[] = []
      for (const entry of sessions) keys.push(...(await this.#insert(new Map([entry]))))
      return keys
    }
  }

  #count(size: number, inserted: ReadonlySet<string>): void {
    this.counts.imported += inserted.size
    this.counts.existing += size - inserted.size
  }

  #addInvalid(cause: string): void {
    this.counts.invalid++
    if (this.causes.size < maxCauses) this.causes.add(cause)
  }

  print(name: string, isDryRun: boolean): void {
    const { imported, existing, expired, invalid } = this.counts
    const sessions = imported === 1 ? '1 session' : `${number(imported)} sessions`
    const verb = isDryRun ? 'would be' : imported === 1 ? 'was' : 'were'
    this.#terminal.line(`${sessions} ${verb} imported into ${name}.`)
    if (existing > 0) this.#terminal.line(`${number(existing)} already there were left as they are.`)
    if (expired > 0) this.#terminal.line(`${number(expired)} had expired.`)
    if (invalid > 0)
      this.#terminal.note(`${number(invalid)} could not be imported: ${[...this.causes].join('; ')}.`)
    if (this.isInterrupted) this.#terminal.note('Interrupted: run it again to continue.')
  }
}
