// What a check of koa-pg-store doctor is given, and what it returns.
import type { Connection } from '../../postgres/connection.js'
import type { Table } from '../../schema/table.js'
import type { PgStoreOptions } from '../../types/options.js'
import type { Settings } from '../../types/settings.js'

export interface Finding {
  readonly check: string
  readonly status: 'ok' | 'note' | 'problem'
  readonly message: string
  /** What to do. */
  readonly advice?: string
}

/** What is checked. */
export interface Subject {
  readonly connection: Connection
  readonly settings: Settings
  /** The application's option `listen`, if it has one. */
  readonly listen: PgStoreOptions['listen']
  /** Whether the settings are those of the application. */
  readonly hasConfig: boolean
}

export type Check = (subject: Subject) => Promise<Finding[]>
export type TableCheck = (subject: Subject, table: Table) => Promise<Finding[]>

/** What PostgreSQL says of a table's rows and of the vacuuming of them. */
export interface VacuumState {
  readonly isOn: boolean
  readonly isOffForTable: boolean
  readonly deadRows: number
  readonly liveRows: number
  readonly tableBytes: number
  readonly lastVacuumAgoMs: number | null
}

export function ok(check: string, message: string): Finding {
  return { check, status: 'ok', message }
}

export function note(check: string, message: string, advice?: string): Finding {
  return { check, status: 'note', message, ...(advice !== undefined && { advice }) }
}

export function problem(check: string, message: string, advice?: string): Finding {
  return { ...note(check, message, advice), status: 'problem' }
}
