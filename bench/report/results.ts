// What a run of npm run bench measures, as it is saved in bench/results/latest.json.
import type { Operation } from '../comparison/adapter.js'

/** The machine and the versions that the figures are of. */
export interface Environment {
  readonly date: string
  readonly node: string
  readonly postgres: string
  readonly cpu: string
  readonly cores: number
}

/** How long a measurement takes, and how often it is repeated. */
export interface Plan {
  readonly seconds: number
  readonly rounds: number
}

/** A rate in operations per second: the median of the rounds, and each round. */
export interface Rate {
  readonly perSecond: number
  readonly rounds: readonly number[]
}

/** Microseconds for each call. */
interface ProcessorTime {
  readonly node: number
  /** That of PostgreSQL's processes or Redis. */
  readonly server: number
}

export interface OperationFigure extends Rate {
  readonly peer: string
  readonly kind: string
  readonly operation: Operation
  readonly callers: number
  /** The median of the rounds. */
  readonly processorTime: ProcessorTime
}

/** Sessions per second of one of the store's statements, run by pgbench. */
export interface StatementFigure extends Rate {
  readonly statement: string
  readonly connections: number
}

export type Traffic = 'read-only' | 'nine reads to one change'

/** Koa requests per second. */
export interface RequestFigure extends Rate {
  readonly store: string
  readonly traffic: Traffic
  /** The application's processor time for each, in µs. */
  readonly nodeUs: number
}

/** Rows written by read-only requests if sessions are `rolling`. */
export interface RollingFigure {
  readonly store: string
  readonly requests: number
  readonly rowWrites: number
}

export interface Ratio {
  readonly what: string
  readonly target: number
  /** Whether the target is a lower or an upper bound. */
  readonly bound: 'min' | 'max'
  /** Absent if one of the two figures wasn't measured. */
  readonly value?: number
}

export interface Results extends Plan, Environment {
  readonly redis: string
  /** The peers that could not be measured, and what to install. */
  readonly skipped: readonly string[]
  readonly figures: readonly OperationFigure[]
  readonly statements: readonly StatementFigure[]
  readonly requests: readonly RequestFigure[]
  readonly rolling: readonly RollingFigure[]
  readonly ratios: readonly Ratio[]
}
